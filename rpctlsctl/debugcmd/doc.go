// SPDX-License-Identifier: BSD-3-Clause

// Package debugcmd is "rpctlsctl debug": what is for the hour in which nothing else
// helps. Its one command, keylog, writes the TLS secrets of new connections into a
// file, so that Wireshark can decrypt what was captured.
package debugcmd
