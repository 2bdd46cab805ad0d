// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Limits of keys and chains, for our own and for a peer's. The upper limit of
// RSA is the one of crypto/tls.
const (
	minRSABits = 2048
	maxRSABits = 8192
	maxChain   = 10
)

// expirySoon is how long before the end Warnings begins to speak.
const expirySoon = 14 * 24 * time.Hour

// Errors of [LoadIdentity] that a caller may want to explain further.
var (
	ErrKeyMismatch  = errors.New("private key does not belong to the certificate")
	ErrEncryptedKey = errors.New("private key is encrypted, and a daemon has nobody to ask for the passphrase: store it decrypted, with mode 0600")
)

// An Identity is a certificate chain with the private key of its leaf. It does
// not change, and may be shared. Printing or encoding one shows its subject
// and fingerprint.
type Identity struct {
	certificate       tls.Certificate
	certPath, keyPath string
}

// LoadIdentity reads an identity. The file certPath holds a chain in PEM, the
// leaf first, each further certificate the issuer of the one before (RFC 8446
// section 4.4.2; not every peer sorts for itself).
// The file keyPath, read with [Files.ReadKey], holds one private key in PEM:
// ECDSA (P-256, P-384, P-521), RSA of 2048 to 8192 bits, or Ed25519, as
// PKCS #8, PKCS #1 or SEC 1.
//
// Errors name the file and the PEM block, and wrap [ErrKeyPermission],
// [ErrEncryptedKey] or [ErrKeyMismatch] where they apply. Dates are not
// checked: see [Identity.Warnings].
func LoadIdentity(f *Files, certPath, keyPath string) (*Identity, error) {
	certPEM, err := f.Read(certPath)
	if err != nil {
		return nil, fmt.Errorf("load certificate: %w", err)
	}
	chain, err := parseChain(certPEM)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s: %w", certPath, err)
	}
	keyPEM, err := f.ReadKey(keyPath)
	if err != nil {
		return nil, fmt.Errorf("load private key: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("load private key %s: %w", keyPath, err)
	}
	certificate, err := pair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("load certificate %s with private key %s: %w", certPath, keyPath, err)
	}
	return &Identity{certificate: certificate, certPath: certPath, keyPath: keyPath}, nil
}

// ParseIdentity is [LoadIdentity] for a certificate and a private key that are
// at hand, each of them PEM as in a file, or one in DER (the key as PKCS #8,
// PKCS #1 or SEC 1). It takes over key and wipes it. The places are for errors.
func ParseIdentity(cert []byte, certPlace string, key []byte, keyPlace string) (*Identity, error) {
	defer clear(key)
	chain, err := parseChain(armor(cert, "CERTIFICATE"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", certPlace, err)
	}
	signer, err := parseAnyKey(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", keyPlace, err)
	}
	certificate, err := pair(chain, signer)
	if err != nil {
		return nil, fmt.Errorf("%s with %s: %w", certPlace, keyPlace, err)
	}
	return &Identity{certificate: certificate, certPath: certPlace, keyPath: keyPlace}, nil
}

// armor makes PEM of what looks like DER: a SEQUENCE, which no PEM begins with.
func armor(data []byte, kind string) []byte {
	if len(data) == 0 || data[0] != 0x30 {
		return data
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data})
}

