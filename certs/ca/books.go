// SPDX-License-Identifier: BSD-3-Clause

package ca

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rpctls/certs"
	"rpctls/certs/ca/index"
	"rpctls/certs/san"
)

// Names of the files of a CA.
const (
	certFile  = "ca.pem"
	keyFile   = "ca.key"
	indexFile = "index"
	crlFile   = "crl.pem"
	issuedDir = "issued"
)

// ErrNone is wrapped when there is no CA in a directory.
var ErrNone = errors.New("no CA is there")

// Books are what a CA knows: what it has issued and revoked.
type Books struct {
	Dir  string
	Cert *x509.Certificate
	// CRL is the one in the directory, nil if it is missing or damaged.
	CRL *x509.RevocationList

	index *index.Index
}

// A Certificate is one that the CA has issued.
type Certificate struct {
	Serial      string
	Purpose     certs.Purpose
	Names       san.Names
	IssuedAt    time.Time
	NotAfter    time.Time
	Fingerprint string
	RevokedAt   time.Time // zero if it is not revoked
	Reason      string
}

// A State is what has become of a certificate.
type State string

// The states.
const (
	Valid   State = "valid"
	Expired State = "expired"
	Revoked State = "revoked"
)

// State returns the state at a time.
func (c Certificate) State(now time.Time) State {
	switch {
	case !c.RevokedAt.IsZero():
		return Revoked
	case now.After(c.NotAfter):
		return Expired
	}
	return Valid
}

// Read reads the books of the CA in dir, without waiting for whoever may be
// writing in them. It changes nothing.
func Read(dir string) (*Books, error) {
	cert, err := readCert(filepath.Join(dir, certFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	// The CRL before the index: what a writer adds meanwhile is then in the
	// index alone, and not an index that is older than the CRL.
	list, err := readCRL(filepath.Join(dir, crlFile), cert)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		return nil, err
	}
	x, err := index.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, indexFile), err)
	}
	if len(x.Entries) == 0 || x.Entries[0].Fingerprint != certs.Fingerprint(cert) {
		return nil, fmt.Errorf("%s is not the index of %s", filepath.Join(dir, indexFile), filepath.Join(dir, certFile))
	}
	b := &Books{Dir: dir, Cert: cert, CRL: list, index: x}
	if err := b.checkCRL(); err != nil {
		return nil, err
	}
	return b, nil
}

