// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
)

// Run them with -fuzzminimizetime=10x: certificates made at random do not take
// the same path twice, which keeps the minimizer busy.
//
// The property of every target: an error or a value, never both, never neither,
// and the text of the error is one bounded line. What was taken from a file is
// all that it holds: written anew, it is taken again, as the same.
func checkEither(t *testing.T, ok bool, err error) {
	t.Helper()
	if ok == (err != nil) {
		t.Fatalf("value %t with error %v", ok, err)
	}
	if err != nil {
		checkLine(t, err.Error(), 8192)
	}
}

// rewritten returns data with its PEM blocks encoded anew, and their number. DER
// becomes one block.
func rewritten(kind string, data []byte) (again []byte, n int) {
	for rest := data; ; n++ {
		var found *pem.Block
		if found, rest = pem.Decode(rest); found == nil {
			break
		}
		again = append(again, block(kind, found.Bytes)...)
	}
	if n == 0 {
		return block(kind, data), 1
	}
	return again, n
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
		var again []byte
		for _, der := range id.Certificate().Certificate {
			again = append(again, block("CERTIFICATE", der)...)
		}
		must(t, os.WriteFile(cert, again, 0o600))
		second, err := certs.LoadIdentity(new(certs.Files), cert, key)
		must(t, err)
		if second.String() != id.String() || len(second.Certificate().Certificate) != len(id.Certificate().Certificate) {
			t.Errorf("%s became %s", id, second)
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

		again, n := rewritten("CERTIFICATE", data)
		must(t, os.WriteFile(path, again, 0o600))
		second, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: path})
		must(t, err)
		if n != trust.Len() || n != second.Len() || !second.Pool().Equal(trust.Pool()) {
			t.Errorf("%d certificates became %d of %d", trust.Len(), second.Len(), n)
		}
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
		at := time.Now()
		chains, err := trust.Verify(host.Chain(), certs.ServerAuth, "", at)
		checkEither(t, chains != nil, err)

		again, _ := rewritten("X509 CRL", data)
		must(t, os.WriteFile(path, again, 0o600))
		second, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: caPath, CRL: []string{path}})
		must(t, err)
		q := asked{host.Chain(), certs.ServerAuth, ""}
		if a, b := q.of(trust, at), q.of(second, at); a.Reason != b.Reason {
			t.Errorf("reason %q became %q", a.Reason, b.Reason)
		}
	})
}

// FuzzPeer judges what a peer may send: certificates that parse, in any order.
// With a memory, which all inputs share, the answer is the same as without.
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
			chains, err := trust.Verify(chain, purpose, name, now)
			checkEither(t, chains != nil, err)
			for _, later := range []time.Duration{0, 30 * time.Minute, 2 * time.Hour, -time.Minute, -24 * time.Hour} {
				asked{chain, purpose, name}.agree(t, trust, now.Add(later))
			}
		}
	})
}

// FuzzMemory asks many questions of one trust, four bytes each: which chain,
// purpose and name, and when. The answers are those of a trust without a memory.
func FuzzMemory(f *testing.F) {
	epoch := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	day := func(n int) time.Time { return epoch.AddDate(0, 0, n) }
	a := certstest.MustCA(f, certstest.CAOptions{CommonName: "a", NotBefore: day(0), NotAfter: day(200)})
	b := certstest.MustCA(f, certstest.CAOptions{CommonName: "b", NotBefore: day(50), NotAfter: day(150)})
	viaA := a.MustIntermediate(f, certstest.CAOptions{CommonName: "middle", NotBefore: day(10), NotAfter: day(120)})
	viaB := b.MustIntermediate(f, certstest.CAOptions{CommonName: "middle", NotBefore: day(40), NotAfter: day(160), Key: viaA.Key})
	leaf := func(o certstest.Options, from, to int) *x509.Certificate {
		o.DNS, o.NotBefore, o.NotAfter = []string{"a.example", "b.example"}, day(from), day(to)
		return viaA.MustIssue(f, o).Cert
	}
	leaves := []*x509.Certificate{
		leaf(certstest.Options{}, 20, 180),
		leaf(certstest.Options{EKU: []asn1.ObjectIdentifier{certstest.RPCTLSServer}}, 60, 80),
		viaA.Cert,
		certstest.MustCA(f, certstest.CAOptions{CommonName: "stranger"}).Cert,
	}
	rest := []*x509.Certificate{viaA.Cert, viaB.Cert, a.Cert, leaves[0]}
	names := []string{"", "a.example", "b.example", "c.example"}
	var trusts []*certs.Trust
	for _, policy := range []certs.StalePolicy{certs.StaleRefuse, certs.StaleWarn} {
		crls := [][]byte{
			viaA.MustCRL(f, nil, day(30), day(70)),
			viaA.MustCRL(f, nil, day(90), day(140)),
			b.MustCRL(f, []*big.Int{big.NewInt(1)}, day(45), day(110)),
		}
		trusts = append(trusts, mustTrust(f, policy, crls, a, b), mustTrust(f, policy, nil, a, b))
	}
	f.Add([]byte{0, 0o01, 60, 0, 0, 0o01, 61, 0, 0, 0o01, 141, 0, 0, 0o01, 60, 0})
	f.Add([]byte{0x10, 0o12, 60, 1, 0x10, 0o12, 80, 1, 0x10, 0o12, 80, 3, 0x20, 0o12, 60, 0})
	f.Add([]byte{0, 0o12, 45, 0, 0, 0o12, 90, 0, 0, 0o12, 89, 0xfe, 0, 0o12, 70, 1, 0, 0o12, 70, 3})
	f.Add([]byte{0x40, 0o10, 100, 0, 0x40, 0o01, 100, 0, 0x41, 0o1, 100, 0, 0x42, 0o1, 100, 0, 0x43, 0o1, 100, 0})
	f.Fuzz(func(t *testing.T, questions []byte) {
		for _, trust := range trusts {
			trust = trust.Forgetful()
			for q := questions[:min(len(questions), 4*32)]; len(q) >= 4; q = q[4:] {
				ask := asked{purpose: certs.Purpose(1 + q[0]>>6&1), name: names[q[0]&3]}
				ask.chain = append(ask.chain, leaves[q[0]>>4&3])
				for digits := int(q[1]); digits > 0; digits >>= 3 { // octal: which of rest, 0 ends
					if n := digits & 7; n > 0 {
						ask.chain = append(ask.chain, rest[(n-1)%len(rest)])
					}
				}
				off := time.Duration(int8(q[3]) >> 1)
				if q[3]&1 == 0 {
					off -= 5 * time.Minute // where a CRL begins to count
				}
				ask.agree(t, trust, day(int(q[2])).Add(off))
			}
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
		_, n1 := rewritten("", data1)
		_, n2 := rewritten("", data2)
		for _, cfg := range []certs.TrustConfig{{Trust: dir}, {Trust: caPath, CRL: []string{dir}}} {
			var files certs.Files
			trust, err := certs.LoadTrust(&files, cfg)
			if trust != nil == (err != nil) {
				t.Fatalf("trust %v with error %v", trust, err)
			}
			if files.Changed() {
				t.Error("changed though nothing did")
			}
			if trust != nil && cfg.CRL == nil && !slices.Contains([]int{n1, n2, n1 + n2}, trust.Len()) {
				t.Errorf("%d anchors from files of %d and %d", trust.Len(), n1, n2)
			}
		}
	})
}
