// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessions

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/control"
	"rpctls/internal/netns"
	"rpctls/internal/sockdiag"
)

// kernel is a fake one, with the connections that it has.
type kernel struct {
	mu        sync.Mutex
	conns     map[sockdiag.ID]bool
	absent    bool // the module
	destroyed []string
	fail      error // of Destroy
}

func (k *kernel) Available() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.absent {
		return sockdiag.ErrNoDiag
	}
	return nil
}

func (k *kernel) Find(id sockdiag.ID) (sockdiag.Socket, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.absent || !k.conns[id] {
		return sockdiag.Socket{}, sockdiag.ErrGone
	}
	return sockdiag.Socket{ID: id}, nil
}

func (k *kernel) Destroy(id sockdiag.ID) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.absent || !k.conns[id] {
		return sockdiag.ErrGone
	}
	if k.fail != nil {
		return k.fail
	}
	delete(k.conns, id)
	k.destroyed = append(k.destroyed, Name(id))
	return nil
}

func (k *kernel) Close() error { return nil }

func (k *kernel) set(f func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	f()
}

// fixture is a registry on a fake kernel.
type fixture struct {
	*Registry
	kernel *kernel
	dir    string
	log    *bytes.Buffer
	// judge, if not nil, is asked by the registry.
	judge func(*Session) (uint64, error)
}

func newFixture(t testing.TB, dir string, k *kernel) *fixture {
	f := &fixture{kernel: k, dir: dir, log: new(bytes.Buffer)}
	f.Registry = New(Config{
		Directory: dir, Daemon: "rpctlssd", Log: slog.New(slog.NewTextHandler(f.log, nil)),
		Kernel:  func(uint64) (Kernel, error) { return k, nil },
		Explain: func(error) string { return "revoked" },
		Judge: func(s *Session) (uint64, error) {
			if f.judge == nil {
				return 1, nil
			}
			return f.judge(s)
		},
	})
	f.Load()
	t.Cleanup(f.writer.close)
	return f
}

func idOf(n int) sockdiag.ID {
	return sockdiag.ID{Local: netip.MustParseAddrPort("192.0.2.1:2049"), Remote: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), uint16(700+n)), Cookie: uint64(n)}
}

// session makes the n-th one, which the kernel has.
func (f *fixture) session(n int, chain ...*x509.Certificate) *Session {
	s := &Session{ID: idOf(n), Role: "server", Mutual: len(chain) > 0, Cipher: 52, Began: time.Unix(1_700_000_000, 0).UTC(), Generation: 1}
	s.SetChain(chain)
	f.kernel.set(func() { f.kernel.conns[s.ID] = true })
	return s
}

func namesOf(list []*Session) (n []string) {
	for _, s := range list {
		n = append(n, s.Name())
	}
	return n
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// What one instance has learnt, the next one knows, as far as it still lives.
func TestSurvives(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	host := ca.MustIssue(t, certstest.Options{CommonName: "client", DNS: []string{"client.test"}})
	dir, k := t.TempDir(), &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, dir, k)
	for n := 1; n <= 3; n++ {
		f.Add(f.session(n, append(host.Chain(), ca.Cert)...))
	}
	f.Add(f.session(4)) // without a certificate
	f.flush()           // and then it is killed
	k.set(func() { delete(k.conns, idOf(2)) })
	g := newFixture(t, dir, k)
	want(t, "sessions", namesOf(g.Sessions()), []string{"1", "3", "4"})
	first, last := g.Sessions()[0].Info(), g.Sessions()[2].Info()
	if first.Certificate == nil || first.Certificate.Subject != certs.Subject(host.Cert) || first.Certificate.Fingerprint != certs.Fingerprint(host.Cert) || !first.Mutual || !first.Began.Equal(time.Unix(1_700_000_000, 0)) {
		t.Errorf("remembered: %+v", first)
	}
	if last.Certificate != nil || last.Mutual {
		t.Errorf("remembered of one without a certificate: %+v", last)
	}
	chain, err := g.Sessions()[0].Chain()
	if err != nil || len(chain) != 2 || !chain[0].Equal(host.Cert) || !chain[1].Equal(ca.Cert) {
		t.Errorf("chain: %v, %v", chain, err)
	}
	st, err := os.Stat(Path(dir, "rpctlssd"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", st.Mode(), err)
	}
	// What has ended is out of the file as well.
	list, err := ReadFile(Path(dir, "rpctlssd"))
	want(t, "file", namesOf(list), []string{"1", "3", "4"})
	if err != nil || strings.Contains(g.log.String(), "forgotten") {
		t.Errorf("%v, log %s", err, g.log)
	}
}

// A kernel that cannot be asked makes nobody forget anything.
func TestWithoutModule(t *testing.T) {
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, t.TempDir(), k)
	s := f.session(1)
	f.Add(s)
	f.flush()
	k.set(func() { k.absent = true })
	if f.forgetEnded(); len(f.Sessions()) != 1 {
		t.Error("forgotten")
	}
	f.judge = func(*Session) (uint64, error) { return 2, errors.New("revoked") }
	f.Renew(2)
	if failed := f.judgeAll(); failed != 1 || len(f.Sessions()) != 1 || !strings.Contains(f.log.String(), "cannot be ended") {
		t.Errorf("%d failed; log %s", failed, f.log)
	}
	k.set(func() { k.absent = false })
	if failed := f.judgeAll(); failed != 0 || len(f.Sessions()) != 0 {
		t.Errorf("later %d failed; log %s", failed, f.log)
	}
}