func readCert(path string) (*x509.Certificate, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var cert *x509.Certificate
	err = certs.DecodePEM(data, func(_ int, block *pem.Block) (err error) {
		if block.Type != "CERTIFICATE" || cert != nil {
			return errors.New("want one certificate and nothing else")
		}
		cert, err = x509.ParseCertificate(block.Bytes)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// readCRL returns nil for one that is missing, damaged or another CA's: it can
// be made again from the index.
func readCRL(path string, cert *x509.Certificate) (*x509.RevocationList, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, nil
	}
	list, err := x509.ParseRevocationList(block.Bytes)
	if err != nil || list.CheckSignatureFrom(cert) != nil || list.Number == nil {
		return nil, nil
	}
	return list, nil
}

// checkCRL refuses an index that knows less than the CRL, as when it came back
// from a backup: the next CRL would let revoked certificates live again.
func (b *Books) checkCRL() error {
	if b.CRL == nil {
		return nil
	}
	for _, entry := range b.CRL.RevokedCertificateEntries {
		serial := index.SerialOf(entry.SerialNumber)
		if _, ok := b.index.Revoked(serial); !ok {
			return fmt.Errorf("%s revokes %s, of which %s knows nothing: the index is older than the CRL (was it restored from a backup? restore a later one)",
				filepath.Join(b.Dir, crlFile), serial, filepath.Join(b.Dir, indexFile))
		}
	}
	return nil
}

// Certificates returns all that were issued, the oldest first.
func (b *Books) Certificates() []Certificate {
	var list []Certificate
	for _, e := range b.index.Entries {
		if e.Event == index.Issued && e.Kind != index.KindCA {
			list = append(list, b.certificate(e))
		}
	}
	return list
}

func (b *Books) certificate(e index.Entry) Certificate {
	p, _ := certs.ParsePurpose(e.Kind) // the index holds no other kind
	c := Certificate{Serial: e.Serial, Purpose: p, Names: e.Names, IssuedAt: e.Time, NotAfter: e.NotAfter, Fingerprint: e.Fingerprint}
	if gone, ok := b.index.Revoked(e.Serial); ok {
		c.RevokedAt, c.Reason = gone.Time, gone.Reason
	}
	return c
}

// Lookup finds a certificate in the books.
func (b *Books) Lookup(cert *x509.Certificate) (Certificate, bool) {
	e, ok := b.index.Issued(index.SerialOf(cert.SerialNumber))
	if !ok || e.Fingerprint != certs.Fingerprint(cert) || e.Kind == index.KindCA {
		return Certificate{}, false
	}
	return b.certificate(e), true
}

// minPrefix is how much of a serial number stands for it.
const minPrefix = 8

// Find returns the certificates that a person means: those with this name, or
// else the one with this serial number, of which the first 8 digits are enough.
func (b *Books) Find(what string) []Certificate {
	var byName, bySerial []Certificate
	name, nameErr := san.Parse(what)
	serial := strings.ToLower(strings.ReplaceAll(what, ":", ""))
	for _, c := range b.Certificates() {
		if nameErr == nil && c.Names.Has(name) {
			byName = append(byName, c)
		}
		if len(serial) >= minPrefix && strings.HasPrefix(c.Serial, serial) {
			bySerial = append(bySerial, c)
		}
	}
	if len(byName) > 0 {
		return byName
	}
	return bySerial
}

// Copy returns the CA's copy of a certificate.
func (b *Books) Copy(serial string) (*x509.Certificate, error) {
	return readCert(b.issued(serial, ".pem"))
}

// HasKey reports whether the private key of a certificate waits here.
func (b *Books) HasKey(serial string) bool {
	_, err := os.Lstat(b.issued(serial, ".key"))
	return err == nil
}

// CertPath and CRLPath are where others find what they need of the CA.
func (b *Books) CertPath() string { return filepath.Join(b.Dir, certFile) }

// CRLPath is where the CRL is.
func (b *Books) CRLPath() string { return filepath.Join(b.Dir, crlFile) }

func (b *Books) issued(serial, suffix string) string {
	return filepath.Join(b.Dir, issuedDir, serial+suffix)
}

// CRLDue reports whether a CRL should be made now: because there is none,
// because it lacks a revocation, or because less than a third of its time is
// left.
func (b *Books) CRLDue(now time.Time) bool {
	return b.CRL == nil || b.crlBehind() || Due(b.CRL.ThisUpdate, b.CRL.NextUpdate, now)
}

func (b *Books) crlBehind() bool {
	if b.CRL == nil || b.CRL.Number.Cmp(big.NewInt(b.index.CRLNumber())) < 0 {
		return true
	}
	listed := make(map[string]bool)
	for _, entry := range b.CRL.RevokedCertificateEntries {
		listed[index.SerialOf(entry.SerialNumber)] = true
	}
	for _, c := range b.Certificates() {
		if !c.RevokedAt.IsZero() && !listed[c.Serial] {
			return true
		}
	}
	return false
}

// Due reports whether less than a third of the time between two dates is left:
// time to renew, and time for a failure to renew to be noticed. It is time, too,
// if the first date is to come: a clock that was ahead for a while has left what
// counts for nobody until then.
func Due(from, until, now time.Time) bool {
	return until.Sub(now) < until.Sub(from)/3 || NotYet(from, now)
}

// NotYet reports whether a date is to come, by more than what clocks that agree
// may differ.
func NotYet(from, now time.Time) bool { return now.Add(skew).Before(from) }

// encode is PEM of one block.
func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
