// SPDX-License-Identifier: BSD-3-Clause

package intake_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/certs/intake"
	"rpctls/certs/san"
)

// A chain of three below a root, all for servers.
type world struct {
	root, middle *certstest.CA
	host         *certstest.Pair
}

func newWorld(t testing.TB) world {
	t.Helper()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	return world{root, middle, middle.MustIssue(t, hostOptions())}
}

func hostOptions() certstest.Options {
	return certstest.Options{CommonName: "nfs.example.com", DNS: []string{"nfs.example.com", "*.lab.example.com"}, IPs: []string{"192.0.2.1"},
		NotAfter: time.Now().AddDate(0, 0, 90), EKU: certstest.OIDs{certstest.ServerAuth}}
}

func (w world) key(t testing.TB) []byte { return w.host.MustKeyPEM(t, certstest.PKCS8) }

func gather(t testing.TB, files ...[]byte) *intake.Material {
	t.Helper()
	m := new(intake.Material)
	for i, data := range files {
		if err := m.Add("file"+string(rune('1'+i)), bytes.Clone(data)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

func names(t testing.TB, texts ...string) san.Names {
	t.Helper()
	n, err := san.Parse(texts...)
	return certstest.Must(t, n, err)
}

// Whatever the order, the files and the encoding, it is the same identity.
func TestJudge(t *testing.T) {
	w := newWorld(t)
	keyDER, err := x509.MarshalPKCS8PrivateKey(w.host.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, middle, root := certstest.CertPEM(w.host.Cert), w.middle.PEM(), w.root.PEM()
	all := bytes.Join([][]byte{w.key(t), leaf, middle, root}, nil)
	for name, m := range map[string]*intake.Material{
		"one file":       gather(t, all),
		"reverse":        gather(t, root, middle, leaf, w.key(t)),
		"DER":            gather(t, keyDER, w.host.Cert.Raw, w.middle.Cert.Raw, w.root.Cert.Raw),
		"DER, joined":    gather(t, keyDER, bytes.Join([][]byte{w.root.Cert.Raw, w.host.Cert.Raw, w.middle.Cert.Raw}, nil)),
		"twice":          gather(t, all, all),
		"SEC 1, openssl": gather(t, w.host.MustKeyPEM(t, certstest.SEC1Params), leaf, middle, root),
	} {
		t.Run(name, func(t *testing.T) {
			id, err := m.Judge(intake.Wanted{Names: names(t, "nfs.example.com", "192.0.2.1", "a.lab.example.com"), Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			if id.Purpose != certs.ServerAuth || len(id.Chain) != 2 || !id.Chain[0].Equal(w.host.Cert) || !id.Chain[1].Equal(w.middle.Cert) ||
				!id.Anchor.Equal(w.root.Cert) || len(id.Notes) != 0 {
				t.Errorf("got %+v", id)
			}
		})
	}
}

// An anchor that is named ends the chain, even if the material goes on.
func TestAnchors(t *testing.T) {
	w := newWorld(t)
	m := gather(t, w.key(t), w.host.CertPEM(), w.root.PEM())
	id, err := m.Judge(intake.Wanted{Anchors: []*x509.Certificate{w.middle.Cert}, Now: time.Now()})
	if err != nil || len(id.Chain) != 1 || !id.Anchor.Equal(w.middle.Cert) || len(id.Notes) != 1 {
		t.Errorf("got %+v, %v", id, err)
	}
	m = gather(t, w.key(t), certstest.CertPEM(w.host.Cert), w.middle.PEM())
	if _, err := m.Judge(intake.Wanted{Anchors: []*x509.Certificate{w.root.Cert}, Now: time.Now()}); err != nil {
		t.Error(err)
	}
	m = gather(t, w.key(t), certstest.CertPEM(w.host.Cert), w.middle.PEM())
	id, err = m.Judge(intake.Wanted{Known: []*x509.Certificate{w.root.Cert}, Now: time.Now()})
	if err != nil || len(id.Chain) != 2 || !id.Anchor.Equal(w.root.Cert) {
		t.Errorf("a root that is known: %+v, %v", id, err)
	}
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: "other"})
	m = gather(t, w.key(t), w.host.CertPEM(), w.root.PEM())
	if _, err := m.Judge(intake.Wanted{Anchors: []*x509.Certificate{other.Cert}, Now: time.Now()}); err == nil || !strings.Contains(err.Error(), "chain incomplete") {
		t.Errorf("a root that is not the one named: %v", err)
	}
}

func TestJudgeRefuses(t *testing.T) {
	w := newWorld(t)
	leaf, middle, root, key := certstest.CertPEM(w.host.Cert), w.middle.PEM(), w.root.PEM(), w.key(t)
	issue := func(ca *certstest.CA, change func(*certstest.Options)) [][]byte {
		o := hostOptions()
		change(&o)
		p := ca.MustIssue(t, o)
		return [][]byte{p.MustKeyPEM(t, certstest.PKCS8), p.CertPEM(), root}
	}
	other := w.root.MustIssue(t, certstest.Options{CommonName: "other"})
	notCA := &certstest.CA{Cert: w.host.Cert, Key: w.host.Key, Parent: w.middle}
	constrained := w.root.MustIntermediate(t, certstest.CAOptions{CommonName: "clients only", EKU: certstest.OIDs{certstest.ClientAuth}})
	tests := []struct {
		name  string
		files [][]byte
		want  intake.Wanted
		text  string
	}{
		{"no key", [][]byte{leaf, middle, root}, intake.Wanted{}, "no private key: neither"},
		{"two keys", [][]byte{key, other.MustKeyPEM(t, certstest.PKCS8), leaf, middle, root}, intake.Wanted{}, "key does not fit: 2 private keys (file1: PEM block 1, file2: PEM block 1)"},
		{"another's key", [][]byte{other.MustKeyPEM(t, certstest.PKCS8), leaf, middle, root}, intake.Wanted{}, "key does not fit: file1: PEM block 1 does not belong to file2: PEM block 1 (CN=nfs.example.com)"},
		{"the CA's key", [][]byte{caKey(t, w.middle), leaf, middle, root}, intake.Wanted{}, "key does not fit: file1: PEM block 1 is the private key of the CA CN=middle"},
		{"no leaf", [][]byte{key, middle, root}, intake.Wanted{}, "no certificate: none of 2 is a host's"},
		{"nothing", [][]byte{key}, intake.Wanted{}, "no certificate: none of 0"},
		{"no intermediate", [][]byte{key, leaf, root}, intake.Wanted{}, `chain incomplete: file2: PEM block 1 (CN=nfs.example.com) was issued by "CN=middle", whose certificate is not among the files`},
		{"no root", [][]byte{key, leaf, middle}, intake.Wanted{}, `chain incomplete: file3: PEM block 1 (CN=middle) was issued by "CN=root"`},
		{"a root of the same name", [][]byte{key, leaf, middle, certstest.MustCA(t, certstest.CAOptions{CommonName: "root"}).PEM()}, intake.Wanted{}, `chain incomplete: file3: PEM block 1 (CN=middle) was issued by "CN=root"`},
		{"self-signed", selfSigned(t), intake.Wanted{}, "chain incomplete: file2: PEM block 1 (CN=alone) signed itself"},
		{"issued by a host", append(issue(notCA, func(*certstest.Options) {}), middle), intake.Wanted{}, "CA flag missing: file2: PEM block 2 (CN=nfs.example.com) issued CN=nfs.example.com but is no CA"},
		{"another name", [][]byte{key, leaf, middle, root}, intake.Wanted{Names: names(t, "nfs2.example.com", "192.0.2.1", "192.0.2.2")},
			"name missing: want nfs2.example.com, 192.0.2.2, the certificate has nfs.example.com, *.lab.example.com, 192.0.2.1"},
		{"a user", [][]byte{key, leaf, middle, root}, intake.Wanted{Names: names(t, "user:a@b.example")}, "name missing: want user:a@b.example"},
		{"a common name alone", issue(w.middle, func(o *certstest.Options) { o.DNS, o.IPs = nil, nil }), intake.Wanted{Names: names(t, "nfs.example.com")}, "no subject alternative name (a common name does not count)"},
		{"for a client", [][]byte{key, leaf, middle, root}, intake.Wanted{Purpose: certs.ClientAuth}, "wrong extended key usage: CN=nfs.example.com is not for a client: ask the CA for 1.3.6.1.5.5.7.3.2 (TLS) or 1.3.6.1.5.5.7.3.33 (RFC 9289)"},
		{"for both", issue(w.middle, func(o *certstest.Options) { o.EKU = nil }), intake.Wanted{}, "may be a server's or a client's"},
		{"for mail", issue(w.middle, func(o *certstest.Options) { o.EKU = []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 4}} }), intake.Wanted{}, "neither for a server nor for a client"},
		{"of the future", issue(w.middle, func(o *certstest.Options) { o.NotBefore = time.Now().Add(time.Hour) }), intake.Wanted{}, "not yet valid: file2: PEM block 1"},
		{"of the past", issue(w.middle, func(o *certstest.Options) {
			o.NotBefore, o.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		}), intake.Wanted{}, "expired: file2: PEM block 1 (CN=nfs.example.com) ended 20"},
		{"a weak key", issue(w.middle, func(o *certstest.Options) { o.KeyType = certstest.ECP224 }), intake.Wanted{}, "P-224"},
		{"a key usage", issue(w.middle, func(o *certstest.Options) { o.KeyUsage = x509.KeyUsageKeyEncipherment }), intake.Wanted{}, "would be refused: verify certificate"},
		{"a CA for others", issue(constrained, func(*certstest.Options) {}), intake.Wanted{}, "would be refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := new(intake.Material)
			for i, data := range tt.files {
				if err := m.Add("file"+string(rune('1'+i)), bytes.Clone(data)); err != nil {
					if !strings.Contains(err.Error(), tt.text) {
						t.Error(err)
					}
					return
				}
			}
			tt.want.Now = time.Now()
			id, err := m.Judge(tt.want)
			if _, ok := errors.AsType[*intake.Refusal](err); !ok || id != nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, %v, want %q", id, err, tt.text)
			}
		})
	}
}

