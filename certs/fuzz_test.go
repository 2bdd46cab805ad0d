// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"crypto/x509"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
)

// Run them with -fuzzminimizetime=10x: certificates made at random do not take
// the same path twice, which keeps the minimizer busy.
//
// The property of every target: an error or a value, never both, never neither,
// and the text of the error is one bounded line.
func checkEither(t *testing.T, ok bool, err error) {
	t.Helper()
	if ok == (err != nil) {
		t.Fatalf("value %t with error %v", ok, err)
	}
	if err != nil {
		checkLine(t, err.Error(), 8192)
	}
}

func FuzzIdentity(f *testing.F) {
	ca := certstest.MustCA(f, certstest.CAOptions{})
	middle := ca.MustIntermediate(f, certstest.CAOptions{CommonName: "middle"})
	host := middle.MustIssue(f, certstest.Options{DNS: []string{"nfs.example"}})
	for _, format := range []certstest.KeyFormat{certstest.PKCS8, certstest.SEC1, certstest.SEC1Params} {
		f.Add(host.CertPEM(), host.MustKeyPEM(f, format))
	}
	f.Add(host.MustKeyPEM(f, certstest.PKCS8), host.CertPEM())
	dir := f.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	f.Fuzz(func(t *testing.T, certPEM, keyPEM []byte) {
		must(t, os.WriteFile(cert, certPEM, 0o600))
		must(t, os.WriteFile(key, keyPEM, 0o600))
		id, err := certs.LoadIdentity(new(certs.Files), cert, key)
		checkEither(t, id != nil, err)
		if id == nil {
			return
		}
		checkLine(t, id.String(), 8192)
		for _, line := range id.Warnings(time.Now()) {
			checkLine(t, line, 8192)
		}
		if n := len(id.Certificate().Certificate); n > 10 {
			t.Errorf("chain of %d", n)
		}
	})
}

func FuzzTrust(f *testing.F) {
	ca := certstest.MustCA(f, certstest.CAOptions{})
	host := ca.MustIssue(f, certstest.Options{})
	f.Add(ca.PEM())
	f.Add(join(ca.PEM(), host.CertPEM()))
	path := filepath.Join(f.TempDir(), "ca.pem")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(path, data, 0o600))
		trust, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path})
		checkEither(t, trust != nil, err)
		if trust == nil {
			return
		}
		if trust.Len() == 0 {
			t.Error("trust in nothing")
		}
		for _, line := range trust.Warnings(time.Now()) {
			checkLine(t, line, 8192)
		}
		chains, err := trust.Verify(host.Chain(), certs.ServerAuth, "nfs.example", time.Now())
		checkEither(t, chains != nil, err)
	})
}

func FuzzCRL(f *testing.F) {
	now := time.Now()
	ca := certstest.MustCA(f, certstest.CAOptions{})
	host := ca.MustIssue(f, certstest.Options{})
	der := ca.MustCRL(f, nil, now, now.Add(time.Hour))
	f.Add(der)
	f.Add(certstest.CRLPEM(der))
	scoped, err := ca.SignCRL(listWith(now, idpURI("http://crl.example/1")))
	f.Add(certstest.Must(f, scoped, err))
	dir := f.TempDir()
	caPath, path := put(f, filepath.Join(dir, "ca.pem"), ca.PEM(), 0o644), filepath.Join(dir, "list.crl")
	f.Fuzz(func(t *testing.T, data []byte) {
		must(t, os.WriteFile(path, data, 0o600))
		trust, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: caPath, CRL: []string{path}})
		checkEither(t, trust != nil, err)
		if trust == nil {
			return
		}
		for _, line := range trust.Warnings(time.Now()) {
			checkLine(t, line, 8192)
		}
		chains, err := trust.Verify(host.Chain(), certs.ServerAuth, "", time.Now())
		checkEither(t, chains != nil, err)
	})
}

// FuzzPeer judges what a peer may send: certificates that parse, in any order.
func FuzzPeer(f *testing.F) {
	ca := certstest.MustCA(f, certstest.CAOptions{})
	middle := ca.MustIntermediate(f, certstest.CAOptions{CommonName: "middle"})
	host := middle.MustIssue(f, certstest.Options{DNS: []string{"nfs.example"}, IPs: []string{"2001:db8::1"}})
	f.Add(host.Cert.Raw, middle.Cert.Raw, "nfs.example")
	f.Add(host.Cert.Raw, middle.Cert.Raw, "[2001:db8::1%eth0]")
	f.Add(middle.Cert.Raw, host.Cert.Raw, "")
	now := time.Now()
	trust := mustTrust(f, certs.StaleRefuse, [][]byte{middle.MustCRL(f, nil, now, now.Add(time.Hour))}, ca)
	f.Fuzz(func(t *testing.T, leaf, issuer []byte, name string) {
		var chain []*x509.Certificate
		for _, der := range [][]byte{leaf, issuer} {
			if cert, err := x509.ParseCertificate(der); err == nil {
				chain = append(chain, cert)
			}
		}
		for _, purpose := range []certs.Purpose{certs.ServerAuth, certs.ClientAuth} {
			chains, err := trust.Verify(chain, purpose, name, time.Now())
			checkEither(t, chains != nil, err)
		}
	})
}

// FuzzDirectory loads a directory of two files under any names.
func FuzzDirectory(f *testing.F) {
	now := time.Now()
	ca := certstest.MustCA(f, certstest.CAOptions{})
	list := certstest.CRLPEM(ca.MustCRL(f, nil, now, now.Add(time.Hour)))
	f.Add("a.pem", ca.PEM(), "b.crt", ca.PEM())
	f.Add("a.pem", ca.PEM(), "list.crl", list)
	f.Add(".a.pem", ca.PEM(), "note.txt", []byte("x"))
	caPath := put(f, filepath.Join(f.TempDir(), "ca.pem"), ca.PEM(), 0o644)
	f.Fuzz(func(t *testing.T, name1 string, data1 []byte, name2 string, data2 []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{name1: data1, name2: data2} {
			if filepath.Base(name) != name || len(name) > 255 {
				continue
			}
			os.WriteFile(filepath.Join(dir, name), data, 0o600) // a name may be impossible
		}
		for _, cfg := range []certs.TrustConfig{{Trust: dir}, {Trust: caPath, CRL: []string{dir}}} {
			var files certs.Files
			trust, err := certs.LoadTrust(&files, cfg)
			if trust != nil == (err != nil) {
				t.Fatalf("trust %v with error %v", trust, err)
			}
			if files.Changed() {
				t.Error("changed though nothing did")
			}
		}
	})
}
