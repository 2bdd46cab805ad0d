// SPDX-License-Identifier: BSD-3-Clause

package ca_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/certstest"
	"rpctls/certs/san"
	"rpctls/internal/durable"
	"rpctls/internal/durable/durabletest"
)

// A site is a CA in a temporary directory, with a clock.
type site struct {
	t    testing.TB
	dir  string
	time time.Time
	disk *durable.Disk
}

func newSite(t testing.TB) *site {
	return &site{t: t, dir: filepath.Join(t.TempDir(), "etc", "ca"), time: time.Now(), disk: new(durable.Disk)}
}

func (s *site) env() ca.Env {
	return ca.Env{Disk: s.disk, Now: func() time.Time { return s.time }, Built: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), PublishCRL: s.published()}
}

// published is where daemons find CRLs.
func (s *site) published() string { return filepath.Join(filepath.Dir(s.dir), "crl") }

func (s *site) init(permit ...string) *site {
	s.t.Helper()
	if _, err := ca.Init(s.env(), s.dir, ca.Options{CommonName: "test CA", Permit: permit}); err != nil {
		s.t.Fatal(err)
	}
	return s
}

func (s *site) open() *ca.CA {
	s.t.Helper()
	c, err := ca.Open(s.env(), s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *site) read() *ca.Books {
	s.t.Helper()
	b, err := ca.Read(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *site) issue(p certs.Purpose, texts ...string) *ca.Draft {
	s.t.Helper()
	c := s.open()
	defer c.Close()
	d, err := c.Draft(ca.Order{Purpose: p, Names: names(s.t, texts...), StoreKey: true})
	if err == nil {
		err = d.Commit()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return d
}

func (s *site) revoke(serials ...string) {
	s.t.Helper()
	c := s.open()
	defer c.Close()
	if err := c.Revoke(serials, "keyCompromise"); err != nil {
		s.t.Fatal(err)
	}
}

// verify judges as a daemon would, with the CA's certificate and CRL as files.
func (s *site) verify(cert *x509.Certificate, p certs.Purpose, name string) error {
	s.t.Helper()
	b := s.read()
	trust, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: b.CertPath(), CRL: []string{s.published()}})
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = trust.Verify([]*x509.Certificate{cert}, p, name, s.time)
	return err
}

func names(t testing.TB, texts ...string) san.Names {
	t.Helper()
	n, err := san.Parse(texts...)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func wantReason(t *testing.T, err error, want certs.Reason) {
	t.Helper()
	if verr, ok := errors.AsType[*certs.VerifyError](err); !ok || verr.Reason != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestInit(t *testing.T) {
	s := newSite(t).init()
	modes := make(map[string]string)
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		name, _ := filepath.Rel(s.dir, path)
		modes[name] = info.Mode().String()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{".": "drwxr-xr-x", "ca.key": "-rw-------", "ca.pem": "-rw-r--r--", "crl.pem": "-rw-r--r--", "index": "-rw-------", "issued": "drwx------"}
	if diff := cmp.Diff(want, modes); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	cert := s.read().Cert
	if !cert.IsCA || !cert.MaxPathLenZero || cert.PublicKeyAlgorithm != x509.ECDSA || len(cert.SubjectKeyId) == 0 ||
		cert.SerialNumber.Sign() <= 0 || cert.NotAfter.Year()-cert.NotBefore.Year() != 10 {
		t.Errorf("CA certificate %+v", cert)
	}
	if b := s.read(); b.CRL == nil || b.CRL.Number.Int64() != 1 || b.CRLDue(s.time) || len(b.Certificates()) != 0 {
		t.Errorf("books %+v", b)
	}
}

func TestInitRefuses(t *testing.T) {
	there := newSite(t).init()
	if _, err := ca.Init(there.env(), there.dir, ca.Options{CommonName: "x"}); !errors.Is(err, ca.ErrExists) {
		t.Errorf("twice: %v", err)
	}
	full := newSite(t)
	if err := errors.Join(os.MkdirAll(full.dir, 0o755), os.WriteFile(full.dir+"/note", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := ca.Init(full.env(), full.dir, ca.Options{CommonName: "x"}); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a directory with something else: %v", err)
	}
	empty := newSite(t)
	if err := os.MkdirAll(empty.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	empty.init()
	old := newSite(t)
	old.time = time.Unix(0, 0)
	if _, err := ca.Init(old.env(), old.dir, ca.Options{CommonName: "x"}); !errors.Is(err, ca.ErrClock) || !strings.Contains(err.Error(), "1970-01-01") {
		t.Errorf("in 1970: %v", err)
	}
	for name, o := range map[string]ca.Options{
		"no name":                  {},
		"a long name":              {CommonName: strings.Repeat("x", 65)},
		"an unprintable name":      {CommonName: "a\nb"},
		"a lifetime":               {CommonName: "x", Years: -1},
		"a permit with a path":     {CommonName: "x", Permit: []string{"a/b"}},
		"a permit with host bits":  {CommonName: "x", Permit: []string{"192.0.2.1/24"}},
		"a permit that is nothing": {CommonName: "x", Permit: []string{""}},
		"a permit in 4-in-6":       {CommonName: "x", Permit: []string{"::ffff:192.0.2.0/120"}},
	} {
		s := newSite(t)
		if _, err := ca.Init(s.env(), s.dir, o); err == nil {
			t.Errorf("%s is accepted", name)
		}
		if _, err := os.Stat(filepath.Dir(s.dir)); err == nil {
			t.Errorf("%s: something was made", name)
		}
	}
}

func TestIssue(t *testing.T) {
	s := newSite(t).init()
	server := s.issue(certs.ServerAuth, "nfs.example.com", "192.0.2.1", "2001:db8::1", "*.lab.example.com")
	for _, name := range []string{"nfs.example.com", "192.0.2.1", "[2001:db8::1]", "a.lab.example.com"} {
		if err := s.verify(server.Cert, certs.ServerAuth, name); err != nil {
			t.Error(err)
		}
	}
	wantReason(t, s.verify(server.Cert, certs.ServerAuth, "other.example.com"), certs.WrongName)
	wantReason(t, s.verify(server.Cert, certs.ClientAuth, ""), certs.KeyUsage)
	client := s.issue(certs.ClientAuth, "client1", "user:alice@example.com")
	if err := s.verify(client.Cert, certs.ClientAuth, "client1"); err != nil {
		t.Error(err)
	}
	wantReason(t, s.verify(client.Cert, certs.ServerAuth, ""), certs.KeyUsage)

	cert := server.Cert
	caCert := s.read().Cert
	switch life := cert.NotAfter.Sub(s.time); {
	case life < 89*24*time.Hour || life > 90*24*time.Hour:
		t.Errorf("lifetime %v", life)
	case cert.NotBefore.After(s.time.Add(-59 * time.Minute)):
		t.Error("a clock that is an hour behind would refuse it")
	case !bytes.Equal(cert.AuthorityKeyId, caCert.SubjectKeyId) || len(cert.SubjectKeyId) != 20:
		t.Errorf("key identifiers %x, %x", cert.AuthorityKeyId, cert.SubjectKeyId)
	case cert.KeyUsage != x509.KeyUsageDigitalSignature || cert.IsCA || !cert.BasicConstraintsValid:
		t.Error("key usage or constraints")
	case !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) ||
		len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 34}):
		t.Error("extended key usage")
	}
	list := s.read().Certificates()
	if len(list) != 2 || list[0].Serial != server.Serial() || list[0].Names.String() != "nfs.example.com, 192.0.2.1, 2001:db8::1, *.lab.example.com" ||
		list[0].State(s.time) != ca.Valid || list[0].State(s.time.AddDate(0, 0, 91)) != ca.Expired || list[0].Fingerprint != certs.Fingerprint(cert) {
		t.Errorf("books: %+v", list)
	}
	c := s.open()
	defer c.Close()
	key, err := c.Key(server.Serial())
	if err != nil || !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(cert.PublicKey) {
		t.Errorf("stored key: %v", err)
	}
	if err := c.ForgetKey(server.Serial()); err != nil || c.HasKey(server.Serial()) || !c.HasKey(client.Serial()) {
		t.Errorf("forgotten key: %v", err)
	}
	if copied, err := c.Copy(server.Serial()); err != nil || !copied.Equal(cert) {
		t.Errorf("copy: %v", err)
	}
}

func TestIssueEndsWithTheCA(t *testing.T) {
	s := newSite(t).init()
	b := s.read()
	s.time = b.Cert.NotAfter.AddDate(0, 0, -10)
	if d := s.issue(certs.ServerAuth, "a.example"); !d.Cert.NotAfter.Equal(b.Cert.NotAfter) {
		t.Errorf("%v outlives its CA, %v", d.Cert.NotAfter, b.Cert.NotAfter)
	}
}

func TestDraftRefuses(t *testing.T) {
	weak, err := certstest.NewKey(certstest.ECP224, 0)
	if err != nil {
		t.Fatal(err)
	}
	good := ca.Order{Purpose: certs.ServerAuth, Names: names(t, "nfs.example.com")}
	tests := []struct {
		name   string
		permit []string
		at     func(notBefore, notAfter time.Time) time.Time
		order  func(*ca.Order)
		want   string
	}{
		{name: "no name", order: func(o *ca.Order) { o.Names = san.Names{} }, want: "needs a host name"},
		{name: "a user alone", order: func(o *ca.Order) { o.Names = names(t, "user:alice@example.com") }, want: "needs a host name"},
		{name: "no purpose", order: func(o *ca.Order) { o.Purpose = 0 }, want: "for a server or for a client"},
		{name: "a lifetime", order: func(o *ca.Order) { o.Days = 4000 }, want: "lifetime of 4000 days"},
		{name: "a curve", order: func(o *ca.Order) { o.Public = weak.Public() }, want: "P-224"},
		{name: "before the CA", at: func(from, _ time.Time) time.Time { return from.Add(-time.Second) }, want: "the clock is wrong"},
		{name: "1970", at: func(_, _ time.Time) time.Time { return time.Unix(0, 0) }, want: "the clock is wrong: it says 1970-01-01T00:00:00Z"},
		{name: "after the CA", at: func(_, until time.Time) time.Time { return until.Add(time.Second) }, want: "expired"},
		{name: "another domain", permit: []string{"example.org"}, want: "this CA certifies only example.org"},
		{name: "a domain that ends alike", permit: []string{"le.com"}, want: "certifies only"},
		{name: "an address, only domains permitted", permit: []string{"example.com"}, order: func(o *ca.Order) { o.Names = names(t, "192.0.2.1") }, want: "certifies only"},
		{name: "an IPv6 address, only domains permitted", permit: []string{"example.com"}, order: func(o *ca.Order) { o.Names = names(t, "2001:db8::1") }, want: "certifies only"},
		{name: "a name, only networks permitted", permit: []string{"192.0.2.0/24"}, want: "certifies only 192.0.2.0/24"},
		{name: "another network", permit: []string{"192.0.2.0/24"}, order: func(o *ca.Order) { o.Names = names(t, "198.51.100.1") }, want: "certifies only"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t).init(tt.permit...)
			c := s.open()
			defer c.Close()
			if tt.at != nil {
				s.time = tt.at(c.Cert.NotBefore, c.Cert.NotAfter)
			}
			o := good
			if tt.order != nil {
				tt.order(&o)
			}
			before := tree(t, s.dir)
			if d, err := c.Draft(o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want %q", d, err, tt.want)
			}
			if diff := cmp.Diff(before, tree(t, s.dir)); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
		})
	}
}

