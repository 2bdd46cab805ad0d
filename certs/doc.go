// SPDX-License-Identifier: BSD-3-Clause

// Package certs loads identities, trust anchors and certificate revocation
// lists from files, reloads them while in use, and judges a peer's
// certificate chain (RFC 5280, RFC 6125, and RFC 9289 for what is particular
// to RPC).
//
// A daemon describes in one function how its certificate set is built, and
// gives it to a [Live]:
//
//	live, err := certs.NewLive(func(f *certs.Files) (*set, error) {
//		id, err := certs.LoadIdentity(f, "host.pem", "host.key")
//		...
//		trust, err := certs.LoadTrust(f, certs.TrustConfig{Trust: "ca.pem"})
//		...
//	})
//	go live.Watch(ctx, 5*time.Second, report)
//	...
//	chains, err := live.Get().trust.Verify(peer, certs.ClientAuth, "", time.Now())
//
// # Trust fails closed
//
// Whatever is named and is missing, unreadable, empty, malformed or too
// widely readable is an error with its place, never a smaller or larger trust
// than the one that was asked for. When that happens in a reload, the last
// good set stays in use and the error says why.
//
// # What the handshake path touches
//
// [Live.Get] is one atomic load, and [Trust.Verify] reads no file, asks no
// name server and waits for no lock that is held across input or output. A
// peer can make it work, but only so much: the number of its certificates and
// the size of its RSA keys are limited here, the number of signature checks by
// crypto/x509, and what it wrote into its certificate reaches an error text
// only quoted and cut. A chain that was found good is not verified again before
// a date or a reload could change that, so that a storm of reconnects does not
// cost a storm of signature checks.
//
// # Secrets
//
// The buffers in which a private key was read and decoded are wiped, and the
// parsed key is reachable only as a signer: no fmt verb and no encoder can
// print it. Copies that crypto/x509 makes while it parses are left to the
// garbage collector.
package certs
