// SPDX-License-Identifier: BSD-3-Clause

// Command benchktls measures one bulk transfer over TLS between two processes on
// loopback, and prints it as JSON. The sender is this process, the receiver a
// copy of itself. Both use the same library:
//
//	benchktls -system crypto/tls -source memory
//	benchktls -system ktls -source file -mib 32
//	benchktls -system sendfile -source file
//
// Where the kernel does not take over both directions it measures nothing and
// says why.
package main