// A file that is torn or damaged costs what was behind the damage.
func TestDamage(t *testing.T) {
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	dir := t.TempDir()
	f := newFixture(t, dir, k)
	for n := 1; n <= 3; n++ {
		f.Add(f.session(n))
	}
	f.flush()
	path := Path(dir, "rpctlssd")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		text string
		want []string
		says bool
	}{
		{"whole", string(whole), []string{"1", "2", "3"}, false},
		{"torn", string(whole[:len(whole)-5]), []string{"1", "2"}, false},
		{"damaged", strings.Replace(string(whole), `"cookie":2`, `"cookie":x`, 1), []string{"1"}, true},
		{"no cookie", strings.Replace(string(whole), `"cookie":2`, `"cookie":0`, 1), []string{"1"}, true},
		{"unknown field", strings.Replace(string(whole), `"cookie":2`, `"cookie":2,"x":1`, 1), []string{"1"}, true},
		{"another version", strings.Replace(string(whole), `"version":1`, `"version":2`, 1), nil, true},
		{"endless line", magic + "\n" + strings.Repeat("x", maxLine+1) + "\n", nil, true},
		{"empty", "", nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			g := newFixture(t, dir, k)
			want(t, "sessions", namesOf(g.Sessions()), tt.want)
			if said := strings.Contains(g.log.String(), "are forgotten"); said != tt.says {
				t.Errorf("log %q", g.log)
			}
			// It goes on with a good file.
			g.Add(g.session(9))
			g.flush()
			list, err := ReadFile(path)
			if err != nil || len(list) != len(tt.want)+1 {
				t.Errorf("then %d sessions in the file, %v", len(list), err)
			}
			k.set(func() { delete(k.conns, idOf(9)) })
		})
	}
	t.Run("open to others", func(t *testing.T) {
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); err == nil {
			t.Error("read")
		}
	})
	t.Run("link", func(t *testing.T) {
		link := filepath.Join(dir, "link.sessions")
		if err := os.Symlink(path, link); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(link); err == nil {
			t.Error("followed")
		}
	})
}