// parseAnyKey tries the three forms of a key in DER; only one of them decodes.
func parseAnyKey(data []byte) (signer crypto.Signer, err error) {
	if len(data) == 0 || data[0] != 0x30 {
		return parseKey(bytes.Clone(data))
	}
	var first error
	for _, kind := range []string{"PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"} {
		if signer, err = parseKey(armor(data, kind)); err == nil {
			return signer, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// Certificate returns the chain and the key for a tls.Config, with Leaf set.
// PrivateKey is a crypto.Signer of no other known type.
func (i *Identity) Certificate() *tls.Certificate { return &i.certificate }

// Leaf returns the certificate of the identity itself.
func (i *Identity) Leaf() *x509.Certificate { return i.certificate.Leaf }

// Subject returns the leaf's subject (RFC 4514), or its first subject
// alternative name if that is empty; ASCII, and no longer than a log line.
func (i *Identity) Subject() string { return subjectOf(i.certificate.Leaf) }

// NotBefore is when the leaf becomes valid.
func (i *Identity) NotBefore() time.Time { return i.certificate.Leaf.NotBefore }

// NotAfter is when the leaf expires.
func (i *Identity) NotAfter() time.Time { return i.certificate.Leaf.NotAfter }

// Fingerprint returns the [Fingerprint] of the leaf.
func (i *Identity) Fingerprint() string { return Fingerprint(i.certificate.Leaf) }

// CertificatePath returns the path from which the chain was read.
func (i *Identity) CertificatePath() string { return i.certPath }

// KeyPath returns the path from which the private key was read.
func (i *Identity) KeyPath() string { return i.keyPath }

// String returns subject and fingerprint.
func (i Identity) String() string {
	if i.certificate.Leaf == nil {
		return "no identity"
	}
	return fmt.Sprintf("%s (SHA-256 %s)", i.Subject(), i.Fingerprint())
}

// GoString is String: %#v shows no more either.
func (i Identity) GoString() string { return i.String() }

// MarshalText is String, for encoders such as those of log/slog.
func (i Identity) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// Warnings returns, one line each, what is or will soon be wrong with the
// identity at the time now: a certificate of the chain that is not yet valid,
// has expired or expires within 14 days, and a leaf whose key usage forbids
// what TLS 1.3 does with it.
func (i *Identity) Warnings(now time.Time) []string {
	var lines []string
	for n, der := range i.certificate.Certificate {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			continue // cannot be: it was parsed when it was loaded
		}
		where := fmt.Sprintf("%s: PEM block %d", i.certPath, n+1)
		if line := dateWarning(where, cert, now); line != "" {
			lines = append(lines, line)
		}
		if n == 0 && !mayDigitallySign(cert) {
			lines = append(lines, fmt.Sprintf("%s (%s): key usage lacks digitalSignature, which TLS 1.3 needs; peers will refuse it", where, subjectOf(cert)))
		}
	}
	return lines
}

// dateWarning returns "" as long as the certificate is valid for 14 days more.
func dateWarning(where string, cert *x509.Certificate, now time.Time) string {
	where = fmt.Sprintf("%s (%s)", where, subjectOf(cert))
	left := cert.NotAfter.Sub(now)
	switch {
	case now.Before(cert.NotBefore):
		return fmt.Sprintf("%s: not yet valid, begins %s", where, cert.NotBefore.UTC().Format(time.RFC3339))
	case left < 0:
		return fmt.Sprintf("%s: expired %s", where, cert.NotAfter.UTC().Format(time.RFC3339))
	case left < expirySoon:
		return fmt.Sprintf("%s: expires in %d days, %s", where, left/(24*time.Hour), cert.NotAfter.UTC().Format(time.RFC3339))
	}
	return ""
}

func parseChain(data []byte) ([]*x509.Certificate, error) {
	var chain []*x509.Certificate
	err := decodePEM(data, func(n int, block *pem.Block) error {
		switch {
		case isPrivateKey(block.Type):
			clear(block.Bytes)
			return errors.New("private key in a certificate file: it belongs into a file of its own, with mode 0600")
		case block.Type != "CERTIFICATE":
			return fmt.Errorf("%s where only CERTIFICATE is expected", quote(block.Type, maxSAN))
		case n > maxChain:
			return fmt.Errorf("more than %d certificates", maxChain)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("parse certificate: %s", clean(err.Error(), maxCause))
		}
		chain = append(chain, cert)
		return nil
	})
	return chain, err
}

// checkOrder reports the first certificate that was not issued by the next.
func checkOrder(chain []*x509.Certificate) error {
	for n := 1; n < len(chain); n++ {
		child, parent := chain[n-1], chain[n]
		if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
			return fmt.Errorf("PEM block %d (%s) is out of place: block %d was issued by %s",
				n+1, subjectOf(parent), n, quote(child.Issuer.String(), maxSubject))
		}
		if err := child.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("PEM block %d (%s) is out of place: it did not sign block %d: %w",
				n+1, subjectOf(parent), n, err)
		}
	}
	return nil
}

// parseKey takes over data and wipes it.
func parseKey(data []byte) (crypto.Signer, error) {
	defer clear(data)
	var key crypto.Signer
	err := decodePEM(data, func(n int, block *pem.Block) (err error) {
		switch {
		case block.Type == "EC PARAMETERS" && n == 1:
			// openssl ecparam -genkey writes the curve first; the key
			// names it again.
			return nil
		case key != nil:
			clear(block.Bytes)
			return fmt.Errorf("%s after the private key: one key per file, and nothing else", quote(block.Type, maxSAN))
		}
		key, err = parseKeyBlock(block)
		return err
	})
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, errors.New("no private key")
	}
	return key, nil
}

// parseKeyBlock takes over block and wipes its content.
func parseKeyBlock(block *pem.Block) (crypto.Signer, error) {
	defer clear(block.Bytes)
	var parsed any
	var err error
	switch {
	case block.Type == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return nil, ErrEncryptedKey
	case block.Type == "PRIVATE KEY":
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case block.Type == "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case block.Type == "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("%s where a private key is expected", quote(block.Type, maxSAN))
	}
	if err != nil {
		return nil, fmt.Errorf("parse private key: %s", clean(err.Error(), maxCause))
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, errors.New("private key cannot sign")
	}
	return signer, checkPublicKey(signer.Public())
}

// checkPublicKey accepts the keys with which TLS 1.3 can sign (RFC 8446
// section 4.2.3), of acceptable size.
func checkPublicKey(pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if bits := pub.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("RSA key of %d bits, want %d to %d", bits, minRSABits, maxRSABits)
		}
		return nil
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P224() {
			return errors.New("key on curve P-224, which TLS 1.3 does not have")
		}
		return nil
	case ed25519.PublicKey:
		return nil
	}
	return errors.New("key of a kind that TLS 1.3 does not have: want ECDSA, RSA or Ed25519")
}

func pair(chain []*x509.Certificate, key crypto.Signer) (tls.Certificate, error) {
	for n, cert := range chain {
		pub, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if !ok || !pub.Equal(key.Public()) {
			continue
		}
		if n > 0 {
			return tls.Certificate{}, fmt.Errorf("%w: it belongs to PEM block %d, and the leaf has to come first", ErrKeyMismatch, n+1)
		}
		if err := checkOrder(chain); err != nil {
			return tls.Certificate{}, err
		}
		certificate := tls.Certificate{PrivateKey: seal(key), Leaf: cert}
		for _, cert := range chain {
			certificate.Certificate = append(certificate.Certificate, cert.Raw)
		}
		return certificate, nil
	}
	return tls.Certificate{}, fmt.Errorf("%w (%s)", ErrKeyMismatch, subjectOf(chain[0]))
}

// A sealedKey signs without holding the key in a field: fmt and the encoders
// follow pointers and unexported fields, but they cannot look into a function.
type sealedKey struct {
	public crypto.PublicKey
	sign   func(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func seal(key crypto.Signer) sealedKey { return sealedKey{key.Public(), key.Sign} }

func (k sealedKey) Public() crypto.PublicKey { return k.public }

func (k sealedKey) Sign(rand io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.sign(rand, digest, opts)
}