func TestPermit(t *testing.T) {
	s := newSite(t).init("example.com", ".example.org", "*.example.net", "192.0.2.0/24", "2001:db8::/32", "198.51.100.7")
	want := []string{"example.com", "example.org", "example.net", "192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"}
	if diff := cmp.Diff(want, s.read().Permits()); diff != "" {
		t.Errorf("permits (-want +got):\n%s", diff)
	}
	for _, name := range []string{"example.com", "a.b.example.com", "nfs.example.org", "192.0.2.9", "2001:db8::9", "198.51.100.7"} {
		if err := s.verify(s.issue(certs.ServerAuth, name).Cert, certs.ServerAuth, name); err != nil {
			t.Error(err)
		}
	}
	// No constraint speaks of users.
	if err := s.verify(s.issue(certs.ClientAuth, "192.0.2.8", "user:alice@example.com").Cert, certs.ClientAuth, "192.0.2.8"); err != nil {
		t.Error(err)
	}
}

func TestRevoke(t *testing.T) {
	s := newSite(t).init()
	a, b := s.issue(certs.ClientAuth, "a.example"), s.issue(certs.ClientAuth, "b.example")
	s.time = s.time.Add(time.Hour)
	s.revoke(a.Serial(), a.Serial())
	wantReason(t, s.verify(a.Cert, certs.ClientAuth, ""), certs.Revoked)
	if err := s.verify(b.Cert, certs.ClientAuth, ""); err != nil {
		t.Error(err)
	}
	books := s.read()
	got := books.Find("a.example")
	if len(got) != 1 || got[0].State(s.time) != ca.Revoked || got[0].Reason != "keyCompromise" || got[0].RevokedAt.Sub(s.time).Abs() > time.Second {
		t.Errorf("books: %+v", got)
	}
	entry := books.CRL.RevokedCertificateEntries
	if books.CRL.Number.Cmp(big.NewInt(2)) != 0 || len(entry) != 1 || entry[0].ReasonCode != 1 {
		t.Errorf("CRL number %v, entries %v", books.CRL.Number, entry)
	}
	// Again: nothing new but a CRL with the next number.
	s.time = s.time.Add(time.Hour)
	s.revoke(a.Serial())
	if books = s.read(); books.CRL.Number.Int64() != 3 || !books.Find("a.example")[0].RevokedAt.Equal(got[0].RevokedAt) {
		t.Errorf("again: %v", books.CRL.Number)
	}
	c := s.open()
	defer c.Close()
	if err := c.Revoke([]string{strings.Repeat("0", 32)}, "superseded"); err == nil {
		t.Error("a certificate that never was is revoked")
	}
	if err := c.Revoke([]string{b.Serial()}, "certificateHold"); err == nil {
		t.Error("a certificate is put on hold")
	}
	if err := c.Revoke([]string{index0(t, s)}, "superseded"); err == nil {
		t.Error("the CA revokes itself")
	}
}

