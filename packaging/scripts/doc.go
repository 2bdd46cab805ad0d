// SPDX-License-Identifier: BSD-3-Clause

// Package scripts holds the scripts that set up a host, which are not Go, and
// tests that run them as root would, on a host that is made up for each.
package scripts