// Those that no longer pass are ended and named; the others are left alone.
func TestJudgeAgain(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	good, bad := ca.MustIssue(t, certstest.Options{CommonName: "good"}), ca.MustIssue(t, certstest.Options{CommonName: "bad"})
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, t.TempDir(), k)
	asked := 0
	f.judge = func(s *Session) (uint64, error) {
		asked++
		chain, err := s.Chain()
		if err != nil {
			return 2, err
		}
		if len(chain) > 0 && chain[0].Equal(bad.Cert) {
			return 2, errors.New("its serial number is listed")
		}
		return 2, nil
	}
	f.Renew(1)
	f.Add(f.session(1, good.Cert))
	f.Add(f.session(2, bad.Cert))
	f.Add(f.session(3))
	if f.judgeAll(); asked != 0 {
		t.Errorf("%d sessions were judged although nothing has changed", asked)
	}
	f.Renew(2)
	f.judgeAll()
	want(t, "ended", k.destroyed, []string{"2"})
	want(t, "left", namesOf(f.Sessions()), []string{"1", "3"})
	for _, part := range []string{"no longer accepted", "reason=revoked", "CN=bad", certs.Fingerprint(bad.Cert), "192.0.2.2:702", "serial number is listed"} {
		if !strings.Contains(f.log.String(), part) {
			t.Errorf("the log lacks %q: %s", part, f.log)
		}
	}
	asked = 0
	if f.judgeAll(); asked != 0 {
		t.Errorf("%d sessions were judged twice", asked)
	}
	// One of whom nothing can be said yet goes on, and stays due.
	verdict := f.judge
	f.judge = func(*Session) (uint64, error) { return 3, ErrNotYet }
	f.Renew(3)
	if again := f.judgeAll(); again != 2 || f.Count() != 2 {
		t.Errorf("%d of %d are to be looked at again, want both", again, f.Count())
	}
	f.judge = verdict
	f.generation = 2
	// One whose handshake was judged by what has been replaced meanwhile.
	late := f.session(4, bad.Cert)
	f.Add(late)
	select {
	case <-f.again:
	default:
		t.Error("nobody is told of a session that was judged by what is no longer so")
	}
	f.judgeAll()
	want(t, "ended", k.destroyed, []string{"2", "4"})
}

// The task ends sessions soon after Renew, tries again what failed, and sessions
// of an earlier instance are judged at the start.
func TestJudgeAgainTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{conns: make(map[sockdiag.ID]bool)}
		f := newFixture(t, t.TempDir(), k)
		s := f.session(1)
		s.Generation = 0 // as after a restart
		f.Add(s)
		judged, verdict := 0, error(nil) // both guarded by the kernel's mutex
		f.judge = func(*Session) (uint64, error) {
			k.mu.Lock()
			defer k.mu.Unlock()
			judged++
			return 7, verdict
		}
		f.Renew(1)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.JudgeAgain(ctx) }()
		synctest.Wait()
		k.set(func() {
			if judged != 1 {
				t.Errorf("judged %d times at the start", judged)
			}
			verdict, k.fail = errors.New("revoked"), errors.New("not now")
		})
		f.Renew(8)
		synctest.Wait()
		k.set(func() {
			if judged != 2 || len(k.destroyed) != 0 {
				t.Errorf("judged %d times, ended %v", judged, k.destroyed)
			}
			k.fail = nil
		})
		time.Sleep(2 * tidy)
		synctest.Wait()
		want(t, "ended", k.destroyed, []string{"1"})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// The writer writes what has come together, without being asked twice.
func TestWriteTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kernel{conns: make(map[sockdiag.ID]bool)}
		f := newFixture(t, t.TempDir(), k)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Write(ctx) }()
		for n := 1; n <= 50; n++ {
			f.Add(f.session(n))
		}
		time.Sleep(2 * batch)
		list, err := ReadFile(f.writer.path)
		if err != nil || len(list) != 50 {
			t.Errorf("%d in the file, %v", len(list), err)
		}
		k.set(func() { clear(k.conns) })
		time.Sleep(2 * tidy)
		if list, err = ReadFile(f.writer.path); err != nil || len(list) != 0 || len(f.Sessions()) != 0 {
			t.Errorf("after all have ended %d in the file, %v", len(list), err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		f.Add(f.session(99)) // a handshake that was being finished
		f.Close()
		if list, err = ReadFile(f.writer.path); err != nil || len(list) != 1 {
			t.Errorf("at the end %d in the file, %v", len(list), err)
		}
	})
}

func TestFull(t *testing.T) {
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, t.TempDir(), k)
	for n := 1; n <= maxSessions+2; n++ {
		f.Add(f.session(n))
	}
	if len(f.Sessions()) != maxSessions {
		t.Errorf("%d sessions", len(f.Sessions()))
	}
	k.set(func() { clear(k.conns) })
	f.flush()
	if len(f.Sessions()) != 0 || !strings.Contains(f.log.String(), "count=2") {
		t.Errorf("%d sessions; log %s", len(f.Sessions()), f.log)
	}
}

