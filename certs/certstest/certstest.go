// SPDX-License-Identifier: BSD-3-Clause

package certstest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// TB is the part of testing.TB that the Must functions need.
type TB interface {
	Helper()
	Fatal(args ...any)
}

// A KeyType is a kind of key pair.
type KeyType string

// The kinds of key pairs. Others, for tests of refusals, are ECDSA keys on
// another curve and RSA keys of another size (Options.RSABits).
const (
	EC      KeyType = "ec" // P-256, the default
	ECP384  KeyType = "ec-p384"
	ECP224  KeyType = "ec-p224" // not in TLS 1.3
	RSA     KeyType = "rsa"
	Ed25519 KeyType = "ed25519"
)

// A KeyFormat is an encoding of a private key.
type KeyFormat string

// The encodings of private keys.
const (
	PKCS8      KeyFormat = "pkcs8"       // PRIVATE KEY, the default
	PKCS1      KeyFormat = "pkcs1"       // RSA PRIVATE KEY
	SEC1       KeyFormat = "sec1"        // EC PRIVATE KEY
	SEC1Params KeyFormat = "sec1-params" // EC PARAMETERS, then EC PRIVATE KEY
)

// Values for Options.EKU (RFC 5280 section 4.2.1.12, RFC 9289 section 5.2.1).
var (
	AnyEKU       = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
	ServerAuth   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	ClientAuth   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	RPCTLSClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 33}
	RPCTLSServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 34}
)

// OIDs are extended key usages.
type OIDs = []asn1.ObjectIdentifier

// Serials returns the serial numbers of certificates, for a CRL.
func Serials(pairs ...*Pair) (serials []*big.Int) {
	for _, p := range pairs {
		serials = append(serials, p.Cert.SerialNumber)
	}
	return serials
}

// Options describe a certificate. The zero value is that of an ordinary host
// without a name: valid from an hour ago for a day, key usage digitalSignature,
// extended key usage serverAuth and clientAuth.
type Options struct {
	CommonName string // "" for an empty subject
	DNS        []string
	IPs        []string // literals
	URIs       []string

	EKU        []asn1.ObjectIdentifier // nil for the default
	NoEKU      bool                    // no such extension
	KeyUsage   x509.KeyUsage           // 0 for the default
	NoKeyUsage bool                    // no such extension

	NotBefore, NotAfter time.Time // zero for the default
	KeyType             KeyType   // "" for EC
	RSABits             int       // 0 for 2048

	CRLDistributionPoints []string
	// Extra are added to, or replace, the extensions of the above.
	Extra []pkix.Extension
}

// CAOptions describe a CA. The zero value is an EC root named "test CA", valid
// from an hour ago for ten years.
type CAOptions struct {
	CommonName          string
	EKU                 []asn1.ObjectIdentifier // nil for none
	KeyUsage            x509.KeyUsage           // 0 for keyCertSign and cRLSign
	NotBefore, NotAfter time.Time
	KeyType             KeyType
	RSABits             int
	Key                 crypto.Signer // nil for a new one
}

// A CA issues certificates and CRLs. It may be shared.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	// Parent is nil for a root.
	Parent *CA
}

// A Pair is a certificate that a CA has issued, with its private key.
type Pair struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	CA   *CA
}

