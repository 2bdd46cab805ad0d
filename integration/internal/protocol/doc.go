// SPDX-License-Identifier: BSD-3-Clause

// Package protocol is what the host and its guest must agree on: where things
// lie, how the devices are called, and the two JSON documents that travel.
package protocol
