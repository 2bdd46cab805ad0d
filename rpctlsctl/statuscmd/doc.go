// SPDX-License-Identifier: BSD-3-Clause

// Package statuscmd is "rpctlsctl status" and "rpctlsctl history": what the two
// daemons of this host say of themselves and of the latest handshakes.
package statuscmd
