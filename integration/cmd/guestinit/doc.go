// SPDX-License-Identifier: BSD-3-Clause

// Command guestinit is the first process of a guest: package vm builds it and
// puts it into the initramfs.
//
// Started by the kernel, it finds the root disk, unpacks the payload over it,
// moves there, and either becomes systemd or does what little of its work is
// needed itself. Then
//
//	guestinit run
//
// as its child or as a service of systemd's, runs the command of the manifest,
// sends output, results and exit code to the host, and turns the guest off. Or
//
//	guestinit serve
//
// runs whatever commands the host sends, in a guest that boots as its disk says
// and stays until it is turned off.
//
// It is one static program, because a shell with its tools would be larger
// and slower to start, and harder to make fail with a clear word.
package main