// index0 is the serial number of the CA.
func index0(t *testing.T, s *site) string {
	data, err := os.ReadFile(s.dir + "/index")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(data))[2]
}

func TestCRLDue(t *testing.T) {
	s := newSite(t).init()
	b := s.read()
	for days, want := range map[int]bool{0: false, 19: false, 21: true, 31: true} {
		if got := b.CRLDue(s.time.AddDate(0, 0, days)); got != want {
			t.Errorf("after %d days: %v", days, got)
		}
	}
	// Long after it went stale, the next operation need not make it: it is
	// behind nothing. MakeCRL does.
	c := s.open()
	defer c.Close()
	s.time = s.time.AddDate(0, 0, 31)
	if err := c.MakeCRL(time.Hour); err != nil || c.CRLDue(s.time) || !c.CRLDue(s.time.Add(50*time.Minute)) {
		t.Errorf("made: %v", err)
	}
}

// TestClockWasAhead: what was made by a clock of the future is made again when
// the clock is right, instead of being waited for.
func TestClockWasAhead(t *testing.T) {
	s := newSite(t).init()
	right := s.time
	c := s.open()
	defer c.Close()
	s.time = right.AddDate(2, 0, 0)
	if err := c.MakeCRL(ca.DefaultCRLLifetime); err != nil || c.CRLDue(s.time) {
		t.Fatalf("in the future: %v", err)
	}
	s.time = right
	if !c.CRLDue(s.time) {
		t.Error("a CRL that begins in two years is not due")
	}
	if err := c.MakeCRL(ca.DefaultCRLLifetime); err != nil || c.CRLDue(s.time) || c.CRL.Number.Int64() != 3 {
		t.Errorf("again: %v", err)
	}
	until := right.AddDate(0, 0, 90)
	for ahead, want := range map[time.Duration]bool{0: false, 59 * time.Minute: false, 61 * time.Minute: true, 1e4 * time.Hour: true} {
		if got := ca.Due(right.Add(ahead), until.Add(ahead), right); got != want {
			t.Errorf("made by a clock ahead by %v: due %v", ahead, got)
		}
	}
}

