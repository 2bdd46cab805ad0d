// SPDX-License-Identifier: BSD-3-Clause

// Package sparing decides which of many like events are worth a line of the
// log each, and counts the others: whoever can make a handshake fail must not
// be able to fill a disk with it.
package sparing
