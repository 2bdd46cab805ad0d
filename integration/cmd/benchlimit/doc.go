// SPDX-License-Identifier: BSD-3-Clause

// Command benchlimit is the least that a server of RPC over kernel TLS does:
// it accepts, answers the AUTH_TLS probe, makes the handshake with crypto/tls,
// asks for the client's certificate and verifies it, puts the keys into the
// kernel, and answers NULL by read(2) and write(2). There is no upcall, no
// nfsd and no policy, so what rpctlssd costs is the distance to it.
//
//	benchlimit -listen :2049 -ca ca.pem -cert cert.pem -key key.pem
package main
