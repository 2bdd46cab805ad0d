// SPDX-License-Identifier: BSD-3-Clause

// Package keylog gives the TLS secrets of a daemon's handshakes to root, for a
// while, so that Wireshark can decrypt what was captured: in the NSS key log format
// (RFC 9850 section 2).
//
// It is off unless root has asked for it on the control socket, and for as long as
// that connection lives and the time that was asked for: a daemon that starts has
// it off. Secrets are in a buffer of fixed size until root's tool fetches them,
// which wipes it. The daemon writes none of them anywhere.
package keylog
