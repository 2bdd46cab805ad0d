// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/ocsp"
)

// maxStaple bounds an OCSP response. With a chain of responders it has a few KiB;
// TLS itself would allow 16 MiB.
const maxStaple = 64 << 10

// CheckStaple judges the OCSP response (RFC 6960) that a peer sent with its
// certificate, if it did: an empty one says nothing. Chains are those that
// [Trust.Verify] returned for the same peer, and the error is a [*VerifyError].
//
// A peer need not send one. One that does claims something, and it must be true:
//
//   - a response that says revoked refuses the peer, with Revoked;
//   - one that is malformed, about another certificate, signed by anybody but the
//     issuer or a responder to whom the issuer has given that right (RFC 6960
//     section 4.2.2.2), signed with SHA-1, or that does not say how long it is
//     valid, refuses it with BadCertificate;
//   - one that is out of date, or whose responder does not know the certificate,
//     says nothing about it: NoRevocationInfo, or nothing with [StaleWarn].
//
// What a response says in favour of a certificate counts for nothing beside a CRL:
// Verify has looked at those.
func (t *Trust) CheckStaple(staple []byte, chains [][]*x509.Certificate, now time.Time) error {
	if len(staple) == 0 {
		return nil
	}
	if now.IsZero() {
		now = time.Now()
	}
	var leaf *x509.Certificate
	var worst *VerifyError
	for _, chain := range chains {
		if len(chain) < 2 {
			continue // an anchor itself, about which its issuer is not asked
		}
		leaf = chain[0]
		refusal := t.checkStaple(staple, leaf, chain[1], now)
		if refusal == nil {
			return nil
		}
		if worst == nil || refusal.Reason == Revoked {
			worst = refusal
		}
	}
	if worst == nil {
		return nil
	}
	return worst
}

// checkStaple does so with the certificate of one issuer, which has signed leaf.
func (t *Trust) checkStaple(staple []byte, leaf, issuer *x509.Certificate, now time.Time) *VerifyError {
	bad := func(err error) *VerifyError {
		return refuse(BadCertificate, leaf, "%w", &bounded{"OCSP response: " + clean(err.Error(), maxCause), err})
	}
	if len(staple) > maxStaple {
		return bad(fmt.Errorf("%d bytes, more than %d", len(staple), maxStaple))
	}
	r, err := ocsp.ParseResponseForCert(staple, leaf, issuer)
	if err != nil {
		return bad(err)
	}
	switch r.SignatureAlgorithm {
	case x509.SHA1WithRSA, x509.ECDSAWithSHA1, x509.DSAWithSHA1:
		return bad(errors.New("signed with SHA-1"))
	}
	if err := aboutCertificate(r.TBSResponseData, leaf, issuer); err != nil {
		return bad(err)
	}
	if r.Certificate != nil && !r.Certificate.Equal(issuer) {
		if err := t.checkResponder(r.Certificate, issuer, now); err != nil {
			return bad(err)
		}
	}
	if r.Status == ocsp.Revoked {
		// However old: nothing makes it undone but a certificate on hold, for
		// which the peer would have a newer response.
		return refuse(Revoked, leaf, "serial %x is revoked by an OCSP response of %s", leaf.SerialNumber, r.ThisUpdate.UTC().Format(time.RFC3339))
	}
	if r.NextUpdate.IsZero() {
		return bad(errors.New("it does not say until when it is valid"))
	}
	var nothing error
	switch {
	case r.Status != ocsp.Good:
		nothing = errors.New("the OCSP responder does not know the certificate")
	case now.After(r.NextUpdate):
		nothing = fmt.Errorf("OCSP response is out of date since %s", r.NextUpdate.UTC().Format(time.RFC3339))
	case now.Add(crlSkew).Before(r.ThisUpdate):
		nothing = fmt.Errorf("OCSP response begins only at %s", r.ThisUpdate.UTC().Format(time.RFC3339))
	}
	if nothing == nil || t.policy == StaleWarn {
		return nil
	}
	return refuse(NoRevocationInfo, leaf, "%w", nothing)
}

// checkResponder judges a certificate that signed a response in its issuer's
// place; ocsp has checked the two signatures.
func (t *Trust) checkResponder(responder, issuer *x509.Certificate, now time.Time) error {
	switch {
	case !bytes.Equal(responder.RawIssuer, issuer.RawSubject):
		return errors.New("the responder's certificate is another CA's")
	case !slices.Contains(responder.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning):
		// Else every certificate of that CA could vouch for itself.
		return errors.New("signed by a certificate that may not sign OCSP responses")
	case responder.SignatureAlgorithm == x509.SHA1WithRSA || responder.SignatureAlgorithm == x509.ECDSAWithSHA1:
		return errors.New("the responder's certificate is signed with SHA-1")
	case now.Before(responder.NotBefore) || now.After(responder.NotAfter):
		return errors.New("the responder's certificate is not valid now")
	}
	for _, c := range t.byName[string(issuer.RawSubject)] {
		if c.from(issuer) && c.signedBy(issuer) == nil && c.lists(responder.SerialNumber) {
			return errors.New("the responder's certificate is revoked")
		}
	}
	return nil
}

// aboutCertificate checks that the response which ocsp has picked by its serial
// number alone is about that CA's certificate: a responder may serve several.
func aboutCertificate(tbs []byte, leaf, issuer *x509.Certificate) error {
	type certID struct {
		Algorithm pkix.AlgorithmIdentifier
		NameHash  []byte
		KeyHash   []byte
		Serial    *big.Int
	}
	var data struct {
		Version   int `asn1:"optional,default:0,explicit,tag:0"`
		Responder asn1.RawValue
		Produced  time.Time `asn1:"generalized"`
		Responses []asn1.RawValue
	}
	if _, err := asn1.Unmarshal(tbs, &data); err != nil {
		return errors.New("malformed")
	}
	var key struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(issuer.RawSubjectPublicKeyInfo, &key); err != nil {
		return errors.New("the issuer's key cannot be read")
	}
	for _, raw := range data.Responses {
		var id certID // the first thing in it
		if _, err := asn1.Unmarshal(raw.Bytes, &id); err != nil {
			return errors.New("malformed")
		}
		if id.Serial == nil || id.Serial.Cmp(leaf.SerialNumber) != 0 {
			continue
		}
		h, ok := hashes[id.Algorithm.Algorithm.String()]
		if !ok || !h.Available() {
			return errors.New("unknown hash")
		}
		sum := func(b []byte) []byte { d := h.New(); d.Write(b); return d.Sum(nil) }
		if !bytes.Equal(id.NameHash, sum(issuer.RawSubject)) || !bytes.Equal(id.KeyHash, sum(key.Key.RightAlign())) {
			return errors.New("about another CA's certificate")
		}
		return nil // the first one, as ocsp picks it
	}
	return errors.New("about another certificate")
}

// hashes name a certificate's issuer. SHA-1 is what everybody uses (RFC 5019);
// nothing depends on collisions there.
var hashes = map[string]crypto.Hash{
	"1.3.14.3.2.26":          crypto.SHA1,
	"2.16.840.1.101.3.4.2.1": crypto.SHA256,
	"2.16.840.1.101.3.4.2.2": crypto.SHA384,
	"2.16.840.1.101.3.4.2.3": crypto.SHA512,
}
