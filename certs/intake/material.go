// SPDX-License-Identifier: BSD-3-Clause

package intake

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"rpctls/certs"
)

// Limits of what may be brought.
const (
	maxFile  = 1 << 20
	maxCerts = 100
)

// Material is what was brought. The zero value is empty.
type Material struct {
	certs []located
	keys  []locatedKey
}

type located struct {
	*x509.Certificate
	where string
}

type locatedKey struct {
	crypto.Signer
	where string
}

// Add takes in a file's content: PEM with any certificates and keys, or DER of
// certificates or of a key. It wipes data.
func (m *Material) Add(name string, data []byte) error {
	defer clear(data)
	if len(data) > maxFile {
		return fmt.Errorf("%s: more than %d bytes", name, maxFile)
	}
	var err error
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		err = certs.DecodePEM(data, func(n int, block *pem.Block) error {
			defer clear(block.Bytes)
			return m.block(fmt.Sprintf("%s: PEM block %d", name, n), block)
		})
	} else {
		err = m.der(name, data)
	}
	if err == nil && len(m.certs) > maxCerts {
		err = fmt.Errorf("more than %d certificates", maxCerts)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// AddCertificate takes in a certificate that is at hand.
func (m *Material) AddCertificate(where string, cert *x509.Certificate) {
	for _, c := range m.certs {
		if c.Equal(cert) {
			return
		}
	}
	m.certs = append(m.certs, located{cert, where})
}

// AddKey takes in a private key that is at hand.
func (m *Material) AddKey(where string, key crypto.Signer) {
	for _, k := range m.keys {
		if samePublic(k.Public(), key.Public()) {
			return
		}
	}
	m.keys = append(m.keys, locatedKey{key, where})
}

// Keys returns how many private keys there are.
func (m *Material) Keys() int { return len(m.keys) }

// Certificates returns the certificates in the order they came.
func (m *Material) Certificates() []*x509.Certificate {
	var list []*x509.Certificate
	for _, c := range m.certs {
		list = append(list, c.Certificate)
	}
	return list
}

// HasCertificateFor reports whether a certificate for this key was brought.
func (m *Material) HasCertificateFor(key crypto.PublicKey) bool {
	return slices.ContainsFunc(m.certs, func(c located) bool { return samePublic(c.PublicKey, key) })
}

func samePublic(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

func (m *Material) block(where string, block *pem.Block) error {
	switch block.Type {
	case "CERTIFICATE", "X509 CERTIFICATE":
		cert, err := x509.ParseCertificate(bytes.Clone(block.Bytes))
		if err != nil {
			return fmt.Errorf("parse certificate: %s", certs.Printable(err.Error()))
		}
		m.AddCertificate(where, cert)
		return nil
	case "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY":
		text := pem.EncodeToMemory(block)
		if text == nil {
			return errors.New("malformed headers")
		}
		key, err := certs.ParseKey(text)
		if err != nil {
			return err
		}
		m.AddKey(where, key)
		return nil
	case "EC PARAMETERS": // openssl ecparam writes it before the key
		return nil
	case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
		return errors.New("a request for a certificate, not a certificate: the CA's answer is wanted")
	case "X509 CRL":
		return errors.New("a CRL, which is not installed here: name it as crl in the configuration")
	case "PKCS7":
		return errPKCS
	case "AGE ENCRYPTED FILE":
		return errors.New("an encrypted bundle: give it as --bundle")
	}
	return fmt.Errorf("%q where certificates and a private key are expected", certs.Printable(block.Type))
}

var errPKCS = errors.New("PKCS #7 or PKCS #12, which is not read: convert it by openssl pkcs7 -print_certs, or openssl pkcs12 -nodes")

// oidPKCS begins the object identifiers of PKCS #7 and #12 content.
var oidPKCS = []byte("\x2a\x86\x48\x86\xf7\x0d\x01\x07")

func (m *Material) der(name string, data []byte) error {
	if list, err := x509.ParseCertificates(bytes.Clone(data)); err == nil && len(list) > 0 {
		for i, cert := range list {
			m.AddCertificate(fmt.Sprintf("%s: certificate %d", name, i+1), cert)
		}
		return nil
	}
	for _, kind := range []string{"PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY"} {
		key, err := certs.ParseKey(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}))
		if err == nil {
			m.AddKey(name, key)
			return nil
		}
	}
	if bytes.Contains(data[:min(len(data), 64)], oidPKCS) {
		return errPKCS
	}
	return errors.New("neither PEM nor DER of a certificate or private key")
}
