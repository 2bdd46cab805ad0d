// SPDX-License-Identifier: BSD-3-Clause

// Package ktls opens a TLS 1.3 session with crypto/tls and moves it into the
// Linux kernel (Documentation/networking/tls.rst).
//
// A session is made in three steps, each one call:
//
//	session, err := ktls.Handshake(sock, ktls.RoleClient, tlsConfig, ktls.Options{...})
//	defer session.Wipe()
//	alert, err := session.LateAlert(sock, wait) // clients with a certificate only
//	err = session.Install(sock)
//
// After Install the socket carries application data: whoever reads from it
// reads plaintext and whoever writes to it writes plaintext, in this process
// or, for a socket that belongs to the kernel, in none.
//
// # Why no byte is lost
//
// Linux cannot take bytes back into a TCP receive queue, so none is taken too
// early: crypto/tls reads through a connection that ends at every record, and
// the handshake ends at the peer's Finished. Whatever follows it, the first
// request or a session ticket, stays queued and is the first thing the kernel
// decrypts. Both sequence numbers are therefore those of the first record
// under the application keys: 0 for what is received, and 0 for what is sent
// as long as nothing is sent after Finished, which is why session tickets are
// off whatever the caller's configuration says.
//
// # Secrets
//
// A [Session] holds the two application traffic secrets from the end of the
// handshake until [Session.Wipe]. They are never part of an error or of a
// String method.
package ktls