func TestFind(t *testing.T) {
	s := newSite(t).init()
	a1, a2, b := s.issue(certs.ClientAuth, "a.example"), s.issue(certs.ServerAuth, "x.example", "a.example"), s.issue(certs.ClientAuth, "192.0.2.1")
	books := s.read()
	for what, want := range map[string][]string{
		"A.example.":                     {a1.Serial(), a2.Serial()},
		"192.0.2.1":                      {b.Serial()},
		a1.Serial():                      {a1.Serial()},
		strings.ToUpper(a2.Serial()[:8]): {a2.Serial()},
		a1.Serial()[:2] + ":" + a1.Serial()[2:10]: {a1.Serial()},
		a1.Serial()[:7]:  nil,
		"nobody.example": nil,
		"":               nil,
	} {
		var got []string
		for _, c := range books.Find(what) {
			got = append(got, c.Serial)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", what, got, want)
		}
	}
	if _, ok := books.Lookup(a1.Cert); !ok {
		t.Error("an issued certificate is not in the books")
	}
	if _, ok := books.Lookup(books.Cert); ok {
		t.Error("the CA counts as issued")
	}
	other := certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{})
	if _, ok := books.Lookup(other.Cert); ok {
		t.Error("another's certificate is in the books")
	}
}

func TestOpenRefuses(t *testing.T) {
	other := newSite(t).init()
	copyFrom := func(name string) func(t *testing.T, s *site) {
		return func(t *testing.T, s *site) { put(t, s.dir+"/"+name, get(t, other.dir+"/"+name)) }
	}
	tests := []struct {
		name   string
		change func(t *testing.T, s *site)
		want   string
	}{
		{"no certificate", func(t *testing.T, s *site) { remove(t, s.dir+"/ca.pem") }, "no CA is there"},
		{"no key", func(t *testing.T, s *site) { remove(t, s.dir+"/ca.key") }, "ca.key: no such file"},
		{"no index", func(t *testing.T, s *site) { remove(t, s.dir+"/index") }, "index: no such file"},
		{"an empty index", func(t *testing.T, s *site) { put(t, s.dir+"/index", "") }, "is not the index of"},
		{"a readable key", func(t *testing.T, s *site) {
			if err := os.Chmod(s.dir+"/ca.key", 0o644); err != nil {
				t.Fatal(err)
			}
		}, "gives access to others"},
		{"another's key", copyFrom("ca.key"), "does not belong to"},
		{"another's index", copyFrom("index"), "is not the index of"},
		{"another's certificate", copyFrom("ca.pem"), "is not the index of"},
		{"a changed index", func(t *testing.T, s *site) {
			put(t, s.dir+"/index", strings.Replace(get(t, s.dir+"/index"), "a.example", "b.example", 1))
		}, "index: index: line 3: the sum does not fit"},
		{"an index from a backup", func(t *testing.T, s *site) {
			old := get(t, s.dir+"/index")
			s.revoke(s.read().Certificates()[0].Serial)
			put(t, s.dir+"/index", old)
		}, "the index is older than the CRL"},
		{"another at work", func(t *testing.T, s *site) { t.Cleanup(s.open().Close) }, "another process"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t).init()
			s.issue(certs.ServerAuth, "a.example")
			tt.change(t, s)
			before := tree(t, s.dir)
			if c, err := ca.Open(s.env(), s.dir); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want %q", c, err, tt.want)
			}
			if diff := cmp.Diff(before, tree(t, s.dir)); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
		})
	}
}

