// SPDX-License-Identifier: BSD-3-Clause

// Package san holds the names that a certificate is issued for: its subject
// alternative names (RFC 5280 section 4.2.1.6) of the kinds that NFS over TLS
// uses, which are host names, IP addresses and, for FreeBSD's NFS server, users.
//
// A name has one spelling in files: "dns:nfs.example.com", "ip:2001:db8::1",
// "user:alice@example.com". It holds no space, no comma and nothing but
// printable ASCII, so that a list of names can be a column of a text file.
package san
