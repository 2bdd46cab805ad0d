// SPDX-License-Identifier: BSD-3-Clause

// Package sessionscmd is "rpctlsctl sessions": the TLS sessions of NFS on this
// host. Which there are is the kernel's word (package sockdiag); whose they are is
// what the daemons know, or, of a daemon that does not run, what it has left in
// its file (package sessions).
package sessionscmd
