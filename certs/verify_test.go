// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

// wantReason checks the reason of err, "" for none, and a part of its text.
func wantReason(t testing.TB, err error, want certs.Reason, text string) {
	t.Helper()
	if want == "" {
		must(t, err)
		return
	}
	var refusal *certs.VerifyError
	if !errors.As(err, &refusal) {
		t.Fatalf("got %v, want a VerifyError", err)
	}
	if diff := cmp.Diff(want, refusal.Reason); diff != "" {
		t.Errorf("reason of %q (-want +got):\n%s", err, diff)
	}
	if !slices.Contains(certs.Reasons(), refusal.Reason) {
		t.Errorf("reason %q is not in the closed set", refusal.Reason)
	}
	wantErr(t, err, text)
	checkLine(t, err.Error(), 4096)
}

func TestVerify(t *testing.T) {
	now := time.Now()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	rsaMiddle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "small", KeyType: certstest.RSA, RSABits: 1024})
	past := certstest.MustCA(t, certstest.CAOptions{CommonName: "past", NotBefore: now.Add(-9 * time.Hour), NotAfter: now.Add(-time.Hour)})
	future := certstest.MustCA(t, certstest.CAOptions{CommonName: "future", NotBefore: now.Add(time.Hour)})
	pastMiddle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "past middle", NotBefore: now.Add(-9 * time.Hour), NotAfter: now.Add(-time.Hour)})
	futureMiddle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "future middle", NotBefore: now.Add(time.Hour)})
	mailRoot := certstest.MustCA(t, certstest.CAOptions{CommonName: "mail", EKU: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 4}}})
	webMiddle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "web", EKU: []asn1.ObjectIdentifier{certstest.ServerAuth}})

	chain := func(ca *certstest.CA, o certstest.Options) []*x509.Certificate {
		o.CommonName = "host"
		return ca.MustIssue(t, o).Chain()
	}
	issuing := middle.MustIssue(t, certstest.Options{CommonName: "issuing host"})
	self := certstest.MustCA(t, certstest.CAOptions{CommonName: "self", KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature})
	namesake := certstest.MustCA(t, certstest.CAOptions{CommonName: "self", KeyUsage: self.Cert.KeyUsage})
	trust := mustTrust(t, certs.StaleRefuse, nil, root, past, future, mailRoot, self)
	plain := chain(middle, certstest.Options{DNS: []string{"nfs.example"}})
	oids := func(oids ...asn1.ObjectIdentifier) certstest.Options { return certstest.Options{EKU: oids} }
	const server, client = certs.ServerAuth, certs.ClientAuth
	tests := []struct {
		name    string
		chain   []*x509.Certificate
		purpose certs.Purpose
		want    certs.Reason
		text    string
	}{
		{"no certificate", nil, server, certs.NoCertificate, "no certificate was sent"},
		{"too many certificates", slices.Repeat(plain[:1], 11), server, certs.BadCertificate, "chain of 11"},
		{"unknown CA", chain(stranger, certstest.Options{}), server, certs.UnknownCA, `issuer "CN=stranger"`},
		{"missing intermediate", plain[:1], server, certs.UnknownCA, `issuer "CN=middle"`},
		{"stranger who sends its root", append(chain(stranger, certstest.Options{}), stranger.Cert), server, certs.UnknownCA, ""},
		{"namesake of an anchor", []*x509.Certificate{namesake.Cert}, server, certs.UnknownCA, ""},
		{"anchor that may only sign certificates", []*x509.Certificate{root.Cert}, server, certs.KeyUsage, "digitalSignature"},
		{"issued by a host", chain(&certstest.CA{Cert: issuing.Cert, Key: issuing.Key, Parent: middle}, certstest.Options{}), server, certs.UnknownCA, ""},
		{"expired", chain(middle, certstest.Options{NotAfter: now.Add(-time.Second)}), server, certs.Expired, `"CN=host"`},
		{"not yet valid", chain(middle, certstest.Options{NotBefore: now.Add(time.Hour)}), server, certs.NotYetValid, `"CN=host"`},
		{"intermediate expired", chain(pastMiddle, certstest.Options{}), server, certs.Expired, `"CN=past middle"`},
		{"intermediate not yet valid", chain(futureMiddle, certstest.Options{}), server, certs.NotYetValid, `"CN=future middle"`},
		{"root expired", chain(past, certstest.Options{}), server, certs.Expired, `"CN=past"`},
		{"root not yet valid", chain(future, certstest.Options{}), server, certs.NotYetValid, `"CN=future"`},
		{"RSA key of 1024 bits", chain(middle, certstest.Options{KeyType: certstest.RSA, RSABits: 1024}), server, certs.BadCertificate, "1024 bits"},
		{"intermediate with RSA key of 1024 bits", chain(rsaMiddle, certstest.Options{}), server, certs.BadCertificate, `"CN=small"`},
		{"key on P-224", chain(middle, certstest.Options{KeyType: certstest.ECP224}), server, certs.BadCertificate, "P-224"},
		{"unknown critical extension", chain(middle, certstest.Options{Extra: critical()}), server, certs.BadCertificate, "unhandled critical"},
		{"key usage without digitalSignature", chain(middle, certstest.Options{KeyUsage: x509.KeyUsageKeyEncipherment}), server, certs.KeyUsage, "digitalSignature"},
		{"client's certificate on a server", chain(middle, oids(certstest.ClientAuth, certstest.RPCTLSClient)), server, certs.KeyUsage, "for a server"},
		{"server's certificate on a client", chain(middle, oids(certstest.ServerAuth, certstest.RPCTLSServer)), client, certs.KeyUsage, "for a client"},
		{"key usage without any bit", chain(middle, certstest.Options{Extra: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: []byte{3, 1, 0}}}}), server, certs.KeyUsage, "digitalSignature"},
		{"RFC 9289 server's certificate on a client", chain(middle, oids(certstest.RPCTLSServer)), client, certs.KeyUsage, ""},
		{"RFC 9289 client's certificate on a server", chain(middle, oids(certstest.RPCTLSClient)), server, certs.KeyUsage, ""},
		{"unknown purpose", chain(middle, oids(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 3})), server, certs.KeyUsage, ""},
		{"code signer", chain(middle, oids(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3})), server, certs.KeyUsage, ""},
		{"root for mail", chain(mailRoot, certstest.Options{}), server, certs.KeyUsage, `"CN=mail"`},
		{"intermediate for servers, on a client", chain(webMiddle, certstest.Options{}), client, certs.KeyUsage, `"CN=web"`},
		{"purpose left out", plain, 0, certs.KeyUsage, ""},

		{"server", plain, server, "", ""},
		{"client", plain, client, "", ""},
		{"chain out of order, with a spare", []*x509.Certificate{plain[0], stranger.Cert, middle.Cert, root.Cert}, server, "", ""},
		{"RFC 9289 server", chain(middle, oids(certstest.RPCTLSServer)), server, "", ""},
		{"RFC 9289 client", chain(middle, oids(certstest.RPCTLSClient)), client, "", ""},
		{"RFC 9289 server below a web CA", chain(webMiddle, oids(certstest.RPCTLSServer)), server, "", ""},
		{"any purpose", chain(middle, oids(certstest.AnyEKU)), client, "", ""},
		{"no extended key usage", chain(middle, certstest.Options{NoEKU: true}), client, "", ""},
		{"no key usage", chain(middle, certstest.Options{NoKeyUsage: true}), server, "", ""},
		{"RSA", chain(middle, certstest.Options{KeyType: certstest.RSA}), server, "", ""},
		{"Ed25519", chain(middle, certstest.Options{KeyType: certstest.Ed25519}), server, "", ""},
		{"an anchor itself", []*x509.Certificate{self.Cert}, server, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chains, err := trust.Verify(tt.chain, tt.purpose, "", now)
			wantReason(t, err, tt.want, tt.text)
			if (err == nil) != (len(chains) > 0) {
				t.Errorf("%d chains with error %v", len(chains), err)
			}
			for _, chain := range chains {
				if !chain[0].Equal(tt.chain[0]) || !chain[len(chain)-1].IsCA {
					t.Error("chain does not lead from the peer to the anchor")
				}
			}
		})
	}
	t.Run("RSA key of 16384 bits is refused before it costs anything", func(t *testing.T) {
		huge := *plain[1]
		key := *rsaMiddle.Cert
		huge.PublicKey = hugeRSA(key.PublicKey)
		_, err := trust.Verify([]*x509.Certificate{plain[0], &huge}, server, "", now)
		wantReason(t, err, certs.BadCertificate, "16384 bits, more than 8192")
	})
	t.Run("cause can be inspected, subject and fingerprint are the faulty certificate's", func(t *testing.T) {
		_, err := trust.Verify(chain(pastMiddle, certstest.Options{}), server, "", now)
		var invalid x509.CertificateInvalidError
		if !errors.As(err, &invalid) {
			t.Errorf("%v does not wrap the error of crypto/x509", err)
		}
		var refusal *certs.VerifyError
		errors.As(err, &refusal)
		got := []string{refusal.Subject, refusal.Fingerprint}
		if diff := cmp.Diff([]string{"CN=past middle", certs.Fingerprint(pastMiddle.Cert)}, got); diff != "" {
			t.Errorf("certificate at fault (-want +got):\n%s", diff)
		}
	})
}

