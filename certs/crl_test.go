// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
)

var (
	oidIDP        = asn1.ObjectIdentifier{2, 5, 29, 28}
	oidDelta      = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidCertIssuer = asn1.ObjectIdentifier{2, 5, 29, 29}
	oidUnknown    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
)

// idp encodes an issuing distribution point from the contents of its SEQUENCE.
func idp(contents ...byte) pkix.Extension {
	return pkix.Extension{Id: oidIDP, Critical: true, Value: append([]byte{0x30, byte(len(contents))}, contents...)}
}

// idpURI encodes one with a distribution point of one URI.
func idpURI(uri string) pkix.Extension {
	n := byte(len(uri))
	return idp(append([]byte{0xa0, n + 4, 0xa0, n + 2, 0x86, n}, uri...)...)
}

func listWith(now time.Time, ext ...pkix.Extension) *x509.RevocationList {
	return &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(time.Hour), ExtraExtensions: ext}
}

func TestLoadCRLRefuses(t *testing.T) {
	now := time.Now()
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "root", KeyType: certstest.RSA})
	mute := certstest.MustCA(t, certstest.CAOptions{CommonName: "root", Key: ca.Key, KeyUsage: x509.KeyUsageCertSign})
	signed := func(list *x509.RevocationList) []byte {
		der, err := ca.SignCRL(list)
		return certstest.Must(t, der, err)
	}
	good := signed(listWith(now))
	badSignature := bytes.Clone(good)
	badSignature[len(badSignature)-1] ^= 1

	var parts pkix.CertificateList
	_, err := asn1.Unmarshal(good, &parts)
	must(t, err)
	parts.TBSCertList.Raw, parts.TBSCertList.NextUpdate = nil, time.Time{}
	endless, err := asn1.Marshal(parts)
	must(t, err)
	sha256OID := []byte{0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b}
	sha1 := bytes.ReplaceAll(good, sha256OID, append(bytes.Clone(sha256OID[:8]), 5))

	critical := listWith(now)
	critical.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: big.NewInt(5), RevocationTime: now,
		ExtraExtensions: []pkix.Extension{{Id: oidCertIssuer, Critical: true, Value: []byte{0x30, 0}}}}}

	const refused = "not supported"
	tests := []struct {
		name string
		data []byte
		want []string
	}{
		{"empty", nil, []string{"file is empty"}},
		{"nonsense", []byte("hello"), []string{"no PEM block"}},
		{"larger than 8 MiB", make([]byte, 8<<20+1), []string{"more than the limit"}},
		{"truncated DER", good[:len(good)-1], []string{"parse CRL"}},
		{"DER with something behind", append(bytes.Clone(good), 0), []string{"trailing data"}},
		{"damaged second CRL", join(certstest.CRLPEM(good), certstest.CRLPEM(good)[:100]), []string{"PEM block 2: malformed"}},
		{"certificate", ca.PEM(), []string{`PEM block 1: "CERTIFICATE" where only X509 CRL`}},
		{"delta CRL", signed(listWith(now, pkix.Extension{Id: oidDelta, Critical: true, Value: []byte{2, 1, 1}})), []string{"delta CRL"}},
		{"delta CRL that does not say it is critical", signed(listWith(now, pkix.Extension{Id: oidDelta, Value: []byte{2, 1, 1}})), []string{"delta CRL"}},
		{"unknown critical extension", signed(listWith(now, pkix.Extension{Id: oidUnknown, Critical: true})), []string{"critical extension 1.3.6.1.4.1.99999.1"}},
		{"unknown critical extension of an entry", signed(critical), []string{"serial 5", "critical extension 2.5.29.29"}},
		{"indirect CRL", signed(listWith(now, idp(0x84, 1, 0xff))), []string{"indirect CRL"}},
		{"CRL of some reasons", signed(listWith(now, idp(0x83, 2, 1, 0x40))), []string{refused}},
		{"CRL of attribute certificates", signed(listWith(now, idp(0x85, 1, 0xff))), []string{refused}},
		{"CRL of users only and CAs only", signed(listWith(now, idp(0x81, 1, 0xff, 0x82, 1, 0xff))), []string{refused}},
		{"distribution point by another kind of name", signed(listWith(now, idp(0xa0, 5, 0xa0, 3, 0x82, 1, 'x'))), []string{refused}},
		{"malformed distribution point", signed(listWith(now, idp(0x99))), []string{"malformed issuing distribution point"}},
		{"without nextUpdate", endless, []string{"no nextUpdate"}},
		{"signed with SHA-1", sha1, []string{"SHA-1"}},
		{"with a signature that is not the anchor's", badSignature, []string{"not signed by CN=root"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust, err := newTrust(t, certs.StaleWarn, [][]byte{good, tt.data}, ca)
			wantErr(t, err, append(tt.want, "load CRL", "1.crl")...)
			if trust != nil {
				t.Error("trust returned with an error")
			}
		})
	}
	t.Run("by an anchor that may not sign CRLs", func(t *testing.T) {
		_, err := newTrust(t, certs.StaleWarn, [][]byte{good}, mute)
		wantErr(t, err, "0.crl", "lacks cRLSign")
	})
	t.Run("missing, or a directory without any", func(t *testing.T) {
		dir := t.TempDir()
		path := put(t, filepath.Join(dir, "ca.pem"), ca.PEM(), 0o644)
		_, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path, CRL: []string{filepath.Join(dir, "none.crl")}})
		wantErr(t, err, "none.crl", "no such file")
		_, err = certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path, CRL: []string{t.TempDir()}})
		wantErr(t, err, "no file named *.crl, *.pem")
	})
}

