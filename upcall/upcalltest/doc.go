// SPDX-License-Identifier: BSD-3-Clause

// Package upcalltest is a fake of the kernel's handshake family for tests: it
// speaks netlink over socket pairs, so that a listener runs the same code as
// against a real kernel, without privileges. It refuses what the kernel
// refuses (net/handshake/netlink.c): unknown attributes, a DONE without a
// socket, a DONE for a socket that has no request.
package upcalltest
