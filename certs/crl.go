// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"
	"time"
)

// crlSkew is how far the clock of a CA may be ahead of ours: a CRL that was
// made a moment ago is not to be refused for it.
const crlSkew = 5 * time.Minute

// maxVerdicts bounds the signature results that one CRL remembers. Only
// certificates of one CA name that chain to an anchor ask, so there are few.
const maxVerdicts = 16

// A crl is a certificate revocation list (RFC 5280 section 5), reduced to what
// verification asks for.
type crl struct {
	where      string
	signed     *x509.RevocationList // only what CheckSignatureFrom reads
	issuer     []byte               // DER of the name
	issuerName string
	keyID      []byte // of the key that signed it, if it says
	thisUpdate time.Time
	nextUpdate time.Time
	revoked    map[string]struct{} // by the bytes of the serial number
	scope      crlScope

	mu       sync.Mutex
	verdicts map[[sha256.Size]byte]*verdict // guarded by mu
}

// A verdict is the result of one signature check. The CRL's mutex guards only
// the map: who asks first computes, and only those who ask the same wait.
type verdict struct {
	once sync.Once
	err  error
}

// crlScope is what an issuing distribution point leaves of the certificates of
// an issuer.
type crlScope struct {
	uris              []string
	userOnly, caOnly  bool
	hasDistributionPt bool
}

var (
	oidIssuingDistributionPoint = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidDeltaCRLIndicator        = asn1.ObjectIdentifier{2, 5, 29, 27}
)

// parseCRLs parses one CRL in DER, or any number of them in PEM.
func parseCRLs(where string, data []byte) ([]*crl, error) {
	// A SEQUENCE that needs a length of more than one byte: no text begins
	// like this.
	if len(data) > 1 && data[0] == 0x30 && data[1]&0x80 != 0 {
		list, err := parseCRL(where, data)
		if err != nil {
			return nil, err
		}
		return []*crl{list}, nil
	}
	var lists []*crl
	err := decodePEM(data, func(n int, block *pem.Block) error {
		if block.Type != "X509 CRL" {
			if isPrivateKey(block.Type) {
				clear(block.Bytes)
			}
			return fmt.Errorf("%s where only X509 CRL is expected", quote(block.Type, maxSAN))
		}
		list, err := parseCRL(fmt.Sprintf("%s: PEM block %d", where, n), block.Bytes)
		if err != nil {
			return err
		}
		lists = append(lists, list)
		return nil
	})
	return lists, err
}

// parseCRL refuses what it would have to ignore in order to use the list: a
// CRL with a critical extension that is not understood must not be used (RFC
// 5280 section 5.2), and one without nextUpdate can never be called stale.
func parseCRL(where string, der []byte) (*crl, error) {
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("parse CRL: %s", clean(err.Error(), maxCause))
	}
	switch {
	case len(list.Raw) != len(der):
		return nil, errors.New("parse CRL: trailing data")
	case list.NextUpdate.IsZero():
		return nil, errors.New("CRL has no nextUpdate (RFC 5280 section 5.1.2.5): it can't be told when it is stale")
	case list.SignatureAlgorithm == x509.SHA1WithRSA, list.SignatureAlgorithm == x509.ECDSAWithSHA1:
		return nil, errors.New("CRL is signed with SHA-1")
	}
	out := &crl{
		where: where,
		signed: &x509.RevocationList{
			RawTBSRevocationList: list.RawTBSRevocationList,
			Signature:            list.Signature,
			SignatureAlgorithm:   list.SignatureAlgorithm,
		},
		issuer:     list.RawIssuer,
		issuerName: clean(list.Issuer.String(), maxSubject),
		keyID:      list.AuthorityKeyId,
		thisUpdate: list.ThisUpdate,
		nextUpdate: list.NextUpdate,
		revoked:    make(map[string]struct{}, len(list.RevokedCertificateEntries)),
		verdicts:   make(map[[sha256.Size]byte]*verdict),
	}
	for _, ext := range list.Extensions {
		switch {
		case ext.Id.Equal(oidIssuingDistributionPoint):
			if out.scope, err = parseScope(ext); err != nil {
				return nil, err
			}
		case ext.Id.Equal(oidDeltaCRLIndicator):
			return nil, errors.New("delta CRL (RFC 5280 section 5.2.4): give the complete one")
		case ext.Critical:
			return nil, fmt.Errorf("CRL has the critical extension %s, which is not understood", ext.Id)
		}
	}
	for _, entry := range list.RevokedCertificateEntries {
		for _, ext := range entry.Extensions {
			if ext.Critical {
				return nil, fmt.Errorf("CRL entry of serial %x has the critical extension %s, which is not understood", entry.SerialNumber, ext.Id)
			}
		}
		// Whatever the reason code: removeFromCRL has a meaning only in
		// a delta CRL (RFC 5280 section 5.3.1).
		out.revoked[serialKey(entry.SerialNumber)] = struct{}{}
	}
	return out, nil
}

func serialKey(serial *big.Int) string { return string(serial.Bytes()) }