func TestRepair(t *testing.T) {
	s := newSite(t).init()
	kept := s.issue(certs.ServerAuth, "a.example")
	s.revoke(kept.Serial())
	whole := get(t, s.dir+"/index")
	put(t, s.dir+"/index", whole+"2026-11-21T12:0")
	put(t, s.dir+"/issued/"+strings.Repeat("a", 32)+".pem", "never handed out")
	put(t, s.dir+"/issued/"+strings.Repeat("a", 32)+".key", "never handed out")
	put(t, s.dir+"/issued/note", "not ours")
	put(t, s.dir+"/.rpctls-new-17", "half a CRL")
	remove(t, s.dir+"/crl.pem")
	c := s.open()
	c.Close()
	if len(c.Repaired) != 4 {
		t.Errorf("repaired: %q", c.Repaired)
	}
	if got := get(t, s.dir+"/index"); !strings.HasPrefix(got, whole) || strings.Count(got, "\n") != strings.Count(whole, "\n")+1 {
		t.Errorf("index %q", got)
	}
	wantReason(t, s.verify(kept.Cert, certs.ClientAuth, ""), certs.KeyUsage)
	wantReason(t, s.verify(kept.Cert, certs.ServerAuth, ""), certs.Revoked)
	want := []string{"issued/" + kept.Serial() + ".key", "issued/" + kept.Serial() + ".pem", "issued/note"}
	var got []string
	for name := range tree(t, s.dir) {
		if strings.HasPrefix(name, "issued/") {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("issued (-want +got):\n%s", diff)
	}
	c = s.open()
	c.Close()
	if len(c.Repaired) != 0 {
		t.Errorf("again: %q", c.Repaired)
	}
}

// The copy of the CRL is the CRL, whatever happened to it, and nothing else in
// its directory is touched.
func TestPublishedCRL(t *testing.T) {
	s := newSite(t).init()
	path := s.read().PublishedCRL(s.published())
	put(t, s.published()+"/other.pem", "of another CA")
	put(t, s.published()+"/.rpctls-new-17", "half a CRL")
	for _, tt := range []struct {
		what  string
		spoil func()
	}{
		{"new", func() {}},
		{"removed", func() { remove(t, path) }},
		{"outdated", func() { put(t, path, "an older one") }},
		{"revoked", func() { s.revoke(s.issue(certs.ClientAuth, "a.example").Serial()) }},
		{"directory", func() { os.RemoveAll(s.published()) }},
	} {
		what := tt.what
		tt.spoil()
		c := s.open()
		c.Close()
		if len(c.Repaired) != 0 {
			t.Errorf("%s: repaired: %q", what, c.Repaired)
		}
		if get(t, path) != get(t, s.read().CRLPath()) {
			t.Errorf("%s: the copy is another", what)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o644 {
			t.Errorf("%s: %v, %v: the daemon cannot read it", what, info, err)
		}
		if _, err := os.Stat(s.published() + "/.rpctls-new-17"); err == nil {
			t.Errorf("%s: half a CRL is left", what)
		}
		put(t, s.published()+"/other.pem", "of another CA")
	}
	// Two CAs do not disturb each other.
	other := &site{t: t, dir: s.dir + "2", time: s.time, disk: new(durable.Disk)}
	other.init()
	s.revoke(s.issue(certs.ClientAuth, "b.example").Serial())
	if get(t, path) != get(t, s.dir+"/crl.pem") || get(t, other.read().PublishedCRL(s.published())) != get(t, other.dir+"/crl.pem") {
		t.Error("two CAs: one's CRL is the other's")
	}
	// Without a directory there is none.
	env := s.env()
	env.PublishCRL = ""
	if _, err := ca.Init(env, s.dir+"3/ca", ca.Options{CommonName: "alone"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.dir + "3/crl"); err == nil {
		t.Error("published without being asked")
	}
}

// The index cut at every byte of its last line: what came before stands.
func TestIndexCutAnywhere(t *testing.T) {
	s := newSite(t).init()
	a := s.issue(certs.ClientAuth, "a.example")
	before := len(get(t, s.dir+"/index"))
	s.issue(certs.ClientAuth, "b.example")
	whole := get(t, s.dir+"/index")
	for n := before; n < len(whole); n++ {
		put(t, s.dir+"/index", whole[:n])
		c := s.open()
		c.Close()
		if list := c.Certificates(); len(list) != 1 || list[0].Serial != a.Serial() {
			t.Fatalf("cut at %d: %+v", n, list)
		}
		if got := get(t, s.dir+"/index"); got != whole[:before] {
			t.Fatalf("cut at %d: %q", n, got)
		}
	}
}

// Every step of every change fails once with a full disk, and once with a
// crash. Either nothing has happened, or everything.
func TestMishaps(t *testing.T) {
	base := newSite(t).init()
	first := base.issue(certs.ClientAuth, "first.example")
	changes := []struct {
		name   string
		change func(s *site) error
		done   func(s *site) bool
	}{
		{"init", func(s *site) error {
			_, err := ca.Init(s.env(), s.dir+"2", ca.Options{CommonName: "second"})
			return err
		}, func(s *site) bool {
			_, err := ca.Read(s.dir + "2")
			if err != nil && !errors.Is(err, ca.ErrNone) {
				t.Error(err)
			}
			return err == nil
		}},
		{"issue", func(s *site) error {
			c, err := ca.Open(s.env(), s.dir)
			if err != nil {
				return err
			}
			defer c.Close()
			d, err := c.Draft(ca.Order{Purpose: certs.ServerAuth, Names: names(t, "second.example"), StoreKey: true})
			if err != nil {
				return err
			}
			defer d.Discard()
			return d.Commit()
		}, func(s *site) bool {
			found := s.read().Find("second.example")
			if len(found) == 1 {
				if _, err := s.read().Copy(found[0].Serial); err != nil || !s.read().HasKey(found[0].Serial) {
					t.Errorf("issued without its copy: %v", err)
				}
			}
			return len(found) == 1
		}},
		{"revoke", func(s *site) error {
			c, err := ca.Open(s.env(), s.dir)
			if err != nil {
				return err
			}
			defer c.Close()
			return c.Revoke([]string{first.Serial()}, "superseded")
		}, func(s *site) bool {
			revoked := s.read().Find("first.example")[0].State(s.time) == ca.Revoked
			if listed := s.verify(first.Cert, certs.ClientAuth, "") != nil; listed != revoked {
				t.Errorf("revoked in the index %v, in the CRL %v", revoked, listed)
			}
			return revoked
		}},
	}
	for _, ch := range changes {
		t.Run(ch.name, func(t *testing.T) {
			durabletest.Each(func(m *durabletest.Mishap) {
				s := &site{t: t, dir: filepath.Join(durabletest.TempDir(t), "ca"), time: base.time, disk: m.Disk()}
				if err := os.CopyFS(s.dir, os.DirFS(base.dir)); err != nil {
					t.Fatal(err)
				}
				// CopyFS does not keep modes as they are.
				if err := os.Chmod(s.dir+"/ca.key", 0o600); err != nil {
					t.Fatal(err)
				}
				real := s.disk
				s.disk = new(durable.Disk)
				s.open().Close() // publishes the CRL
				s.disk = real
				before := tree(t, filepath.Dir(s.dir))
				err := ch.change(s)
				if err == nil && m.What != "" && !strings.HasPrefix(m.What, "remove") {
					t.Errorf("%v: no error", m)
				}
				s.disk = new(durable.Disk)
				c := s.open() // repairs
				c.Close()
				if err := s.disk.Sweep(filepath.Dir(s.dir)); err != nil {
					t.Fatal(err)
				}
				done := ch.done(s)
				if err == nil && !done {
					t.Errorf("%v: success, but nothing is there", m)
				}
				// A rename that was not synced may be there or not; every
				// other failure must have left nothing.
				// A new CA is there even if its CRL is not published yet.
				unpublished := ch.name == "init" && strings.HasPrefix(m.What, "rename "+s.published())
				if err != nil && done && !strings.HasPrefix(m.What, "sync directory") && !m.Crash && ch.name != "revoke" && !unpublished {
					t.Errorf("%v: failure, but it is done", m)
				}
				if !done {
					if diff := cmp.Diff(before, tree(t, filepath.Dir(s.dir))); diff != "" {
						t.Errorf("%v: nothing happened, but (-before +after):\n%s", m, diff)
					}
				}
				// Whatever happened, it goes on.
				s.issue(certs.ServerAuth, "next.example")
			})
		})
	}
}

func TestDryRun(t *testing.T) {
	s := newSite(t)
	s.disk = &durable.Disk{DryRun: true}
	s.init("example.com")
	if _, err := os.Stat(filepath.Dir(s.dir)); err == nil {
		t.Error("init made something")
	}
	s.disk = new(durable.Disk)
	s.init()
	a := s.issue(certs.ServerAuth, "a.example")
	remove(t, s.dir+"/crl.pem")
	before := tree(t, s.dir)
	s.disk = &durable.Disk{DryRun: true}
	s.issue(certs.ServerAuth, "b.example")
	s.revoke(a.Serial())
	if diff := cmp.Diff(before, tree(t, s.dir)); diff != "" {
		t.Errorf("something changed:\n%s", diff)
	}
}

// After a failed append it is not known where the index ends, so nothing more
// may be added.
func TestNothingAfterAFailure(t *testing.T) {
	s := newSite(t).init()
	fail := false
	s.disk = &durable.Disk{Step: func(op, _ string) error {
		if fail && (op == "append" || op == "truncate") {
			return errors.New("broken")
		}
		return nil
	}}
	c := s.open()
	defer c.Close()
	order := ca.Order{Purpose: certs.ServerAuth, Names: names(t, "a.example")}
	d, err := c.Draft(order)
	if err != nil {
		t.Fatal(err)
	}
	fail = true
	if err := d.Commit(); err == nil {
		t.Fatal("committed")
	}
	d.Discard()
	fail = false
	if d, err = c.Draft(order); err != nil {
		t.Fatal(err)
	}
	if err := d.Commit(); err == nil || !strings.Contains(err.Error(), "an earlier change failed") {
		t.Errorf("got %v", err)
	}
	d.Discard()
	if _, err := ca.Read(s.dir); err != nil {
		t.Error(err)
	}
}

func TestTwoAtOnce(t *testing.T) {
	s := newSite(t).init()
	const n = 8
	errs := make(chan error, n)
	for range n {
		go func() {
			env := s.env()
			env.Patience = time.Minute
			c, err := ca.Open(env, s.dir)
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			order := ca.Order{Purpose: certs.ServerAuth}
			order.Names, err = san.Parse("a.example")
			if err != nil {
				errs <- err
				return
			}
			d, err := c.Draft(order)
			if err == nil {
				err = d.Commit()
			}
			errs <- err
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if got := len(s.read().Certificates()); got != n {
		t.Errorf("%d certificates, want %d", got, n)
	}
}

func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		got[name] = get(t, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func get(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// certPEM writes a certificate where openssl can read it.
func certPEM(t testing.TB, path string, cert *x509.Certificate) string {
	put(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})))
	return path
}