func TestVerifyName(t *testing.T) {
	root := certstest.MustCA(t, certstest.CAOptions{})
	host := root.MustIssue(t, certstest.Options{
		CommonName: "common.example",
		DNS:        []string{"nfs.example", "*.wild.example", "192.0.2.9"},
		IPs:        []string{"192.0.2.1", "2001:db8::1", "fe80::1"},
	})
	bare := root.MustIssue(t, certstest.Options{CommonName: "common.example"})
	trust := mustTrust(t, certs.StaleRefuse, nil, root)
	tests := []struct {
		name string
		want certs.Reason
	}{
		{"other.example", certs.WrongName},
		{"nfs", certs.WrongName},
		{"common.example", certs.WrongName}, // the common name does not count
		{"a.b.wild.example", certs.WrongName},
		{"wild.example", certs.WrongName},
		{"192.0.2.2", certs.WrongName},
		{"192.0.2.9", certs.WrongName}, // an address in a dNSName
		{"[192.0.2.9]", certs.WrongName},
		{"2001:db8::2", certs.WrongName},
		{"[nfs.example]", certs.WrongName},
		{"[2001:db8::1", certs.WrongName},
		{"nfs.example%eth0", certs.WrongName},
		{"\x00", certs.WrongName},
		{strings.Repeat("x", 1<<16), certs.WrongName},
		{"", ""},
		{"nfs.example", ""},
		{"NFS.Example", ""},
		{"nfs.example.", ""},
		{"a.wild.example", ""},
		{"192.0.2.1", ""},
		{"::ffff:192.0.2.1", ""},
		{"2001:db8::1", ""},
		{"[2001:db8::1]", ""},
		{"2001:DB8:0:0:0:0:0:1", ""},
		{"[2001:0db8:0000:0000:0000:0000:0000:0001]", ""},
		{"fe80::1%eth0", ""},
		{"[fe80::1%eth0]", ""},
		{"2001:db8::1%2", ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%.40q", tt.name), func(t *testing.T) {
			_, err := trust.Verify(host.Chain(), certs.ServerAuth, tt.name, time.Now())
			wantReason(t, err, tt.want, "")
		})
	}
	_, err := trust.Verify(host.Chain(), certs.ServerAuth, "other.example", time.Now())
	wantReason(t, err, certs.WrongName, `want "other.example", certificate has "dns:nfs.example", "dns:*.wild.example", "dns:192.0.2.9", "ip:192.0.2.1", "ip:2001:db8::1", "ip:fe80::1"`)
	_, err = trust.Verify(bare.Chain(), certs.ServerAuth, "common.example", time.Now())
	wantReason(t, err, certs.WrongName, "no subject alternative name (a common name does not count)")
}