// parseScope reads an issuing distribution point (RFC 5280 section 5.2.5). An
// indirect CRL speaks of other issuers, and one that is limited to some reasons
// or to attribute certificates says too little to rely on: all are refused.
func parseScope(ext pkix.Extension) (crlScope, error) {
	var point struct {
		Name struct {
			Full     []asn1.RawValue `asn1:"optional,tag:0"`
			Relative []asn1.RawValue `asn1:"optional,tag:1"`
		} `asn1:"optional,tag:0"`
		User      bool           `asn1:"optional,tag:1"`
		CA        bool           `asn1:"optional,tag:2"`
		Reasons   asn1.BitString `asn1:"optional,tag:3"`
		Indirect  bool           `asn1:"optional,tag:4"`
		Attribute bool           `asn1:"optional,tag:5"`
	}
	rest, err := asn1.Unmarshal(ext.Value, &point)
	switch {
	case err != nil || len(rest) > 0:
		return crlScope{}, errors.New("CRL has a malformed issuing distribution point")
	case point.Indirect:
		return crlScope{}, errors.New("indirect CRL (RFC 5280 section 5.2.5) is not supported")
	case point.Attribute || point.Reasons.BitLength > 0 || point.User && point.CA:
		return crlScope{}, errors.New("CRL is limited to some reasons or to attribute certificates, which is not supported")
	}
	scope := crlScope{userOnly: point.User, caOnly: point.CA}
	scope.hasDistributionPt = len(point.Name.Full)+len(point.Name.Relative) > 0
	for _, name := range point.Name.Full {
		if name.Class == asn1.ClassContextSpecific && name.Tag == 6 {
			scope.uris = append(scope.uris, string(name.Bytes))
		}
	}
	if scope.hasDistributionPt && len(scope.uris) == 0 {
		return crlScope{}, errors.New("CRL has a distribution point without a URI, which is not supported")
	}
	return scope, nil
}

// covers reports whether a certificate that the list does not mention may be
// taken for not revoked (RFC 5280 section 6.3.3, step b 2). A CA that splits
// its CRL says in each part, and in each certificate, which part is the one.
func (c *crl) covers(cert *x509.Certificate) bool {
	isCA := cert.BasicConstraintsValid && cert.IsCA
	if c.scope.userOnly && isCA || c.scope.caOnly && !isCA {
		return false
	}
	return !c.scope.hasDistributionPt || slices.ContainsFunc(cert.CRLDistributionPoints, func(uri string) bool {
		return slices.Contains(c.scope.uris, uri)
	})
}

// lists reports whether the list revokes a serial number of its issuer.
func (c *crl) lists(serial *big.Int) bool {
	_, ok := c.revoked[serialKey(serial)]
	return ok
}

// stale returns why the list says nothing (any more) about unlisted
// certificates, or nil.
func (c *crl) stale(now time.Time) error {
	switch {
	case now.After(c.nextUpdate):
		return fmt.Errorf("%s: CRL is stale since %s", c.where, c.nextUpdate.UTC().Format(time.RFC3339))
	case now.Add(crlSkew).Before(c.thisUpdate):
		return fmt.Errorf("%s: CRL begins only at %s", c.where, c.thisUpdate.UTC().Format(time.RFC3339))
	}
	return nil
}

// crlSoon is how long before the end of a CRL one is warned. Ours are renewed 10
// days before; a CRL with a short life would always be near its end, so it is a
// third of that if it is less.
const crlSoon = 7 * 24 * time.Hour

// warning returns what is or will soon be wrong with the list, or "".
func (c *crl) warning(now time.Time) string {
	err := c.stale(now)
	left := c.nextUpdate.Sub(now)
	switch {
	case err != nil:
		return fmt.Sprintf("%s (issuer %s)", err, c.issuerName)
	case left < min(crlSoon, c.nextUpdate.Sub(c.thisUpdate)/3):
		return fmt.Sprintf("%s: CRL is stale in %d days, from %s (issuer %s)", c.where, left/(24*time.Hour), c.nextUpdate.UTC().Format(time.RFC3339), c.issuerName)
	}
	return ""
}

// ListCRLs returns the files of a directory in which [LoadTrust] would look for
// CRLs.
func ListCRLs(dir string) ([]string, error) { return new(Files).List(dir, crlSuffixes...) }

// CRLWarnings returns, one line each, what [Trust.Warnings] would say of the CRLs
// in a file.
func CRLWarnings(path string, now time.Time) (lines []string, err error) {
	data, err := new(Files).read(path, maxBundle, nil)
	if err != nil {
		return nil, err
	}
	lists, err := parseCRLs(path, data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for _, c := range lists {
		if line := c.warning(now); line != "" {
			lines = append(lines, line)
		}
	}
	return lines, nil
}

// from reports whether the list is issuer's by name and, as far as both say, by
// key (RFC 5280 section 5.2.1): a CA that changed its key keeps its name.
func (c *crl) from(issuer *x509.Certificate) bool {
	if !bytes.Equal(c.issuer, issuer.RawSubject) {
		return false
	}
	return len(c.keyID) == 0 || len(issuer.SubjectKeyId) == 0 || bytes.Equal(c.keyID, issuer.SubjectKeyId)
}

// signedBy checks the signature, and that the issuer may sign CRLs. The result
// is remembered: it depends on nothing but the two.
func (c *crl) signedBy(issuer *x509.Certificate) error {
	key := sha256.Sum256(issuer.Raw)
	c.mu.Lock()
	v := c.verdicts[key]
	if v == nil {
		v = new(verdict)
		if len(c.verdicts) < maxVerdicts {
			c.verdicts[key] = v
		}
	}
	c.mu.Unlock()
	v.once.Do(func() {
		if issuer.KeyUsage != 0 && issuer.KeyUsage&x509.KeyUsageCRLSign == 0 {
			v.err = fmt.Errorf("%s: CRL does not count: the key usage of its issuer %s lacks cRLSign", c.where, subjectOf(issuer))
		} else if err := c.signed.CheckSignatureFrom(issuer); err != nil {
			v.err = fmt.Errorf("%s: CRL is not signed by %s: %w", c.where, subjectOf(issuer), err)
		}
	})
	return v.err
}
