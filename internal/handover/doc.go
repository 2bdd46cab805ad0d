// SPDX-License-Identifier: BSD-3-Clause

// Package handover passes a handshake request from the daemon that accepted it
// to the daemon whose role it asks for: the kernel's ACCEPT cannot ask for a
// role, so either daemon may get the other's request.
//
// Each daemon listens on a SOCK_SEQPACKET socket in the runtime directory. The
// giver connects, sends one packet with the request's attributes and its
// descriptor (SCM_RIGHTS), and waits for one packet. Only "taken" moves the
// ownership, and the taker starts only after it could send that. Whatever else
// happens, the request is still the giver's:
//
//	giver                          taker
//	  header + descriptor  ──────▶   decode, reserve a place
//	  close descriptor     ◀──────   taken
//	                                 handshake, DONE
//
// The daemon's socket outlives it on purpose: no socket file means that the
// other daemon is not installed, a file that nobody listens on means that it
// is being restarted, and the giver tries again until the request's time ends.
package handover
