// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

// version1 is what openssl makes of a self-signed certificate without a
// configuration file.
func version1(t *testing.T) []byte {
	t.Helper()
	ca := certstest.MustCA(t, certstest.CAOptions{})
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "old"}, NotAfter: time.Now().Add(time.Hour),
	}, ca.Cert, ca.Key.Public(), ca.Key)
	must(t, err)
	return block("CERTIFICATE", der)
}

func TestLoadTrustRefuses(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	noSign := certstest.MustCA(t, certstest.CAOptions{CommonName: "mute", KeyUsage: x509.KeyUsageCRLSign})
	host := ca.MustIssue(t, certstest.Options{CommonName: "host"})
	key := host.MustKeyPEM(t, certstest.PKCS8)
	damaged := bytes.Replace(ca.PEM(), []byte("\n"), []byte("\n!"), 1)
	now := time.Now()
	crl := certstest.CRLPEM(ca.MustCRL(t, nil, now, now.Add(time.Hour)))
	tests := []struct {
		name string
		data []byte
		want []string
	}{
		{"empty", nil, []string{"file is empty"}},
		{"no PEM", []byte("hello"), []string{"no PEM block"}},
		{"larger than 8 MiB", make([]byte, 8<<20+1), []string{"more than the limit"}},
		{"private key", join(ca.PEM(), key), []string{"PEM block 2: private key in a trust file"}},
		{"private key alone", key, []string{"PEM block 1: private key in a trust file"}},
		{"CRL", join(ca.PEM(), crl), []string{"PEM block 2: CRL in a trust file"}},
		{"other block", block("TRUSTED CERTIFICATE", []byte("x")), []string{`PEM block 1: "TRUSTED CERTIFICATE" where only CERTIFICATE`}},
		{"damaged second certificate", join(ca.PEM(), damaged, ca.PEM()), []string{"PEM block 2: malformed"}},
		{"nonsense", join(ca.PEM(), block("CERTIFICATE", []byte("x"))), []string{"PEM block 2: parse certificate"}},
		{"the host's own certificate", certstest.CertPEM(host.Cert), []string{`PEM block 1: certificate "CN=host" is not a CA's`}},
		{"certificate without extensions", version1(t), []string{`"CN=old" is not a CA's`}},
		{"CA that may not sign certificates", noSign.PEM(), []string{`"CN=mute" may not sign certificates`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := put(t, filepath.Join(t.TempDir(), "ca.pem"), tt.data, 0o644)
			var f certs.Files
			trust, err := certs.LoadTrust(&f, certs.TrustConfig{Trust: path})
			wantErr(t, err, append(tt.want, path)...)
			if trust != nil {
				t.Error("trust returned with an error")
			}
			dir := filepath.Dir(path)
			put(t, filepath.Join(dir, "aa.pem"), ca.PEM(), 0o644)
			_, err = certs.LoadTrust(&f, certs.TrustConfig{Trust: dir})
			wantErr(t, err, append(tt.want, path)...)
		})
	}
	for name, cfg := range map[string]certs.TrustConfig{
		"no file, directory":                {},
		"no such file":                      {Trust: filepath.Join(t.TempDir(), "missing")},
		"no file named *.pem, *.crt, *.cer": {Trust: t.TempDir()},
		"unknown stale policy":              {Trust: "x", CRLStale: 7},
	} {
		_, err := certs.LoadTrust(new(certs.Files), cfg)
		wantErr(t, err, "load trust", name)
	}
}

func TestLoadTrustCountsAnchors(t *testing.T) {
	a, b := certstest.MustCA(t, certstest.CAOptions{CommonName: "a"}), certstest.MustCA(t, certstest.CAOptions{CommonName: "b"})
	dir := t.TempDir()
	put(t, filepath.Join(dir, "both.pem"), join([]byte("# ours\n"), a.PEM(), []byte("# theirs\n"), b.PEM()), 0o644)
	put(t, filepath.Join(dir, "b.crt"), b.PEM(), 0o644)
	put(t, filepath.Join(dir, "note.txt"), []byte("x"), 0o644)
	for path, want := range map[string]int{filepath.Join(dir, "both.pem"): 2, filepath.Join(dir, "b.crt"): 1, dir: 3} {
		trust, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path})
		must(t, err)
		if got := trust.Len(); got != want {
			t.Errorf("%s: %d anchors, want %d", path, got, want)
		}
		trust.Pool().AddCert(certstest.MustCA(t, certstest.CAOptions{}).Cert) // to a copy
		pool := x509.NewCertPool()
		pool.AddCert(b.Cert)
		if want > 1 {
			pool.AddCert(a.Cert)
		}
		if !trust.Pool().Equal(pool) {
			t.Errorf("%s: pool is another one", path)
		}
	}
	path := put(t, filepath.Join(dir, "many.pem"), bytes.Repeat(a.PEM(), 4097), 0o644)
	_, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path})
	wantErr(t, err, "more than 4096")
}

