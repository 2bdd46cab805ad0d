// SPDX-License-Identifier: BSD-3-Clause

// Package rivals notices other programs that answer the kernel's handshake
// requests, such as tlshd: the kernel gives each request to whoever asks first,
// so some would be judged by somebody else's rules.
//
// They are members of the same multicast group in the same network namespace.
// The kernel lists members by socket, not by program; this daemon's sibling is
// told from others by the socket that it has recorded in its lock file.
package rivals
