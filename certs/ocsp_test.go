// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"rpctls/certs"
	"rpctls/certs/certstest"
)

var ocspSigning = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 9}

// staple signs a response about a certificate of ca.
func staple(t testing.TB, ca *certstest.CA, responder *x509.Certificate, key crypto.Signer, r ocsp.Response) []byte {
	t.Helper()
	if r.IssuerHash == 0 {
		r.IssuerHash = crypto.SHA256
	}
	b, err := ocsp.CreateResponse(ca.Cert, responder, r, key)
	must(t, err)
	return b
}

func TestCheckStaple(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: "other"})
	rsaRoot := certstest.MustCA(t, certstest.CAOptions{CommonName: "rsa", KeyType: certstest.RSA})
	host := root.MustIssue(t, certstest.Options{CommonName: "host"})
	neighbour := root.MustIssue(t, certstest.Options{CommonName: "neighbour"})
	delegate := root.MustIssue(t, certstest.Options{CommonName: "responder", EKU: certstest.OIDs{ocspSigning}})
	lapsed := root.MustIssue(t, certstest.Options{CommonName: "responder", EKU: certstest.OIDs{ocspSigning}, NotBefore: now.Add(-9 * time.Hour), NotAfter: now.Add(-time.Hour)})
	fired := root.MustIssue(t, certstest.Options{CommonName: "responder", EKU: certstest.OIDs{ocspSigning}})
	stranger := other.MustIssue(t, certstest.Options{CommonName: "responder", EKU: certstest.OIDs{ocspSigning}})
	crl := root.MustCRL(t, certstest.Serials(fired), now.Add(-time.Hour), now.Add(time.Hour))

	good := ocsp.Response{Status: ocsp.Good, SerialNumber: host.Cert.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	with := func(change func(*ocsp.Response)) ocsp.Response {
		r := good
		change(&r)
		return r
	}
	own := func(r ocsp.Response) []byte { return staple(t, root, root.Cert, root.Key, r) }
	by := func(p *certstest.Pair) []byte {
		return staple(t, root, p.Cert, p.Key, with(func(r *ocsp.Response) { r.Certificate = p.Cert }))
	}
	revoked := with(func(r *ocsp.Response) {
		r.Status, r.RevokedAt, r.RevocationReason = ocsp.Revoked, now.Add(-time.Hour), ocsp.KeyCompromise
	})
	tampered := own(good)
	tampered[len(tampered)-1] ^= 1
	rsaHost := rsaRoot.MustIssue(t, certstest.Options{CommonName: "host"})
	for _, tt := range []struct {
		name    string
		staple  []byte
		want    certs.Reason
		text    string
		lenient certs.Reason // with StaleWarn
	}{
		{name: "none"},
		{name: "good", staple: own(good)},
		{name: "good, named by SHA-1", staple: own(with(func(r *ocsp.Response) { r.IssuerHash = crypto.SHA1 }))},
		{name: "good, by a delegate", staple: by(delegate)},
		{"revoked", own(revoked), certs.Revoked, "revoked by an OCSP response", certs.Revoked},
		{"revoked, long ago", own(with(func(r *ocsp.Response) {
			*r = revoked
			r.ThisUpdate, r.NextUpdate = now.Add(-99*time.Hour), now.Add(-98*time.Hour)
		})), certs.Revoked, "", certs.Revoked},
		{"out of date", own(with(func(r *ocsp.Response) { r.ThisUpdate, r.NextUpdate = now.Add(-9*time.Hour), now.Add(-time.Minute) })), certs.NoRevocationInfo, "out of date since", ""},
		{"of the future", own(with(func(r *ocsp.Response) { r.ThisUpdate = now.Add(10 * time.Minute) })), certs.NoRevocationInfo, "begins only at", ""},
		{"does not know", own(with(func(r *ocsp.Response) { r.Status = ocsp.Unknown })), certs.NoRevocationInfo, "does not know", ""},
		{"without an end", own(with(func(r *ocsp.Response) { r.NextUpdate = time.Time{} })), certs.BadCertificate, "until when", certs.BadCertificate},
		{"about the neighbour", own(with(func(r *ocsp.Response) { r.SerialNumber = neighbour.Cert.SerialNumber })), certs.BadCertificate, "no response matching", certs.BadCertificate},
		{"about another CA's", staple(t, other, root.Cert, root.Key, good), certs.BadCertificate, "another CA's", certs.BadCertificate},
		{"by another CA", staple(t, root, other.Cert, other.Key, good), certs.BadCertificate, "signature", certs.BadCertificate},
		{"by a certificate that may not", by(neighbour), certs.BadCertificate, "may not sign", certs.BadCertificate},
		{"by the host itself", by(host), certs.BadCertificate, "may not sign", certs.BadCertificate},
		{"by another CA's delegate", by(stranger), certs.BadCertificate, "signature", certs.BadCertificate},
		{"by a delegate that has expired", by(lapsed), certs.BadCertificate, "not valid now", certs.BadCertificate},
		{"by a delegate that is revoked", by(fired), certs.BadCertificate, "is revoked", certs.BadCertificate},
		{"tampered with", tampered, certs.BadCertificate, "", certs.BadCertificate},
		{"try later", ocsp.TryLaterErrorResponse, certs.BadCertificate, "", certs.BadCertificate},
		{"nonsense", []byte("nonsense"), certs.BadCertificate, "", certs.BadCertificate},
		{"too large", make([]byte, 1<<17), certs.BadCertificate, "more than", certs.BadCertificate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for policy, want := range map[certs.StalePolicy]certs.Reason{certs.StaleRefuse: tt.want, certs.StaleWarn: tt.lenient} {
				trust := mustTrust(t, policy, [][]byte{crl}, root)
				chains, err := trust.Verify(host.Chain(), certs.ServerAuth, "", now)
				must(t, err)
				text := tt.text
				if want == "" {
					text = ""
				}
				wantReason(t, trust.CheckStaple(tt.staple, chains, now), want, text)
			}
		})
	}
	// SHA-1 signs nothing, whoever does.
	old := staple(t, rsaRoot, rsaRoot.Cert, rsaRoot.Key, ocsp.Response{Status: ocsp.Good, SerialNumber: rsaHost.Cert.SerialNumber, ThisUpdate: now, NextUpdate: now.Add(time.Hour), SignatureAlgorithm: x509.SHA1WithRSA})
	trust := mustTrust(t, certs.StaleRefuse, nil, rsaRoot)
	chains, err := trust.Verify(rsaHost.Chain(), certs.ServerAuth, "", now)
	must(t, err)
	wantReason(t, trust.CheckStaple(old, chains, now), certs.BadCertificate, "SHA-1")
}

