// SPDX-License-Identifier: BSD-3-Clause

// Package ca is a small certification authority for the NFS servers and clients
// of one site. It lives in a directory:
//
//	ca.pem      its certificate
//	ca.key      its private key, mode 0600
//	index       what it did, see [rpctls/certs/ca/index]
//	crl.pem     whom it revoked
//	issued/     SERIAL.pem for each certificate, and SERIAL.key as long as
//	            its private key waits here to be fetched
//
// Each CRL is also published where daemons read it, if Env says where.
//
// # What a crash leaves
//
// A certificate counts from the moment its line is in the index, and leaves
// the CA only after that. Its copy in issued/ comes before: one without a line
// was never handed out, and the next start removes it. A revocation counts from
// the same moment, and the next start makes the CRL that is then missing. A new
// CA is made in a directory beside, and renamed.
//
// # What it certifies
//
// Keys are ECDSA on P-256 unless brought by a request. A certificate is for a
// server or for a client, and says so in the words of TLS and of RFC 9289
// section 5.2.1. Before its line is written it must stand in the same
// verification by which peers judge it.
package ca