// A peer chooses what is in its certificate; its words must not flood a log or
// speak for somebody else in it.
func TestErrorsAreBoundedAndClean(t *testing.T) {
	nasty := strings.Repeat("a\n\x1b[31m\u202e\"", 4000)
	var names []string
	for i := range 2000 {
		names = append(names, fmt.Sprintf("%d.example", i))
	}
	long := "spiffe://example/" + strings.Repeat("x", 5000)
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: nasty})
	trust := mustTrust(t, certs.StaleRefuse, nil, ca)
	o := certstest.Options{CommonName: nasty, DNS: names, URIs: []string{long}}
	_, err := trust.Verify(ca.MustIssue(t, o).Chain(), certs.ServerAuth, nasty, time.Now())
	wantReason(t, err, certs.WrongName, "and 1993 more")
	o = certstest.Options{URIs: []string{long}}
	_, err = trust.Verify(ca.MustIssue(t, o).Chain(), certs.ServerAuth, nasty, time.Now())
	wantReason(t, err, certs.WrongName, `xxx..."`)
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: nasty})
	_, err = trust.Verify(other.MustIssue(t, certstest.Options{CommonName: nasty}).Chain(), certs.ServerAuth, "", time.Now())
	wantReason(t, err, certs.UnknownCA, "")
	for _, line := range trust.Warnings(time.Now().AddDate(20, 0, 0)) {
		checkLine(t, line, 4096)
	}
}

func critical() []pkix.Extension {
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 2}, Critical: true, Value: []byte{5, 0}}}
}

func hugeRSA(pub any) *rsa.PublicKey {
	key := *pub.(*rsa.PublicKey)
	key.N = new(big.Int).Lsh(big.NewInt(1), 16383)
	return &key
}

// Every reason has the alert that RFC 8446 section 6.2 gives it.
func TestAlertsSayWhatIsWrong(t *testing.T) {
	want := map[certs.Reason]uint8{
		certs.UnknownCA: 48, certs.Expired: 45, certs.NotYetValid: 45, certs.WrongName: 42, certs.Revoked: 44,
		certs.NoRevocationInfo: 46, certs.KeyUsage: 43, certs.NoCertificate: 116, certs.BadCertificate: 42,
	}
	got := make(map[certs.Reason]uint8)
	for _, r := range certs.Reasons() {
		got[r] = (&certs.VerifyError{Reason: r}).TLSAlert()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
