// SPDX-License-Identifier: BSD-3-Clause

// Package csr makes and reads requests for certificates (PKCS #10, RFC 2986)
// that say which names they are for and whether the holder is an NFS server or
// client.
package csr
