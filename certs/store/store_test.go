// SPDX-License-Identifier: BSD-3-Clause

package store_test

import (
	"crypto"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/certs/csr"
	"rpctls/certs/san"
	"rpctls/certs/store"
	"rpctls/internal/durable"
	"rpctls/internal/durable/durabletest"
)

func newStore(t testing.TB) *store.Store {
	return &store.Store{Dir: filepath.Join(durabletest.TempDir(t), "rpctls"), Disk: new(durable.Disk)}
}

func install(s *store.Store, name string, p *certstest.Pair) error {
	release, err := s.Lock()
	if err != nil {
		return err
	}
	defer release()
	staged, err := s.Stage(name, p.Chain(), p.Key)
	if err != nil {
		return err
	}
	defer staged.Discard()
	return staged.Publish()
}

func mustInstall(t *testing.T, s *store.Store, name string, p *certstest.Pair) {
	t.Helper()
	if err := install(s, name, p); err != nil {
		t.Fatal(err)
	}
}

// plain installs an identity as somebody would by hand.
func plain(t *testing.T, s *store.Store, name string, p *certstest.Pair) {
	t.Helper()
	err := errors.Join(os.MkdirAll(s.Dir, 0o755),
		os.WriteFile(s.CertPath(name), p.CertPEM(), 0o644),
		os.WriteFile(s.KeyPath(name), p.MustKeyPEM(t, certstest.PKCS8), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

// inUse is what a daemon would load.
func inUse(t *testing.T, s *store.Store, name string) (fingerprint string, err error) {
	t.Helper()
	id, err := certs.LoadIdentity(new(certs.Files), s.CertPath(name), s.KeyPath(name))
	if err != nil {
		return "", err
	}
	return id.Fingerprint(), nil
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(dir, path)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestInstall(t *testing.T) {
	s := newStore(t)
	ca := certstest.MustCA(t, certstest.CAOptions{})
	a, b := ca.MustIssue(t, certstest.Options{DNS: []string{"a"}}), ca.MustIssue(t, certstest.Options{DNS: []string{"b"}})
	if names, err := s.Names(); err != nil || names != nil {
		t.Errorf("nothing yet: %v, %v", names, err)
	}
	if _, err := s.Load("server"); !errors.Is(err, store.ErrNone) {
		t.Errorf("nothing yet: %v", err)
	}
	mustInstall(t, s, "server", a)
	mustInstall(t, s, "lab.1", b)
	if names, err := s.Names(); err != nil || !cmp.Equal(names, []string{"lab.1", "server"}) {
		t.Errorf("names %v, %v", names, err)
	}
	mustInstall(t, s, "server", b)
	if got, err := inUse(t, s, "server"); err != nil || got != certs.Fingerprint(b.Cert) {
		t.Errorf("in use: %v, %v", got, err)
	}
	if !s.Same("server", b.Chain(), b.Key) || s.Same("server", a.Chain(), b.Key) || s.Same("server", b.Chain(), a.Key) || s.Same("none", a.Chain(), a.Key) {
		t.Error("Same")
	}
	id, err := s.Load("server")
	if err != nil || len(id.Chain) != 1 || !id.Chain[0].Equal(b.Cert) || id.CertPath != s.Dir+"/server.pem" || id.KeyPath != s.Dir+"/server.key" {
		t.Errorf("loaded %+v, %v", id, err)
	}
	modes := map[string]fs.FileMode{s.CertPath("server"): 0o644, s.KeyPath("server"): 0o600, s.Dir: 0o755 | fs.ModeDir, s.Dir + "/identity/server": 0o755 | fs.ModeDir}
	for path, want := range modes {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
	if got := len(list(t, s.Dir+"/identity/server")); got != 3 { // current, cert.pem, key.pem
		t.Errorf("%d files remain: %q", got, list(t, s.Dir))
	}
}

func TestKeyGroup(t *testing.T) {
	s := newStore(t)
	s.Group = 12345
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	mustInstall(t, s, "server", certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{}))
	info, err := os.Stat(s.KeyPath("server"))
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := certs.LoadIdentity(new(certs.Files), s.CertPath("server"), s.KeyPath("server")); err == nil {
		t.Error("this process is not in that group, and must be told")
	}
	if _, err := s.Load("server"); err != nil {
		t.Error(err)
	}
}

func TestNamesRefused(t *testing.T) {
	s := newStore(t)
	p := certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{})
	for _, name := range []string{"", "ca", "a/b", "..", ".hidden", "-x", "Server", "ä", strings.Repeat("x", 65)} {
		if err := install(s, name, p); err == nil {
			t.Errorf("%q accepted", name)
		}
	}
}

// At every mishap a daemon finds the old pair or the new one.
func TestMishaps(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	older, newer := ca.MustIssue(t, certstest.Options{DNS: []string{"old"}}), ca.MustIssue(t, certstest.Options{DNS: []string{"new"}})
	for name, before := range map[string]func(t *testing.T, s *store.Store){
		"first":                 func(*testing.T, *store.Store) {},
		"in place of links":     func(t *testing.T, s *store.Store) { mustInstall(t, s, "server", older) },
		"in place of two files": func(t *testing.T, s *store.Store) { plain(t, s, "server", older) },
	} {
		t.Run(name, func(t *testing.T) {
			durabletest.Each(func(m *durabletest.Mishap) {
				s := newStore(t)
				before(t, s)
				s.Disk = m.Disk()
				err := install(s, "server", newer)
				s.Disk = new(durable.Disk)
				got, loadErr := inUse(t, s, "server")
				switch {
				case name == "first" && err != nil && errors.Is(loadErr, fs.ErrNotExist):
					// nothing, or not all: a daemon says so and does not start
				case loadErr != nil:
					t.Fatalf("%v: a daemon finds: %v", m, loadErr)
				case got != certs.Fingerprint(older.Cert) && got != certs.Fingerprint(newer.Cert):
					t.Fatalf("%v: neither old nor new", m)
				case err == nil && got != certs.Fingerprint(newer.Cert):
					t.Fatalf("%v: success, but the old one is in use", m)
				}
				// Again, and it is done, with nothing left of the mishap.
				mustInstall(t, s, "server", newer)
				if got, err := inUse(t, s, "server"); err != nil || got != certs.Fingerprint(newer.Cert) {
					t.Fatalf("%v, then again: %v", m, err)
				}
				if got := list(t, s.Dir); len(got) != 5 {
					t.Errorf("%v: %q", m, got)
				}
			})
		})
	}
}

func TestDryRun(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	p := ca.MustIssue(t, certstest.Options{})
	s := newStore(t)
	var said []string
	s.Disk = &durable.Disk{DryRun: true, Report: func(c durable.Change) { said = append(said, c.Verb+" "+filepath.Base(c.Path)) }}
	mustInstall(t, s, "server", p)
	if _, err := os.Stat(s.Dir); err == nil {
		t.Error("something was made")
	}
	if diff := cmp.Diff([]string{"write server.key", "write server.pem"}, said[len(said)-2:]); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
}

func TestTrust(t *testing.T) {
	s := newStore(t)
	a, b := certstest.MustCA(t, certstest.CAOptions{CommonName: "a"}), certstest.MustCA(t, certstest.CAOptions{CommonName: "b"})
	if err := os.Mkdir(s.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	stage := func(ca *certstest.CA, mode store.TrustMode) (changed bool, err error) {
		t.Helper()
		staged, err := s.StageTrust(mode, ca.Cert)
		if err != nil || staged == nil {
			return false, err
		}
		return true, staged.Publish()
	}
	for i, tt := range []struct {
		ca      *certstest.CA
		mode    store.TrustMode
		changed bool
		err     error
		then    string
	}{
		{a, store.TrustKeep, false, nil, ""},
		{a, store.TrustAsk, true, nil, "a"},
		{a, store.TrustAsk, false, nil, "a"},
		{b, store.TrustAsk, false, store.ErrOtherTrust, "a"},
		{b, store.TrustKeep, false, nil, "a"},
		{b, store.TrustAdd, true, nil, "a b"},
		{b, store.TrustAsk, false, nil, "a b"},
		{a, store.TrustAdd, false, nil, "a b"},
		{a, store.TrustReplace, true, nil, "a"},
		{a, store.TrustReplace, false, nil, "a"},
	} {
		changed, err := stage(tt.ca, tt.mode)
		if changed != tt.changed || !errors.Is(err, tt.err) {
			t.Errorf("%d: %v, %v", i, changed, err)
		}
		var got []string
		list, err := s.Trusted()
		for _, cert := range list {
			got = append(got, cert.Subject.CommonName)
		}
		if strings.Join(got, " ") != tt.then || err != nil {
			t.Errorf("%d: then %q, %v, want %q", i, got, err, tt.then)
		}
		if tt.then != "" {
			if _, err := certs.LoadTrust(new(certs.Files), certs.TrustConfig{Trust: s.TrustPath()}); err != nil {
				t.Errorf("%d: a daemon says %v", i, err)
			}
		}
	}
	host := a.MustIssue(t, certstest.Options{})
	if _, err := s.StageTrust(store.TrustAdd, host.Cert); err == nil {
		t.Error("a host's certificate is trusted as a CA")
	}
	if err := os.WriteFile(s.TrustPath(), []byte("not PEM"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := stage(a, store.TrustAdd); err == nil || !strings.Contains(err.Error(), "ca.pem") {
		t.Errorf("added to what cannot be read: %v", err)
	}
	if _, err := store.ParseTrustMode("all"); err == nil {
		t.Error("unknown mode")
	}
}

func TestRequest(t *testing.T) {
	s := newStore(t)
	release, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	key, err := certstest.NewKey(certstest.EC, 0)
	if err != nil {
		t.Fatal(err)
	}
	names, err := san.Parse("nfs.example.com")
	if err != nil {
		t.Fatal(err)
	}
	pem, err := csr.Create(certs.ServerAuth, names, key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadRequest("server"); !errors.Is(err, store.ErrNone) {
		t.Errorf("nothing yet: %v", err)
	}
	if err := s.SaveRequest("server", pem, key); err != nil {
		t.Fatal(err)
	}
	r, err := s.LoadRequest("server")
	if err != nil || !r.CSR.Names.Equal(names) || !r.Key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) || r.Path != s.RequestPath("server") {
		t.Errorf("loaded %+v, %v", r, err)
	}
	if err := s.SaveRequest("server", pem, key); err == nil {
		t.Error("a request takes the place of another")
	}
	if names, err := s.Names(); err != nil || len(names) != 0 {
		t.Errorf("a request is no identity: %v, %v", names, err)
	}
	if err := errors.Join(s.RemoveRequest("server"), s.RemoveRequest("server")); err != nil {
		t.Error(err)
	}
	if _, err := s.LoadRequest("server"); !errors.Is(err, store.ErrNone) {
		t.Errorf("removed: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	p := ca.MustIssue(t, certstest.Options{})
	for name, change := range map[string]func(s *store.Store) error{
		"no key": func(s *store.Store) error { return os.Remove(s.KeyPath("server")) },
		"a directory": func(s *store.Store) error {
			return errors.Join(os.Remove(s.CertPath("server")), os.Mkdir(s.CertPath("server"), 0o755))
		},
		"no certificate": func(s *store.Store) error { return os.WriteFile(s.CertPath("server"), []byte("x"), 0o644) },
		"a key within": func(s *store.Store) error {
			return os.WriteFile(s.CertPath("server"), p.MustKeyPEM(t, certstest.PKCS8), 0o644)
		},
		"a long file": func(s *store.Store) error { return os.WriteFile(s.CertPath("server"), make([]byte, 2<<20), 0o644) },
		"a damaged chain": func(s *store.Store) error {
			return os.WriteFile(s.CertPath("server"), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), 0o644)
		},
	} {
		s := newStore(t)
		plain(t, s, "server", p)
		if err := change(s); err != nil {
			t.Fatal(err)
		}
		if id, err := s.Load("server"); err == nil || !strings.Contains(err.Error(), s.Dir) {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
}
