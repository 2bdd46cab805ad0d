// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"strings"
	"time"
)

// What follows is for the tools around the daemons, which issue and install
// certificates: the same parsers and the same judgement, on bytes instead of
// files. What those tools accept is then what a daemon will accept.

// DecodePEM calls each for every PEM block of data with its number, from 1. A
// block that does not decode is an error, and so is data without any.
func DecodePEM(data []byte, each func(n int, block *pem.Block) error) error {
	return decodePEM(data, each)
}

// ParseKey parses the PEM of a private key as [LoadIdentity] does. It takes
// over data and wipes it. The key it returns is not sealed: it can be encoded.
func ParseKey(data []byte) (crypto.Signer, error) { return parseKey(data) }

// CheckPublicKey reports what about a key is unfit for TLS 1.3.
func CheckPublicKey(pub crypto.PublicKey) error { return checkPublicKey(pub) }

// Subject names a certificate for a log line: its subject or, where that is
// empty, its first subject alternative name; ASCII and bounded.
func Subject(cert *x509.Certificate) string { return subjectOf(cert) }

// Printable makes text from elsewhere fit for a log line: ASCII and bounded.
func Printable(s string) string { return clean(s, maxCause) }

// NewTrust is [LoadTrust] for CA certificates that are at hand. Each must
// qualify as an anchor.
func NewTrust(anchors []*x509.Certificate) (*Trust, error) {
	t := &Trust{pool: x509.NewCertPool(), byName: make(map[string][]*crl)}
	var data []byte
	for _, cert := range anchors {
		data = append(data, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	parsed, err := parseAnchors("trust", data, false)
	if err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	if err := t.add(parsed); err != nil {
		return nil, err
	}
	t.turns = t.allTurns()
	return t, nil
}

// ParsePurpose is the inverse of [Purpose.String].
func ParsePurpose(s string) (Purpose, error) {
	for _, p := range []Purpose{ServerAuth, ClientAuth} {
		if s == p.String() {
			return p, nil
		}
	}
	return 0, fmt.Errorf("%s is neither server nor client", quote(s, maxSAN))
}

// Usages returns the two extended key usages that stand for the purpose: the
// one of TLS and the one of RFC 9289 section 5.2.1.
func (p Purpose) Usages() (tls, rpc asn1.ObjectIdentifier) {
	switch p {
	case ServerAuth:
		return oidServerAuth, oidRPCTLSServer
	case ClientAuth:
		return oidClientAuth, oidRPCTLSClient
	}
	return nil, nil
}

var (
	oidServerAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	oidClientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
)

// Allows reports whether the extended key usage of cert, if any, allows the
// purpose.
func (p Purpose) Allows(cert *x509.Certificate) bool { return fitFor(cert, p) }

// CheckName refuses what cannot be the name of an identity.
func CheckName(name string) error {
	if name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" || name[0] == '.' || name[0] == '-' {
		return fmt.Errorf("%s cannot be the name of an identity: want up to 64 of a-z, 0-9, hyphen, dot, underscore", quote(name, maxSAN))
	}
	return nil
}

// Stale returns, one line each and at most 32, which CRLs are not fresh at the
// time now, and whether that makes [Trust.Verify] refuse whom they are about.
func (t *Trust) Stale(now time.Time) (lines []string, refused bool) {
	for _, c := range t.crls {
		if err := c.stale(now); err != nil && len(lines) < maxWarnings {
			lines = append(lines, err.Error())
		}
	}
	return lines, len(lines) > 0 && t.policy == StaleRefuse
}
