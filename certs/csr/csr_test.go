// SPDX-License-Identifier: BSD-3-Clause

package csr_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"os/exec"
	"strings"
	"testing"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/certs/csr"
	"rpctls/certs/san"
)

func names(tb testing.TB, texts ...string) san.Names {
	tb.Helper()
	n, err := san.Parse(texts...)
	return certstest.Must(tb, n, err)
}

func newKey(tb testing.TB, kind certstest.KeyType, bits int) crypto.Signer {
	tb.Helper()
	key, err := certstest.NewKey(kind, bits)
	return certstest.Must(tb, key, err)
}

func TestRoundTrip(t *testing.T) {
	key := newKey(t, certstest.EC, 0)
	long := strings.Repeat("a", 60) + ".example.com"
	for _, want := range []san.Names{names(t, "nfs.example.com", "192.0.2.1", "user:alice@example.com"), names(t, long)} {
		for _, p := range []certs.Purpose{certs.ServerAuth, certs.ClientAuth} {
			data, err := csr.Create(p, want, key)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(data)
			for form, data := range map[string][]byte{"PEM": data, "DER": block.Bytes} {
				got, err := csr.Parse(data)
				if err != nil {
					t.Errorf("%s: %v", form, err)
				} else if got.Purpose != p || !got.Names.Equal(want) || !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(got.Key) {
					t.Errorf("%s: got %+v", form, got)
				}
			}
		}
	}
	if _, err := csr.Create(certs.ServerAuth, san.Names{}, key); err == nil {
		t.Error("a request for no name")
	}
}

func TestOpenSSLReadsIt(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl")
	}
	data, err := csr.Create(certs.ServerAuth, names(t, "nfs.example.com", "2001:db8::1"), newKey(t, certstest.EC, 0))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(openssl, "req", "-verify", "-noout", "-text")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, want := range []string{"verify OK", "DNS:nfs.example.com, IP Address:2001:DB8:0:0:0:0:0:1", "TLS Web Server Authentication, 1.3.6.1.5.5.7.3.34"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("openssl does not say %q:\n%s", want, out)
		}
	}
}

// request makes one that Create would not.
func request(tb testing.TB, key crypto.Signer, template x509.CertificateRequest) []byte {
	tb.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: certstest.Must(tb, der, err)})
}

func TestParseRefuses(t *testing.T) {
	key := newKey(t, certstest.EC, 0)
	good, err := csr.Create(certs.ServerAuth, names(t, "nfs.example.com"), key)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	forged := bytes.Clone(block.Bytes)
	forged = bytes.Replace(forged, []byte("\x82\x0fnfs.example.com"), []byte("\x82\x0fnfs.example.org"), 1)
	ca, err := asn1.Marshal(struct{ IsCA bool }{true})
	if err != nil {
		t.Fatal(err)
	}
	pair := certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{})
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"nothing", nil, "read request"},
		{"nonsense", []byte("nonsense"), "read request"},
		{"a certificate", pair.CertPEM(), `"CERTIFICATE" where only CERTIFICATE REQUEST`},
		{"two", append(bytes.Clone(good), good...), "one at a time"},
		{"names changed after signing", forged, "signature does not stand"},
		{"a short RSA key", request(t, newKey(t, certstest.RSA, 1024), x509.CertificateRequest{DNSNames: []string{"a.example"}}), "RSA key of 1024 bits"},
		{"a common name alone", request(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "nfs.example.com"}}), "a common name does not count"},
		{"an e-mail address", request(t, key, x509.CertificateRequest{EmailAddresses: []string{"a@example.com"}}), "kind (GeneralName 1)"},
		{"a CA", request(t, key, x509.CertificateRequest{DNSNames: []string{"a.example"},
			ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Value: ca}}}), "asks for a CA"},
		{"a name with a NUL", request(t, key, x509.CertificateRequest{DNSNames: []string{"a.example\x00.b"}}), "host name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := csr.Parse(tt.data)
			if err == nil || r != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want %q", r, err, tt.want)
			}
		})
	}
}

func TestPurposeMayBeOpen(t *testing.T) {
	key := newKey(t, certstest.RSA, 2048)
	r, err := csr.Parse(request(t, key, x509.CertificateRequest{DNSNames: []string{"a.example"}}))
	if err != nil || r.Purpose != 0 {
		t.Errorf("got %v, %v", r, err)
	}
}

func FuzzParse(f *testing.F) {
	key := newKey(f, certstest.EC, 0)
	good, err := csr.Create(certs.ClientAuth, names(f, "nfs.example.com", "192.0.2.1", "user:a@b.example"), key)
	f.Add(certstest.Must(f, good, err))
	block, _ := pem.Decode(good)
	f.Add(block.Bytes)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := csr.Parse(data)
		switch {
		case (r == nil) != (err != nil):
			t.Errorf("value %v with error %v", r, err)
		case err != nil && (len(err.Error()) > 2000 || strings.Contains(err.Error(), "\n")):
			t.Errorf("unfit error %q", err)
		case r != nil && r.Names.Len() == 0:
			t.Error("no name")
		}
	})
}