// FuzzStaple: whatever a peer sends as an OCSP response is refused with a reason,
// unless the CA has said good.
func FuzzStaple(f *testing.F) {
	now := time.Now()
	ca := certstest.MustCA(f, certstest.CAOptions{})
	host := ca.MustIssue(f, certstest.Options{CommonName: "host"})
	responder := ca.MustIssue(f, certstest.Options{CommonName: "responder", EKU: certstest.OIDs{ocspSigning}})
	r := ocsp.Response{Status: ocsp.Good, SerialNumber: host.Cert.SerialNumber, ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour)}
	own := staple(f, ca, ca.Cert, ca.Key, r)
	f.Add(own)
	r.Certificate = responder.Cert
	delegated := staple(f, ca, responder.Cert, responder.Key, r)
	f.Add(delegated)
	f.Add(ocsp.TryLaterErrorResponse)
	f.Add(own[:len(own)/2])
	f.Add([]byte{0x30, 0x03, 0x0a, 0x01, 0x00})
	trust := mustTrust(f, certs.StaleRefuse, nil, ca)
	chains, err := trust.Verify(host.Chain(), certs.ServerAuth, "", now)
	must(f, err)
	f.Fuzz(func(t *testing.T, b []byte) {
		err := trust.CheckStaple(b, chains, now)
		checkEither(t, err == nil, err)
		// A signature covers what it says, and not every byte around it: what
		// passes has the same signed part as one of the two.
		if err == nil && len(b) > 0 {
			got, err := ocsp.ParseResponse(b, nil)
			must(t, err)
			for _, known := range [][]byte{own, delegated} {
				want, err := ocsp.ParseResponse(known, nil)
				must(t, err)
				if bytes.Equal(got.TBSResponseData, want.TBSResponseData) {
					return
				}
			}
			t.Errorf("passes: %x", b)
		}
	})
}