func TestRevocation(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	mute := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", Key: middle.Key, KeyUsage: x509.KeyUsageCertSign})
	namesake := certstest.MustCA(t, certstest.CAOptions{CommonName: "middle"})
	const uri = "http://crl.example/1"
	host := middle.MustIssue(t, certstest.Options{CommonName: "host", CRLDistributionPoints: []string{uri}})
	direct := root.MustIssue(t, certstest.Options{CommonName: "direct"})

	crl := func(ca *certstest.CA, from, to time.Duration, revoked ...*x509.Certificate) []byte {
		serials := []*big.Int{big.NewInt(42)}
		for _, cert := range revoked {
			serials = append(serials, cert.SerialNumber)
		}
		return ca.MustCRL(t, serials, now.Add(from), now.Add(to))
	}
	fresh := func(ca *certstest.CA, revoked ...*x509.Certificate) []byte {
		return crl(ca, -time.Hour, time.Hour, revoked...)
	}
	stale := func(ca *certstest.CA, revoked ...*x509.Certificate) []byte {
		return crl(ca, -2*time.Hour, -time.Hour, revoked...)
	}
	with := func(ext pkix.Extension) []byte {
		der, err := middle.SignCRL(listWith(now, ext))
		return certstest.Must(t, der, err)
	}
	forged := fresh(middle)
	forged[len(forged)-1] ^= 1
	staleUsers := listWith(now.Add(-3*time.Hour), idp(0x81, 1, 0xff))
	staleUsersOfRoot, err := root.SignCRL(staleUsers)
	must(t, err)
	removed := listWith(now)
	removed.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: host.Cert.SerialNumber, RevocationTime: now, ReasonCode: 8}}
	removeFromCRL, err := middle.SignCRL(removed)
	must(t, err)

	const refuse, warn = certs.StaleRefuse, certs.StaleWarn
	tests := []struct {
		name   string
		policy certs.StalePolicy
		crls   [][]byte
		chain  []*x509.Certificate
		want   certs.Reason
		text   string
	}{
		{"peer revoked", refuse, [][]byte{fresh(middle, host.Cert)}, host.Chain(), certs.Revoked, "revoked by CN=middle in"},
		{"peer revoked, lenient", warn, [][]byte{fresh(middle, host.Cert)}, host.Chain(), certs.Revoked, "0.crl"},
		{"peer revoked below the root", refuse, [][]byte{fresh(root, direct.Cert)}, direct.Chain(), certs.Revoked, "CN=root"},
		{"peer revoked in a stale list", warn, [][]byte{stale(middle, host.Cert)}, host.Chain(), certs.Revoked, ""},
		{"peer revoked in the older of two lists", refuse, [][]byte{fresh(middle), stale(middle, host.Cert)}, host.Chain(), certs.Revoked, "1.crl"},
		{"peer revoked in the second of a PEM file", refuse, [][]byte{join(certstest.CRLPEM(fresh(root)), certstest.CRLPEM(fresh(middle, host.Cert)))}, host.Chain(), certs.Revoked, "PEM block 2"},
		{"peer listed as removed, which means nothing in a complete list", warn, [][]byte{removeFromCRL}, host.Chain(), certs.Revoked, ""},
		{"intermediate revoked", refuse, [][]byte{fresh(middle), fresh(root, middle.Cert)}, host.Chain(), certs.Revoked, "CN=middle"},
		{"stale list", refuse, [][]byte{stale(middle)}, host.Chain(), certs.NoRevocationInfo, "CRL is stale since"},
		{"list of the future", refuse, [][]byte{crl(middle, 10*time.Minute, time.Hour)}, host.Chain(), certs.NoRevocationInfo, "CRL begins only at"},
		{"list of another issuer only", refuse, [][]byte{fresh(root)}, host.Chain(), certs.NoRevocationInfo, `no CRL of its issuer "CN=middle"`},
		{"list of a namesake of the issuer", refuse, [][]byte{fresh(namesake)}, host.Chain(), certs.NoRevocationInfo, "no CRL of its issuer"},
		{"list with another signature", refuse, [][]byte{forged}, host.Chain(), certs.NoRevocationInfo, "not signed by CN=middle"},
		{"issuer may not sign lists", refuse, [][]byte{fresh(middle)}, []*x509.Certificate{host.Cert, mute.Cert}, certs.NoRevocationInfo, "lacks cRLSign"},
		{"list of another part", refuse, [][]byte{with(idpURI("http://crl.example/2"))}, host.Chain(), certs.NoRevocationInfo, "no CRL"},
		{"list of CA certificates", refuse, [][]byte{with(idp(0x82, 1, 0xff))}, host.Chain(), certs.NoRevocationInfo, "no CRL"},
		{"stale list of the root", refuse, [][]byte{fresh(middle), stale(root)}, host.Chain(), certs.NoRevocationInfo, "1.crl"},

		{"fresh list", refuse, [][]byte{fresh(middle)}, host.Chain(), "", ""},
		{"fresh lists of all", refuse, [][]byte{fresh(middle), fresh(root)}, host.Chain(), "", ""},
		{"fresh list beside a stale one", refuse, [][]byte{stale(middle), fresh(middle)}, host.Chain(), "", ""},
		{"list of a CA whose clock is ahead", refuse, [][]byte{crl(middle, time.Minute, time.Hour)}, host.Chain(), "", ""},
		{"stale list, lenient", warn, [][]byte{stale(middle)}, host.Chain(), "", ""},
		{"no list of the issuer, lenient", warn, [][]byte{fresh(root)}, host.Chain(), "", ""},
		{"no lists at all", refuse, nil, host.Chain(), "", ""},
		{"namesake lists the serial", warn, [][]byte{fresh(namesake, host.Cert)}, host.Chain(), "", ""},
		{"forged list of the serial", warn, [][]byte{forged}, host.Chain(), "", ""},
		{"the part for this certificate", refuse, [][]byte{with(idpURI(uri))}, host.Chain(), "", ""},
		{"list of user certificates", refuse, [][]byte{with(idp(0x81, 1, 0xff))}, host.Chain(), "", ""},
		{"stale list of the root that says nothing of CAs", refuse, [][]byte{fresh(middle), staleUsersOfRoot}, host.Chain(), "", ""},
		{"unknown extension that is not critical", refuse, [][]byte{with(pkix.Extension{Id: oidUnknown})}, host.Chain(), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			trust := mustTrust(t, tt.policy, tt.crls, root)
			for range 2 { // the second time from what is remembered
				_, err := trust.Verify(tt.chain, certs.ServerAuth, "", now)
				wantReason(t, err, tt.want, tt.text)
			}
		})
	}
}

