// SPDX-License-Identifier: BSD-3-Clause

// Package upcall speaks the Linux kernel's generic netlink family "handshake"
// (Documentation/netlink/specs/handshake.yaml, net/handshake), by which the
// kernel asks user space for a TLS handshake on a socket it has connected or
// accepted.
//
// A [Listener] joins the multicast group "tlshd", takes requests with ACCEPT
// and gives each to a handler as a [Request]. A request owns a descriptor of
// the kernel's socket and ends in exactly one DONE, whatever the handler does:
// [Request.Done] sends it, and if the handler returns or panics without it,
// the listener does.
//
// What the kernel does not tell, and this package therefore works around:
//
//   - READY names no request, so the listener asks until the kernel says
//     EAGAIN: at start, on every READY, and when its receive buffer has
//     overflowed.
//   - ACCEPT cannot ask for a role. A request for the other role is either
//     given to a sibling process ([Request.HandOver], [Listener.Adopt]) or
//     answered with an error.
//   - The kernel gives up on a request 5 s (server) or 10 s (client) after it
//     was submitted, and nothing says when that was. [Request.Deadline] counts
//     from the moment READY was seen and keeps a second in reserve.
//
// All numbers of the family live in this package.
package upcall
