// SPDX-License-Identifier: BSD-3-Clause

// Package keyring is how a mount tells rpctlscd, at every connection of its life,
// which certificate to present: through a key of the kernel's whose serial
// number is an option of the mount (cert_serial, privkey_serial; Linux 7.2).
//
// Such a key holds the name of an identity and nothing secret. The private key
// stays in its file, and a certificate that was renewed is used at the next
// reconnect. It lives in the keyring .nfs, which belongs to the kernel's NFS
// module and to root, until the host is restarted: a mount may reconnect at any
// time. There is one for each name, so their number is that of the host's
// identities.
package keyring
