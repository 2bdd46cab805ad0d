// SPDX-License-Identifier: BSD-3-Clause

// Package probe finds out what a client meets on its way to an NFS server over
// TLS (RFC 9289): addresses, TCP, RPC, the AUTH_TLS probe, the TLS session with
// and without a certificate of this host, and the export. It needs neither root
// nor the kernel's TLS, and the server may be of any make.
//
// Nothing is ever sent in clear but NULL calls. The certificate of this host is
// shown to a server that has been verified only, if there is something to verify
// it by.
package probe