func TestSystemTrust(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)})
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	certs.SetSystemBundles(t, first, second)
	var f certs.Files
	_, err := certs.LoadTrust(&f, certs.TrustConfig{Trust: "system"})
	wantErr(t, err, "no bundle of CA certificates")

	put(t, second, join(version1(t), ca.PEM(), block("CERTIFICATE", []byte("x"))), 0o644)
	if !f.Changed() {
		t.Error("a bundle that appeared was not noticed")
	}
	f = certs.Files{}
	trust, err := certs.LoadTrust(&f, certs.TrustConfig{Trust: "system"})
	must(t, err)
	if got := trust.Len(); got != 1 {
		t.Errorf("%d anchors, want the one that qualifies", got)
	}
	if got := trust.Warnings(time.Now()); got != nil {
		t.Errorf("warnings about the distribution's certificates: %q", got)
	}
	if f.Changed() {
		t.Error("changed though nothing did")
	}
	put(t, first, version1(t), 0o644)
	if !f.Changed() {
		t.Error("a bundle that goes first was not noticed")
	}
	_, err = certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: "system"})
	wantErr(t, err, first, "no CA certificate")
}

func TestTrustWarnings(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "root", NotBefore: begin, NotAfter: begin.AddDate(1, 0, 0)})
	dir := t.TempDir()
	path := put(t, filepath.Join(dir, "ca.pem"), ca.PEM(), 0o644)
	list := put(t, filepath.Join(dir, "list.crl"), ca.MustCRL(t, nil, begin, begin.AddDate(0, 6, 0)), 0o644)
	trust, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path, CRL: []string{list}})
	must(t, err)
	for now, want := range map[time.Time][]string{
		begin: nil,
		begin.Add(-time.Hour): {
			list + ": CRL begins only at 2030-01-01T00:00:00Z (issuer CN=root)",
			path + ": PEM block 1 (CN=root): not yet valid, begins 2030-01-01T00:00:00Z"},
		begin.AddDate(0, 6, -8):                nil,
		begin.AddDate(0, 6, -7).Add(time.Hour): {list + ": CRL is stale in 6 days, from 2030-07-01T00:00:00Z (issuer CN=root)"},
		begin.AddDate(0, 7, 0):                 {list + ": CRL is stale since 2030-07-01T00:00:00Z (issuer CN=root)"},
		begin.AddDate(1, 0, -3): {
			list + ": CRL is stale since 2030-07-01T00:00:00Z (issuer CN=root)",
			path + ": PEM block 1 (CN=root): expires in 3 days, 2031-01-01T00:00:00Z"},
		begin.AddDate(2, 0, 0): {
			list + ": CRL is stale since 2030-07-01T00:00:00Z (issuer CN=root)",
			path + ": PEM block 1 (CN=root): expired 2031-01-01T00:00:00Z"},
	} {
		if diff := cmp.Diff(want, trust.Warnings(now)); diff != "" {
			t.Errorf("warnings at %s (-want +got):\n%s", now, diff)
		}
	}
	// One that lives for two days is not warned of from its beginning.
	brief := put(t, filepath.Join(dir, "brief.crl"), ca.MustCRL(t, nil, begin, begin.AddDate(0, 0, 2)), 0o644)
	for hours, want := range map[time.Duration]int{0: 0, 31: 0, 33: 1, 49: 1} {
		if got, err := certs.CRLWarnings(brief, begin.Add(hours*time.Hour)); err != nil || len(got) != want {
			t.Errorf("a brief CRL after %d hours: %q, %v", hours, got, err)
		}
	}
	if _, err := certs.CRLWarnings(path, begin); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a certificate as CRL: %v", err)
	}
	many := put(t, filepath.Join(dir, "many.pem"), bytes.Repeat(ca.PEM(), 40), 0o644)
	trust, err = certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: many})
	must(t, err)
	got := trust.Warnings(begin.AddDate(2, 0, 0))
	if len(got) != 33 || got[32] != "and 8 more" {
		t.Errorf("%d lines, the last %q, want 32 and the count of the rest", len(got), got[len(got)-1])
	}
}

// newTrust writes anchors and CRLs to files and loads them.
func newTrust(t testing.TB, policy certs.StalePolicy, crls [][]byte, cas ...*certstest.CA) (*certs.Trust, error) {
	t.Helper()
	dir := t.TempDir()
	cfg := certs.TrustConfig{Trust: filepath.Join(dir, "ca.pem"), CRLStale: policy}
	var bundle []byte
	for _, ca := range cas {
		bundle = append(bundle, ca.PEM()...)
	}
	must(t, os.WriteFile(cfg.Trust, bundle, 0o644))
	for i, crl := range crls {
		cfg.CRL = append(cfg.CRL, put(t, filepath.Join(dir, fmt.Sprintf("%d.crl", i)), crl, 0o644))
	}
	return certs.LoadTrust(new(certs.Files), cfg)
}

func mustTrust(t testing.TB, policy certs.StalePolicy, crls [][]byte, cas ...*certstest.CA) *certs.Trust {
	t.Helper()
	trust, err := newTrust(t, policy, crls, cas...)
	must(t, err)
	return trust
}

// Whatever the subject holds, an error stays one line of ASCII.
func checkLine(t testing.TB, line string, limit int) {
	t.Helper()
	if len(line) > limit {
		t.Errorf("%d bytes in one line, more than %d", len(line), limit)
	}
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }); i >= 0 {
		t.Errorf("character %q in %q", line[i], line)
	}
}
