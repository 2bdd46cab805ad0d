// SPDX-License-Identifier: BSD-3-Clause

// Package ktls opens TLS sessions with crypto/tls and lets the Linux kernel
// carry them (Documentation/networking/tls.rst).
//
// # For programs: Conn
//
// A [Conn] is a [net.Conn] like a *tls.Conn. [Client] and [Server] make one of a
// connection, [Dial], [Dialer] and [NewListener] with the connection; the last
// two fit net/http:
//
//	l, err := net.Listen("tcp", ":443")
//	http.Serve(ktls.NewListener(l, tlsConfig), handler)
//
//	dialer := &ktls.Dialer{Config: tlsConfig}
//	client := &http.Client{Transport: &http.Transport{DialTLSContext: dialer.DialContext}}
//
// After the handshake the kernel encrypts and decrypts, if it can: TLS 1.3 and
// 1.2 with AES-128-GCM, AES-256-GCM and ChaCha20-Poly1305, on a *[net.TCPConn].
// Everything else that crypto/tls can do goes on in user space: without the
// kernel's module, with another cipher, over another kind of connection, with
// Multipath TCP (which [net.ListenConfig] turns on by itself, and which the kernel
// replaces by plain TCP for every peer that does not ask for it), or on another
// operating system. [Conn.Offload] says what became of it and why, and
// [RequireOffload] makes it an error. [Probe] says what the kernel can do.
//
// What it is good for: [Conn.ReadFrom], by which io.Copy sends files without
// bringing them into the process (sendfile), and [Conn.SyscallConn], a socket
// that other ways of input and output can use, such as io_uring.
//
// # After the handshake
//
// The kernel hands over what is not data, and a Conn deals with it in Read, in
// the order in which it arrived. Session tickets go to the configuration's
// ClientSessionCache by way of crypto/tls. An alert ends reading: close_notify
// with [io.EOF], another with an *[AlertError]. A connection that ends without
// close_notify gives [io.ErrUnexpectedEOF], see [TolerateTruncation].
//
// Keys are replaced (KeyUpdate) when the peer says so, when [Conn.UpdateKeys] is
// called, and before AES-GCM has encrypted 2^24.5 records, about 380 GB of data
// in full ones. A kernel has to be able to follow (Linux 6.14). Where it is not,
// a KeyUpdate of the peer ends reading with [ErrRekey], and so much data ends
// writing with [ErrKeyLimit]; the second holds for TLS 1.2 everywhere. Peers
// that update keys are rare, but programs that want them on older kernels can
// use [NoOffload].
//
// # Why no byte is lost
//
// Linux cannot take bytes back into a TCP receive queue, so none is taken too
// early: crypto/tls reads through a connection that ends at every record, and
// the handshake ends at the peer's Finished. Whatever follows it, the first
// request or a session ticket, stays queued and is the first thing the kernel
// decrypts. What crypto/tls holds nevertheless, were it ever to read more, is
// asked of it before the kernel takes over, and delivered first.
//
// # Sequence numbers
//
// The kernel must go on with the number of the next record in each direction,
// or nothing can be decrypted any more; with AES-GCM in TLS 1.2 a number that
// came before would moreover be a nonce that is used twice. In TLS 1.3 what is
// received begins at 0, and what is sent at the number of session tickets that
// crypto/tls has sent: every record that leaves is tried with the new key, and
// is one of them if the key and the next number open it. In TLS 1.2 each side's
// Finished was number 0; what is behind ChangeCipherSpec is counted, and the
// nonces that crypto/tls used are looked at.
//
// # For daemons: Handshake
//
// A session for a socket that belongs to somebody else, such as the kernel's NFS
// client, is made in three steps, each one call; it is TLS 1.3:
//
//	session, err := ktls.Handshake(sock, ktls.RoleClient, tlsConfig, ktls.Options{...})
//	defer session.Wipe()
//	alert, err := session.LateAlert(sock, wait) // clients with a certificate only
//	err = session.Install(sock)
//
// After Install the socket carries application data: whoever reads from it
// reads plaintext and whoever writes to it writes plaintext, in this process
// or, for a socket that belongs to the kernel, in none. Nothing is sent after
// Finished, so that both sequence numbers are 0: session tickets are off whatever
// the caller's configuration says.
//
// # Secrets
//
// A [Session] holds the two application traffic secrets from the end of the
// handshake until [Session.Wipe]. A [Conn] holds a direction's secret as long as
// its keys may be replaced, and at most until Close. They are never part of an
// error or of a String method. Whoever has the socket's descriptor can ask the
// kernel for the keys (getsockopt).
//
// A server's session tickets of TLS 1.2, and a client's cached sessions, hold the
// master secret once more as an Extra of [tls.SessionState], because crypto/tls
// does not reveal it when such a session is resumed; it is encrypted or kept
// like the rest of the session.
package ktls
