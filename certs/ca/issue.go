// SPDX-License-Identifier: BSD-3-Clause

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"rpctls/certs"
	"rpctls/certs/ca/index"
	"rpctls/certs/csr"
	"rpctls/certs/san"
	"rpctls/internal/durable"
)

// DefaultDays is the lifetime of a certificate. Renewal is automatic after two
// thirds of it.
const DefaultDays = 90

// An Order is for one certificate.
type Order struct {
	Purpose certs.Purpose
	Names   san.Names
	// Days is the lifetime; 0 is DefaultDays. It ends with the CA's.
	Days int
	// Signer or Public is the key to certify. Without either a new pair is
	// made.
	Signer crypto.Signer
	Public crypto.PublicKey
	// StoreKey leaves the private key in issued/, to be fetched.
	StoreKey bool
}

// A Draft is a certificate that is signed and on disk, but not in the index and
// therefore not issued. What has to succeed together with it is prepared now.
type Draft struct {
	Cert *x509.Certificate
	Key  crypto.Signer // nil if the CA has never seen it

	ca    *CA
	entry index.Entry
	files []string
	done  bool
}

// Draft prepares a certificate. The caller ends it by Commit or Discard.
func (c *CA) Draft(o Order) (*Draft, error) {
	now := c.env.now()
	if err := c.checkClock(now); err != nil {
		return nil, err
	}
	if now.After(c.Cert.NotAfter) {
		return nil, c.expired()
	}
	d := &Draft{ca: c, Key: o.Signer}
	public := o.Public
	switch {
	case o.Signer != nil:
		public = o.Signer.Public()
	case public == nil:
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, err
		}
		d.Key, public = key, key.Public()
	}
	template, err := c.template(o, public, now)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.Cert, public, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	if d.Cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("internal error: certificate: %w", err)
	}
	if err := c.prove(d.Cert, o, now); err != nil {
		return nil, err
	}
	d.entry = index.Entry{Time: now, Event: index.Issued, Serial: index.SerialOf(d.Cert.SerialNumber), Kind: o.Purpose.String(),
		NotAfter: d.Cert.NotAfter, Names: o.Names, Fingerprint: certs.Fingerprint(d.Cert)}
	if err := d.write(o.StoreKey); err != nil {
		d.Discard()
		return nil, err
	}
	return d, nil
}

func (c *CA) template(o Order, public crypto.PublicKey, now time.Time) (*x509.Certificate, error) {
	days := o.Days
	if days == 0 {
		days = DefaultDays
	}
	if days < 1 || days > 3650 {
		return nil, fmt.Errorf("lifetime of %d days: want 1 to 3650", days)
	}
	tls, rpc := o.Purpose.Usages()
	if tls == nil {
		return nil, errors.New("a certificate is for a server or for a client")
	}
	if len(o.Names.Hosts()) == 0 {
		// Its subject would be empty and its critical name one that crypto/x509
		// does not know: nobody here could verify it.
		return nil, errors.New("a certificate needs a host name or an address, besides any user")
	}
	if err := certs.CheckPublicKey(public); err != nil {
		return nil, err
	}
	subject := csr.Subject(o.Names)
	sanExt, err := o.Names.Extension(subject.CommonName == "")
	if err != nil {
		return nil, err
	}
	keyID, err := subjectKeyID(public)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          index.NewSerial(), // should it ever be one of before, the index refuses it
		Subject:               subject,
		NotBefore:             later(now.Add(-skew), c.Cert.NotBefore),
		NotAfter:              now.AddDate(0, 0, days),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{tls, rpc},
		BasicConstraintsValid: true,
		SubjectKeyId:          keyID,
		ExtraExtensions:       []pkix.Extension{sanExt},
	}
	if t.NotAfter.After(c.Cert.NotAfter) {
		t.NotAfter = c.Cert.NotAfter
	}
	return t, nil
}

// subjectKeyID is RFC 7093 section 2 method 1: the leftmost 160 bits of the
// SHA-256 of the key's BIT STRING.
func subjectKeyID(public crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return nil, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(info.Key.Bytes)
	return sum[:20], nil
}

// prove lets the verification of peers judge the certificate: what they would
// refuse is never issued.
func (c *CA) prove(cert *x509.Certificate, o Order, now time.Time) error {
	trust, err := certs.NewTrust([]*x509.Certificate{c.Cert})
	if err != nil {
		return fmt.Errorf("internal error: %w", err)
	}
	names, err := san.Of(cert)
	if err != nil || !names.Equal(o.Names) {
		return fmt.Errorf("internal error: names %v became %v: %w", o.Names, names, err)
	}
	for _, name := range append(o.Names.Hosts(), "") {
		if len(name) > 1 && name[0] == '*' {
			name = "any" + name[1:]
		}
		if _, err := trust.Verify([]*x509.Certificate{cert}, o.Purpose, name, now); err != nil {
			if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.CANotAuthorizedForThisName {
				return fmt.Errorf("%s: this CA certifies only %s", o.Names, strings.Join(c.Permits(), ", "))
			}
			return fmt.Errorf("the certificate would not stand: %w", err)
		}
	}
	return nil
}

func (d *Draft) write(storeKey bool) error {
	if storeKey && d.Key != nil {
		key, err := encodeKey(d.Key)
		if err != nil {
			return err
		}
		defer clear(key)
		if err := d.file(".key", key, 0o600); err != nil {
			return err
		}
	}
	return d.file(".pem", encode("CERTIFICATE", d.Cert.Raw), 0o644)
}

func (d *Draft) file(suffix string, data []byte, mode fs.FileMode) error {
	path := d.ca.issued(d.entry.Serial, suffix)
	if err := d.ca.env.Disk.WriteFile(path, data, durable.Attr{Mode: mode}); err != nil {
		return err
	}
	d.files = append(d.files, path)
	return nil
}

// Serial returns the serial number.
func (d *Draft) Serial() string { return d.entry.Serial }

// Commit issues the certificate.
func (d *Draft) Commit() error {
	if err := d.ca.record(d.entry); err != nil {
		return err
	}
	d.done = true
	return nil
}

// Discard undoes what Commit did not confirm.
func (d *Draft) Discard() {
	if d.done {
		return
	}
	d.done = true
	if d.ca.failed != nil {
		// The line may be in the index all the same, and then its copies
		// belong there. If nobody can tell, the next start will.
		books, err := Read(d.ca.Dir)
		if err != nil {
			return
		}
		if _, issued := books.index.Issued(d.entry.Serial); issued {
			return
		}
	}
	for _, path := range d.files {
		d.ca.env.Disk.Remove(path) // if that fails, the next start removes it
	}
}