// NewKey makes a key pair; bits is for RSA only, 0 for 2048.
func NewKey(kind KeyType, bits int) (crypto.Signer, error) {
	switch kind {
	case EC, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECP384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ECP224:
		return ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	case RSA:
		if bits == 0 {
			bits = 2048
		}
		return rsa.GenerateKey(rand.Reader, bits)
	case Ed25519:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("make key: unknown type %q", kind)
}

// NewCA makes a root.
func NewCA(o CAOptions) (*CA, error) { return newCA(nil, o) }

// Intermediate makes a CA below ca.
func (ca *CA) Intermediate(o CAOptions) (*CA, error) { return newCA(ca, o) }

func newCA(parent *CA, o CAOptions) (*CA, error) {
	key := o.Key
	if key == nil {
		var err error
		if key, err = NewKey(o.KeyType, o.RSABits); err != nil {
			return nil, err
		}
	}
	if o.CommonName == "" {
		o.CommonName = "test CA"
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: o.CommonName},
		NotBefore:             orTime(o.NotBefore, -time.Hour),
		NotAfter:              orTime(o.NotAfter, 10*365*24*time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		UnknownExtKeyUsage:    o.EKU,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if o.KeyUsage != 0 {
		template.KeyUsage = o.KeyUsage
	}
	cert, err := sign(template, parent, key)
	if err != nil {
		return nil, fmt.Errorf("make CA %s: %w", o.CommonName, err)
	}
	return &CA{Cert: cert, Key: key, Parent: parent}, nil
}

// Issue makes a key pair and a certificate.
func (ca *CA) Issue(o Options) (*Pair, error) {
	template := &x509.Certificate{
		NotBefore:             orTime(o.NotBefore, -time.Hour),
		NotAfter:              orTime(o.NotAfter, 24*time.Hour),
		DNSNames:              o.DNS,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{ServerAuth, ClientAuth},
		BasicConstraintsValid: true,
		CRLDistributionPoints: o.CRLDistributionPoints,
		ExtraExtensions:       o.Extra,
	}
	if o.CommonName != "" {
		template.Subject = pkix.Name{CommonName: o.CommonName}
	}
	for _, s := range o.IPs {
		ip := net.ParseIP(s)
		if ip == nil {
			return nil, fmt.Errorf("issue certificate: %q is not an IP address", s)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	for _, s := range o.URIs {
		uri, err := url.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("issue certificate: %w", err)
		}
		template.URIs = append(template.URIs, uri)
	}
	if o.EKU != nil {
		template.UnknownExtKeyUsage = o.EKU
	}
	if o.NoEKU {
		template.UnknownExtKeyUsage = nil
	}
	if o.KeyUsage != 0 {
		template.KeyUsage = o.KeyUsage
	}
	if o.NoKeyUsage {
		template.KeyUsage = 0
	}
	key, err := NewKey(o.KeyType, o.RSABits)
	if err != nil {
		return nil, err
	}
	cert, err := sign(template, ca, key)
	if err != nil {
		return nil, fmt.Errorf("issue certificate: %w", err)
	}
	return &Pair{Cert: cert, Key: key, CA: ca}, nil
}

// sign completes template and lets parent, or the key itself, sign it.
func sign(template *x509.Certificate, parent *CA, key crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.Cert, parent.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// CRL signs a list of revoked serial numbers, in DER.
func (ca *CA) CRL(serials []*big.Int, thisUpdate, nextUpdate time.Time) ([]byte, error) {
	list := &x509.RevocationList{
		Number:     big.NewInt(thisUpdate.Unix()),
		ThisUpdate: thisUpdate,
		NextUpdate: nextUpdate,
	}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: thisUpdate})
	}
	return ca.SignCRL(list)
}

// SignCRL signs any list, in DER.
func (ca *CA) SignCRL(list *x509.RevocationList) ([]byte, error) {
	return x509.CreateRevocationList(rand.Reader, list, ca.Cert, ca.Key)
}

// Root returns the CA at the top.
func (ca *CA) Root() *CA {
	for ca.Parent != nil {
		ca = ca.Parent
	}
	return ca
}

// PEM returns the CA's certificate.
func (ca *CA) PEM() []byte { return CertPEM(ca.Cert) }

// Chain returns the certificate and the intermediates above it, without the
// root.
func (p *Pair) Chain() []*x509.Certificate {
	chain := []*x509.Certificate{p.Cert}
	for ca := p.CA; ca.Parent != nil; ca = ca.Parent {
		chain = append(chain, ca.Cert)
	}
	return chain
}

// CertPEM returns Chain in PEM.
func (p *Pair) CertPEM() []byte { return CertPEM(p.Chain()...) }

// KeyPEM returns the private key.
func (p *Pair) KeyPEM(format KeyFormat) ([]byte, error) { return KeyPEM(p.Key, format) }

// TLS returns chain and key for a tls.Config.
func (p *Pair) TLS() tls.Certificate {
	certificate := tls.Certificate{PrivateKey: p.Key, Leaf: p.Cert}
	for _, cert := range p.Chain() {
		certificate.Certificate = append(certificate.Certificate, cert.Raw)
	}
	return certificate
}

// WriteFiles writes ca.pem (the root), cert.pem (Chain) and key.pem (PKCS #8,
// mode 0600) into dir, which exists. Each is complete before it appears.
func (p *Pair) WriteFiles(dir string) error {
	key, err := p.KeyPEM(PKCS8)
	if err != nil {
		return err
	}
	return errors.Join(
		WriteFile(filepath.Join(dir, "ca.pem"), p.CA.Root().PEM(), 0o644),
		WriteFile(filepath.Join(dir, "cert.pem"), p.CertPEM(), 0o644),
		WriteFile(filepath.Join(dir, "key.pem"), key, 0o600),
	)
}

// WriteFile replaces path in one step, whatever the umask.
func WriteFile(path string, data []byte, mode os.FileMode) error {
	file, err := os.CreateTemp(filepath.Dir(path), ".certstest-*")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}

// CertPEM encodes certificates.
func CertPEM(certs ...*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range certs {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// CRLPEM encodes a CRL.
func CRLPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

// KeyPEM encodes a private key; "" stands for PKCS8.
func KeyPEM(key crypto.Signer, format KeyFormat) ([]byte, error) {
	var prefix []byte
	switch format {
	case PKCS8, "":
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, err
		}
		return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
	case PKCS1:
		key, ok := key.(*rsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("encode key: %s is for RSA", format)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), nil
	case SEC1Params:
		p256, err := asn1.Marshal(asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7})
		if err != nil {
			return nil, err
		}
		prefix = pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: p256})
		fallthrough
	case SEC1:
		key, ok := key.(*ecdsa.PrivateKey)
		if !ok {
			return nil, fmt.Errorf("encode key: %s is for ECDSA", format)
		}
		der, err := x509.MarshalECPrivateKey(key)
		if err != nil {
			return nil, err
		}
		return append(prefix, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...), nil
	}
	return nil, fmt.Errorf("encode key: unknown format %q", format)
}

func orTime(t time.Time, fromNow time.Duration) time.Time {
	if t.IsZero() {
		return time.Now().Add(fromNow)
	}
	return t
}
