// SPDX-License-Identifier: BSD-3-Clause

// Package halfopen decides how long a server waits for a client that has asked
// for TLS and says nothing.
//
// While it waits, one of nfsd's threads does nothing else (svc_tcp_handshake in
// net/sunrpc/svcsock.c), so a few silent clients can keep everybody out. A real
// client speaks within a round trip, but a slow one, or one of a thousand that
// come back at once, must not be mistaken for a silent one. So patience depends
// on two things: how many of the threads are taken, and what the address, its
// network and everybody have done lately.
package halfopen
