// SPDX-License-Identifier: BSD-3-Clause

package csr

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"rpctls/certs"
	"rpctls/certs/san"
)

// pemType is that of RFC 7468; older programs write the second one.
const (
	pemType    = "CERTIFICATE REQUEST"
	pemTypeOld = "NEW CERTIFICATE REQUEST"
)

// maxSize bounds a request, in bytes.
const maxSize = 64 << 10

var (
	oidExtKeyUsage      = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidBasicConstraints = asn1.ObjectIdentifier{2, 5, 29, 19}
)

// A Request is one for a certificate.
type Request struct {
	// Purpose is 0 if the request names none, or both.
	Purpose certs.Purpose
	Names   san.Names
	// Key is the public key; who made the request has the private one.
	Key crypto.PublicKey
}

// Subject returns the subject for these names: the first host name, if there is
// one and it is not too long (RFC 5280 appendix A.1, ub-common-name). An address
// or a user is not put there, because OpenSSL and GnuTLS hold a common name
// against a CA's constraints on host names.
func Subject(names san.Names) pkix.Name {
	if hosts := names.DNS(); len(hosts) > 0 && len(hosts[0]) <= 64 {
		return pkix.Name{CommonName: hosts[0]}
	}
	return pkix.Name{}
}

// Create makes a request in PEM.
func Create(p certs.Purpose, names san.Names, key crypto.Signer) ([]byte, error) {
	subject := Subject(names)
	sanExt, err := names.Extension(subject.CommonName == "")
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	tls, rpc := p.Usages()
	usages, err := asn1.Marshal([]asn1.ObjectIdentifier{tls, rpc})
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:         subject,
		ExtraExtensions: []pkix.Extension{sanExt, {Id: oidExtKeyUsage, Value: usages}},
	}, key)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// Parse reads a request in PEM or DER. Its signature must stand, which proves
// that who made it has the private key. The names are those of its subject
// alternative names alone: what the common name says does not count.
func Parse(data []byte) (*Request, error) {
	der, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("read request: %s", certs.Printable(err.Error()))
	}
	if err := certs.CheckPublicKey(req.PublicKey); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("read request: its signature does not stand, so the private key is not proven to be with who asks: %s", certs.Printable(err.Error()))
	}
	r := &Request{Key: req.PublicKey}
	if r.Names, err = san.FromExtensions(req.Extensions); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if r.Names.Len() == 0 {
		return nil, errors.New("read request: it holds no subject alternative name, and a common name does not count")
	}
	for _, ext := range req.Extensions {
		switch {
		case ext.Id.Equal(oidExtKeyUsage):
			r.Purpose, err = purpose(ext.Value)
		case ext.Id.Equal(oidBasicConstraints):
			err = notCA(ext.Value)
		}
		if err != nil {
			return nil, fmt.Errorf("read request: %w", err)
		}
	}
	return r, nil
}

func decode(data []byte) ([]byte, error) {
	if len(data) > maxSize {
		return nil, fmt.Errorf("more than %d bytes", maxSize)
	}
	if !bytes.Contains(data, []byte("-----BEGIN ")) {
		return data, nil
	}
	var der []byte
	err := certs.DecodePEM(data, func(n int, block *pem.Block) error {
		switch {
		case block.Type != pemType && block.Type != pemTypeOld:
			return fmt.Errorf("%q where only %s is expected", certs.Printable(block.Type), pemType)
		case n > 1:
			return errors.New("a second request: give one at a time")
		}
		der = block.Bytes
		return nil
	})
	return der, err
}

func purpose(value []byte) (certs.Purpose, error) {
	var usages []asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(value, &usages); err != nil || len(rest) > 0 {
		return 0, errors.New("malformed extended key usage")
	}
	var found []certs.Purpose
	for _, p := range []certs.Purpose{certs.ServerAuth, certs.ClientAuth} {
		tls, rpc := p.Usages()
		if slices.ContainsFunc(usages, tls.Equal) || slices.ContainsFunc(usages, rpc.Equal) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return 0, nil
	}
	return found[0], nil
}

// notCA refuses the wish to be a CA, rather than to pass it over: who asks for
// that asks the wrong CA.
func notCA(value []byte) error {
	var constraints struct {
		IsCA       bool `asn1:"optional"`
		MaxPathLen int  `asn1:"optional,default:-1"`
	}
	if rest, err := asn1.Unmarshal(value, &constraints); err != nil || len(rest) > 0 {
		return errors.New("malformed basic constraints")
	}
	if constraints.IsCA {
		return errors.New("it asks for a CA certificate, and only hosts are certified here")
	}
	return nil
}