func caKey(t *testing.T, ca *certstest.CA) []byte {
	key, err := certstest.KeyPEM(ca.Key, certstest.PKCS8)
	return certstest.Must(t, key, err)
}

func selfSigned(t *testing.T) [][]byte {
	key, err := certstest.NewKey(certstest.EC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "alone", Key: key})
	// A host that is issued by its own name and key.
	pair := ca.MustIssue(t, certstest.Options{CommonName: "alone", DNS: []string{"alone"}})
	der, err := x509.CreateCertificate(nil, pair.Cert, pair.Cert, pair.Key.Public(), pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return [][]byte{pair.MustKeyPEM(t, certstest.PKCS8), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// All that is wrong is said at once.
func TestJudgeSaysEverything(t *testing.T) {
	w := newWorld(t)
	o := hostOptions()
	o.NotBefore, o.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	p := w.middle.MustIssue(t, o)
	_, err := gather(t, p.MustKeyPEM(t, certstest.PKCS8), certstest.CertPEM(p.Cert)).Judge(
		intake.Wanted{Purpose: certs.ClientAuth, Names: names(t, "other"), Now: time.Now()})
	refusal, ok := errors.AsType[*intake.Refusal](err)
	if !ok {
		t.Fatal(err)
	}
	var kinds []string
	for _, p := range refusal.Problems {
		kind, _, _ := strings.Cut(string(p), ":")
		kinds = append(kinds, kind)
	}
	want := []string{"chain incomplete", "wrong extended key usage", "expired", "name missing"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestNotes(t *testing.T) {
	w := newWorld(t)
	o := hostOptions()
	o.NotAfter = time.Now().Add(10*24*time.Hour + time.Hour)
	p := w.middle.MustIssue(t, o)
	stray := w.root.MustIssue(t, certstest.Options{CommonName: "stray"})
	id, err := gather(t, p.MustKeyPEM(t, certstest.PKCS8), p.CertPEM(), w.root.PEM(), certstest.CertPEM(stray.Cert)).Judge(intake.Wanted{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"file2: PEM block 1 (CN=nfs.example.com) expires in 10 days, " + o.NotAfter.UTC().Format(time.RFC3339), "file4: PEM block 1 (CN=stray) is not part of the chain and is left out"}
	if diff := cmp.Diff(want, id.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
}

func TestAddRefuses(t *testing.T) {
	w := newWorld(t)
	block := func(kind string, data []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data})
	}
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"nothing":          {nil, "neither PEM nor DER"},
		"text":             {[]byte("certificate"), "neither PEM nor DER"},
		"a request":        {block("CERTIFICATE REQUEST", []byte("x")), "PEM block 1: a request for a certificate"},
		"a CRL":            {block("X509 CRL", []byte("x")), "name it as crl"},
		"PKCS #7":          {block("PKCS7", []byte("x")), "openssl pkcs7"},
		"an age file":      {block("AGE ENCRYPTED FILE", []byte("x")), "--bundle"},
		"parameters of DH": {block("DH PARAMETERS", []byte("x")), `"DH PARAMETERS" where`},
		"an encrypted key": {block("ENCRYPTED PRIVATE KEY", []byte("x")), "private key is encrypted"},
		"a damaged block":  {append(w.root.PEM(), "-----BEGIN CERTIFICATE-----\nx"...), "PEM block 2: malformed"},
		"a damaged DER":    {w.root.Cert.Raw[:100], "neither PEM nor DER"},
		"too much":         {make([]byte, 1<<20+1), "more than"},
	} {
		var m intake.Material
		if err := m.Add("some.file", tt.data); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "some.file: ") {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// What is really in the files that other tools write.
func TestOpenSSLFiles(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl")
	}
	w := newWorld(t)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"chain.pem": w.host.CertPEM(), "key.pem": w.key(t)} {
		if err := certstest.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) []byte {
		cmd := exec.Command(openssl, args...)
		cmd.Dir = dir
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return out
	}
	for name, data := range map[string][]byte{
		"PKCS #7 DER": run("crl2pkcs7", "-nocrl", "-certfile", "chain.pem", "-outform", "DER"),
		"PKCS #7 PEM": run("crl2pkcs7", "-nocrl", "-certfile", "chain.pem"),
		"PKCS #12":    run("pkcs12", "-export", "-in", "chain.pem", "-inkey", "key.pem", "-passout", "pass:x"),
	} {
		var m intake.Material
		if err := m.Add("f", data); err == nil || !strings.Contains(err.Error(), "PKCS #7 or PKCS #12") {
			t.Errorf("%s: %v", name, err)
		}
	}
	text := run("x509", "-text", "-in", "chain.pem") // words around the PEM
	if _, err := gather(t, text, run("ec", "-in", "key.pem", "-outform", "DER"), w.middle.PEM(), w.root.PEM()).Judge(intake.Wanted{Now: time.Now()}); err != nil {
		t.Error(err)
	}
}

func TestKeysAtHand(t *testing.T) {
	w := newWorld(t)
	m := gather(t, w.host.CertPEM(), w.root.PEM())
	m.AddKey("request", w.host.Key)
	m.AddKey("request", w.host.Key)
	id, err := m.Judge(intake.Wanted{Now: time.Now()})
	if err != nil || m.Keys() != 1 || len(m.Certificates()) != 3 {
		t.Fatalf("%v, %d keys", err, m.Keys())
	}
	if !id.Key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(w.host.Key.Public()) {
		t.Error("another key")
	}
}

// FuzzMaterial reads what somebody may bring, twice over, and judges it.
func FuzzMaterial(f *testing.F) {
	w := newWorld(f)
	f.Add(w.key(f), bytes.Join([][]byte{w.host.CertPEM(), w.root.PEM()}, nil))
	f.Add(w.host.Cert.Raw, w.host.MustKeyPEM(f, certstest.SEC1Params))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		m := new(intake.Material)
		for _, data := range [][]byte{a, b} {
			if err := m.Add("f", data); err != nil && (strings.Contains(err.Error(), "\n") || len(err.Error()) > 2000) {
				t.Errorf("unfit error %q", err)
			}
		}
		id, err := m.Judge(intake.Wanted{Now: time.Now()})
		if (id == nil) != (err != nil) {
			t.Errorf("identity %v, error %v", id, err)
		}
	})
}
