// SPDX-License-Identifier: BSD-3-Clause

// Package nfsd asks the kernel's NFS server about itself, through its netlink
// family, which needs no rights and answers for the caller's network
// namespace.
package nfsd
