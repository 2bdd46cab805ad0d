// SPDX-License-Identifier: BSD-3-Clause

// Package rpctlscd is the client's side: it answers for the kernel's NFS
// client. It says which certificate a mount presents and whom it believes,
// and decides what a failure means to the applications above the mount: a
// first mount fails at once, a mount that worked hangs and heals.
package rpctlscd
