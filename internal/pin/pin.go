// SPDX-License-Identifier: BSD-3-Clause

package pin

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"strings"
)

// A Pin is the SHA-256 of a SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7),
// written "sha256:" and 64 hexadecimal digits.
type Pin [sha256.Size]byte

const prefix = "sha256:"

// Of returns the pin of a certificate's public key.
func Of(cert *x509.Certificate) Pin { return sha256.Sum256(cert.RawSubjectPublicKeyInfo) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Pin) UnmarshalText(b []byte) error {
	digits, ok := strings.CutPrefix(string(b), prefix)
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != len(p) {
		return fmt.Errorf("%q is not %q and %d hexadecimal digits", b, prefix, 2*len(p))
	}
	copy(p[:], raw)
	return nil
}

// String returns the pin as it is written.
func (p Pin) String() string { return prefix + hex.EncodeToString(p[:]) }

// A Fingerprint is the SHA-256 of a whole certificate. It is read as the log and
// rpctlsctl write it (64 hexadecimal digits), as a pin is written, or as
// openssl-x509(1) prints it, with a colon between every two digits.
type Fingerprint [sha256.Size]byte

// FingerprintOf returns that of a certificate.
func FingerprintOf(cert *x509.Certificate) Fingerprint { return sha256.Sum256(cert.Raw) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fingerprint) UnmarshalText(b []byte) error {
	digits := strings.TrimPrefix(string(b), prefix)
	if pairs := strings.Split(digits, ":"); len(pairs) == len(f) {
		digits = strings.Join(pairs, "")
	}
	raw, err := hex.DecodeString(digits)
	if err != nil || len(raw) != len(f) {
		return fmt.Errorf("%q is not the SHA-256 of a certificate: want %d hexadecimal digits", b, 2*len(f))
	}
	copy(f[:], raw)
	return nil
}

// String returns the digits.
func (f Fingerprint) String() string { return hex.EncodeToString(f[:]) }