// ask calls a handler as the control socket does.
func ask[R any](t *testing.T, f *fixture, op string, args any) (r R, err error) {
	t.Helper()
	dir := t.TempDir()
	s, err := control.Listen(dir, "rpctlssd", control.MaxConns, f.Handlers(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	c, err := control.Dial(t.Context(), dir, "rpctlssd")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return r, c.Call(op, args, &r)
}

func TestPages(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	// As long as an answer can be.
	var dns []string
	for i := range 12 {
		dns = append(dns, strings.Repeat("<", 250)+fmt.Sprint(i))
	}
	host := ca.MustIssue(t, certstest.Options{CommonName: strings.Repeat("<", 4000), DNS: dns})
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, t.TempDir(), k)
	for n := 1; n <= 2*MaxPage+7; n++ {
		s := f.session(n, host.Cert)
		s.PeerName = strings.Repeat("<", maxName)
		f.Add(s)
	}
	var got []string
	q := Query{}
	for pages := 1; ; pages++ {
		p, err := ask[Page](t, f, OpList, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range p.Sessions {
			got = append(got, i.Name)
		}
		if !p.More {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		q.After = got[len(got)-1]
	}
	want(t, "sessions", got, namesOf(f.Sessions()))
	for _, q := range []Query{{Limit: -1}, {Limit: MaxPage + 1}, {After: "xyz"}} {
		if _, err := ask[Page](t, f, OpList, q); err == nil {
			t.Errorf("%+v was answered", q)
		}
	}
}

func TestKill(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	a, b := ca.MustIssue(t, certstest.Options{CommonName: "a", DNS: []string{"a.test"}}), ca.MustIssue(t, certstest.Options{CommonName: "b"})
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, t.TempDir(), k)
	f.Add(f.session(10, a.Cert))
	f.Add(f.session(11, b.Cert))
	f.Add(f.session(12, a.Cert))
	for _, q := range []Selector{{}, {ID: "nothing"}, {Fingerprint: "abc"}, {Fingerprint: "xxxxxxxxxx"}} {
		if _, err := ask[Ended](t, f, OpKill, q); err == nil {
			t.Errorf("%+v was accepted", q)
		}
	}
	for _, tt := range []struct {
		q    Selector
		want []string
	}{
		{Selector{ID: "ff"}, nil},
		{Selector{Fingerprint: strings.ToUpper(certs.Fingerprint(b.Cert)[:10])}, []string{"b"}},
		{Selector{Peer: "A.test."}, []string{"a", "c"}},
	} {
		e, err := ask[Ended](t, f, OpKill, tt.q)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, i := range e.Sessions {
			got = append(got, i.Name)
		}
		want(t, fmt.Sprintf("%+v", tt.q), got, tt.want)
	}
	if len(f.Sessions()) != 0 || strings.Count(f.log.String(), "somebody asked for it") != 3 {
		t.Errorf("left %v; log %s", namesOf(f.Sessions()), f.log)
	}
}

// Whoever sends more than is remembered does not pass as one who sent nothing.
func TestTooMuchToRemember(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	host := ca.MustIssue(t, certstest.Options{CommonName: "host"})
	huge := &x509.Certificate{Raw: make([]byte, maxDER)}
	var s Session
	s.SetChain([]*x509.Certificate{host.Cert, huge, ca.Cert})
	if chain, err := s.Chain(); err != nil || len(chain) != 1 || !chain[0].Equal(host.Cert) {
		t.Errorf("%v, %v", chain, err)
	}
	s.SetChain([]*x509.Certificate{{Raw: make([]byte, maxDER+1)}})
	if chain, err := s.Chain(); err == nil {
		t.Errorf("%v", chain)
	}
	if s.Info().Certificate == nil {
		t.Error("it looks as if it had no certificate")
	}
}

// What could not be read again is not written.
func TestAddRefuses(t *testing.T) {
	k := &kernel{conns: make(map[sockdiag.ID]bool)}
	f := newFixture(t, t.TempDir(), k)
	for _, change := range []func(*Session){
		func(s *Session) { s.PeerName = strings.Repeat("x", maxName+1) },
		func(s *Session) { s.Cookie = 0 },
		func(s *Session) { s.Role = "" },
	} {
		s := f.session(5)
		change(s)
		f.Add(s)
	}
	f.Add(f.session(6))
	f.flush()
	list, err := ReadFile(f.writer.path)
	want(t, "file", namesOf(list), []string{"6"})
	if err != nil {
		t.Error(err)
	}
}

func TestNilRegistry(t *testing.T) {
	var r *Registry
	r.Add(&Session{})
	r.Renew(1)
	if r.Sessions() != nil {
		t.Error("it remembers")
	}
}

// What parses is written and read again as the same.
func FuzzFile(f *testing.F) {
	ca := certstest.MustCA(f, certstest.CAOptions{})
	s := &Session{ID: idOf(7), Role: "client", PeerName: "server.test", Mutual: true, Cipher: 52, Began: time.Unix(1_700_000_000, 0).UTC()}
	s.SetChain([]*x509.Certificate{ca.Cert})
	b, err := s.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(magic + "\n" + string(b)))
	f.Add([]byte(magic + "\n" + string(b) + string(b[:20])))
	f.Add([]byte(magic + "\n{}\n"))
	f.Add([]byte(magic + "\n" + `{"local":"[fe80::1%2]:2049","remote":"[fe80::2%2]:801","interface":2,"cookie":1,"role":"server","cipher":1,"began":"2030-01-01T00:00:00Z"}` + "\n"))
	f.Add([]byte("\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, _ := parseFile(bytes.NewReader(b))
		text := []byte(magic + "\n")
		for _, s := range list {
			if err := s.check(); err != nil {
				t.Errorf("%+v: %v", s, err)
			}
			one, err := s.encode()
			if err != nil {
				t.Fatalf("%+v: %v", s, err)
			}
			text = append(text, one...)
		}
		again, err := parseFile(bytes.NewReader(text))
		if err != nil || len(again) != len(list) {
			t.Fatalf("%d sessions became %d, %v", len(list), len(again), err)
		}
		for i := range list {
			a, _ := json.Marshal(list[i].Info())
			b, _ := json.Marshal(again[i].Info())
			if !bytes.Equal(a, b) {
				t.Errorf("%s became %s", a, b)
			}
		}
	})
}

// Sessions of a network namespace are looked for there, across a restart, too; those
// of one that is not served any more are forgotten, and none else.
func TestNamespaces(t *testing.T) {
	dir := t.TempDir()
	kernels := map[uint64]*kernel{0: {conns: make(map[sockdiag.ID]bool)}, 9: {conns: make(map[sockdiag.ID]bool)}}
	begin := func() *Registry {
		r := New(Config{
			Directory: dir, Daemon: "rpctlssd", Log: slog.New(slog.DiscardHandler),
			Kernel: func(namespace uint64) (Kernel, error) {
				if k := kernels[namespace]; k != nil {
					return k, nil
				}
				return nil, netns.ErrGone
			},
			Explain: func(error) string { return "" },
			Judge:   func(*Session) (uint64, error) { return 1, nil },
		})
		r.Load()
		return r
	}
	r := begin()
	for n, space := range []uint64{0, 9, 10} {
		id := idOf(n + 1)
		if k := kernels[space]; k != nil {
			k.conns[id] = true
		}
		r.Add(&Session{ID: id, Role: "server", Began: time.Now(), Namespace: space})
	}
	r.Close()
	again := begin()
	defer again.Close()
	list := again.Sessions()
	if len(list) != 2 || list[0].Namespace != 0 || list[1].Namespace != 9 {
		t.Fatalf("after a restart %+v", list)
	}
	if err := again.destroy(list[1]); err != nil || len(kernels[9].destroyed) != 1 || len(kernels[0].destroyed) != 0 {
		t.Errorf("destroyed %v and %v, %v", kernels[9].destroyed, kernels[0].destroyed, err)
	}
	delete(kernels, 9)
	if err := again.destroy(list[1]); !errors.Is(err, sockdiag.ErrGone) {
		t.Errorf("in one that is gone: %v", err)
	}
	if n := again.forgetEnded(); n != 1 || len(again.Sessions()) != 1 {
		t.Errorf("forgot %d", n)
	}
}