// Another way up may remain when an intermediate is revoked.
func TestRevocationLeavesOtherChains(t *testing.T) {
	now := time.Now()
	a, b := certstest.MustCA(t, certstest.CAOptions{CommonName: "a"}), certstest.MustCA(t, certstest.CAOptions{CommonName: "b"})
	viaA := a.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	viaB := b.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", Key: viaA.Key})
	host := viaA.MustIssue(t, certstest.Options{})
	peer := []*x509.Certificate{host.Cert, viaA.Cert, viaB.Cert}
	list := a.MustCRL(t, []*big.Int{viaA.Cert.SerialNumber}, now, now.Add(time.Hour))
	ofMiddle := viaA.MustCRL(t, nil, now, now.Add(time.Hour))
	chains, err := mustTrust(t, certs.StaleRefuse, [][]byte{list, ofMiddle}, a, b).Verify(peer, certs.ServerAuth, "", now)
	must(t, err)
	if len(chains) != 1 || !chains[0][2].Equal(b.Cert) {
		t.Errorf("got %d chains, want the one through b", len(chains))
	}
	staleB := b.MustCRL(t, nil, now.Add(-2*time.Hour), now.Add(-time.Hour))
	staleA := a.MustCRL(t, nil, now.Add(-2*time.Hour), now.Add(-time.Hour))
	listB := b.MustCRL(t, []*big.Int{viaB.Cert.SerialNumber}, now, now.Add(time.Hour))
	// Revoked is the reason to show, whichever chain comes first.
	for _, lists := range [][][]byte{{list, listB, ofMiddle}, {staleA, listB, ofMiddle}, {list, staleB, ofMiddle}} {
		_, err = mustTrust(t, certs.StaleRefuse, lists, a, b).Verify(peer, certs.ServerAuth, "", now)
		wantReason(t, err, certs.Revoked, "CN=middle")
	}
}

func TestSignatureResultsAreRememberedAndBounded(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	host := middle.MustIssue(t, certstest.Options{})
	trust := mustTrust(t, certs.StaleRefuse, [][]byte{middle.MustCRL(t, nil, now, now.Add(time.Hour))}, root)
	if got := trust.Verdicts(0); got != 0 {
		t.Fatalf("%d results before the first peer", got)
	}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := trust.Verify(host.Chain(), certs.ClientAuth, "", now); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := trust.Verdicts(0); got != 1 {
		t.Errorf("%d results for one issuer", got)
	}
	for range 20 {
		twin := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", Key: middle.Key})
		must(t, trust.SignedBy(0, twin.Cert))
		wantErr(t, trust.SignedBy(0, certstest.MustCA(t, certstest.CAOptions{CommonName: "middle"}).Cert), "not signed by")
	}
	if got := trust.Verdicts(0); got != 16 {
		t.Errorf("%d results remembered, want the bound of 16", got)
	}
}
