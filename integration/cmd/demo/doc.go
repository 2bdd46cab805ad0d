// SPDX-License-Identifier: BSD-3-Clause

// Command demo shows the main job on a real kernel: it boots one in a VM,
// starts the kernel's NFS server and both daemons, mounts with mutual TLS,
// writes and reads a file, and shows the proof.
//
//	go run ./integration/cmd/demo [-kernel 6.12]
package main
