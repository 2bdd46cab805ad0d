// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/agent"
	"rpctls/internal/history"
	"rpctls/internal/logging"
	"rpctls/internal/netns"
	"rpctls/internal/netns/netnstest"
	"rpctls/internal/rivals"
	"rpctls/internal/sessions"
	"rpctls/rpctlssd"
	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

// spaces is a server's daemon that serves real network namespaces, each on a fake
// kernel.
type spaces struct {
	*agent.Namespaces
	t        *testing.T
	dir      string
	log      *logBuffer
	past     *history.Log
	sessions *sessions.Registry
	agent    *agent.Agent
	lock     *os.File
	stop     func()

	mu      sync.Mutex
	kernels map[string]*upcalltest.Kernel // by path
	kept    map[string]int                // what was kept for it, or -1
	refuse  map[string]error
}

func newSpaces(t *testing.T, dir, text string, kept map[string]int) *spaces {
	t.Helper()
	p := rpctlssd.Program()
	path := filepath.Join(t.TempDir(), "rpctlssd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := p.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	live, err := certs.NewLive(func(f *certs.Files) (*rpctlssd.Loaded, error) { return p.Build(cfg, f) })
	if err != nil {
		t.Fatal(err)
	}
	s := &spaces{
		t: t, dir: dir, log: new(logBuffer), past: history.New(), kernels: make(map[string]*upcalltest.Kernel),
		kept: make(map[string]int), refuse: make(map[string]error),
		sessions: sessions.New(sessions.Config{Directory: t.TempDir(), Daemon: "test", Log: slog.New(slog.DiscardHandler)}),
	}
	log := slog.New(logging.NewText(s.log, p.Name, slog.LevelDebug))
	role, err := p.Role(cfg, live, log)
	if err != nil {
		t.Fatal(err)
	}
	if s.Namespaces, err = agent.NewNamespaces(cfg.Namespaces, nil); err != nil {
		t.Fatal(err)
	}
	role.(*rpctlssd.Role).UseNamespaces(s.Set())
	s.agent = agent.New(agent.Config{Role: role, RuntimeDirectory: t.TempDir(), Log: log, History: s.past, Sessions: s.sessions, Namespaces: s.Namespaces})
	if s.lock, err = os.Create(filepath.Join(t.TempDir(), "lock")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.lock.Close() })
	if err := s.Begin(s.agent, s.lock, kept, s.open, log); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		s.agent.Stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if c := s.Stats(); c.InProgress != 0 || c.Accepted != c.Ended+c.HandedOver {
			t.Errorf("requests are unaccounted for: %+v", c)
		}
	})
	t.Cleanup(s.stop)
	return s
}

func (s *spaces) open(n *netns.Namespace, kept int) (*upcall.Link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[n.String()] = kept
	if kept >= 0 {
		unix.Close(kept)
	}
	if err := s.refuse[n.String()]; err != nil {
		return nil, err
	}
	k, link := upcalltest.New(s.t)
	s.t.Cleanup(func() { // before the kernel's own
		if s.stop != nil {
			s.stop()
		}
	})
	s.kernels[n.String()] = k
	return link, nil
}

func (s *spaces) path(name string) string { return filepath.Join(s.dir, name) }

func (s *spaces) kernel(name string) *upcalltest.Kernel {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kernels[s.path(name)]
}

func (s *spaces) names() (list []string) {
	for _, n := range s.Served() {
		list = append(list, filepath.Base(n.Name))
	}
	return list
}

// wait waits for a set of namespaces to be served.
func (s *spaces) wait(want ...string) {
	s.t.Helper()
	slices.Sort(want)
	for deadline := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
		s.Look()
		if got := s.names(); slices.Equal(got, want) {
			return
		} else if time.Now().After(deadline) {
			s.t.Fatalf("served %v, want %v:\n%s", got, want, s.log)
		}
	}
}

// inside returns a connection within a namespace, which the test does not hold.
func inside(t *testing.T, path string) (client, server *net.TCPConn) {
	t.Helper()
	p, err := netns.ParsePattern(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := netns.List([]netns.Pattern{p})
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: %v, %v", path, list, err)
	}
	n, err := netns.Open(list[0])
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Do(func() error { client, server = upcalltest.SocketPair(t); return nil }); err != nil {
		t.Fatal(err)
	}
	return client, server
}

// shown returns the subject that a server shows to a client, and what the kernel
// heard.
func shown(t *testing.T, k *upcalltest.Kernel, client, server *net.TCPConn) (string, upcalltest.Answer) {
	t.Helper()
	p := k.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: server})
	conn := tls.Client(client, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"sunrpc"}})
	if err := conn.SetDeadline(time.Now().Add(bound)); err != nil {
		t.Fatal(err)
	}
	if err := conn.Handshake(); err != nil {
		return err.Error(), k.Wait(p, bound)
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, k.Wait(p, bound)
}

// Namespaces come and go; each gets what is configured for it, and none misses
// anything because of another.
func TestNamespaces(t *testing.T) {
	fakeInstall(t)
	dir, s := t.TempDir(), newSite(t)
	netnstest.Make(t, filepath.Join(dir, "blue"))
	netnstest.Make(t, filepath.Join(dir, "red"))
	text := fmt.Sprintf("namespaces = [\"host\", %q]\n", dir+"/*") + s.issue(t, "host", named("for all")) +
		fmt.Sprintf("[[namespace]]\nmatch = [%q]\n", dir+"/bl*") + s.issue(t, "blue", named("for blue"))
	d := newSpaces(t, dir, text, nil)
	if got := d.names(); !slices.Equal(got, []string{"blue", "red"}) {
		t.Fatalf("served at the start: %v", got)
	}
	for name, want := range map[string]string{"blue": "for blue", "red": "for all"} {
		c, srv := inside(t, d.path(name))
		if got, a := shown(t, d.kernel(name), c, srv); got != want || a.Status != 0 {
			t.Errorf("%s shows %q, %v; want %q", name, got, a, want)
		}
		wantLine(t, name, d.log, "namespace="+d.path(name)+" result=success")
	}
	if err := d.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	cookies := make(map[uint64]string)
	for _, n := range d.Served() {
		cookies[n.Cookie] = n.Name
	}
	list := d.sessions.Sessions()
	if len(list) != 2 || cookies[list[0].Namespace] == "" || cookies[list[1].Namespace] == "" || list[0].Namespace == list[1].Namespace {
		t.Errorf("remembered %+v of %v", list, cookies)
	}
	for _, e := range d.past.Ask(history.Query{}).Events {
		if !strings.HasPrefix(e.Namespace, dir+"/") {
			t.Errorf("history: %+v", e)
		}
	}

	// Another comes, and a second name of one that is there: served once.
	netnstest.Make(t, d.path("green"))
	if err := netnstest.Name(d.path("azure"), d.path("blue")); err != nil {
		t.Fatal(err)
	}
	d.wait("azure", "green", "red")
	c, srv := inside(t, d.path("green"))
	if got, a := shown(t, d.kernel("green"), c, srv); got != "for all" || a.Status != 0 {
		t.Errorf("green shows %q, %v", got, a)
	}
	c, srv = inside(t, d.path("azure")) // which is blue: any of its names will do
	if got, a := shown(t, d.kernel("blue"), c, srv); got != "for blue" || a.Status != 0 {
		t.Errorf("blue by another name shows %q, %v", got, a)
	}
	netnstest.Remove(t, d.path("azure"))
	d.wait("blue", "green", "red")

	// One goes, and another takes its name: it is a new one.
	netnstest.Remove(t, d.path("green"))
	d.wait("blue", "red")
	old := d.kernel("green")
	netnstest.Make(t, d.path("green"))
	d.wait("blue", "green", "red")
	if d.kernel("green") == old {
		t.Error("the new namespace is served as if it were the old one")
	}
	if st := d.Stats(); st.Accepted != 4 {
		t.Errorf("counted %+v, want what was done for the one that is gone, too", st)
	}
}

func named(name string) certstest.Options {
	o := serverOptions()
	o.CommonName = name
	return o
}

// A namespace that loses its name in the middle of a handshake: that one is
// finished, others do not notice, and nothing is left behind.
func TestNamespaceVanishes(t *testing.T) {
	fakeInstall(t)
	dir, s := t.TempDir(), newSite(t)
	for _, name := range []string{"blue", "red"} {
		netnstest.Make(t, filepath.Join(dir, name))
	}
	d := newSpaces(t, dir, fmt.Sprintf("namespaces = [\"host\", %q]\nfirst_record_timeout = \"3s\"\n", dir+"/*")+s.issue(t, "host", serverOptions()), nil)
	_, silent := inside(t, d.path("blue"))
	c, srv := inside(t, d.path("blue"))
	slow := d.kernel("blue").Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: silent})
	p := d.kernel("blue").Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
	for deadline := time.Now().Add(bound); d.Stats().InProgress < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in progress")
		}
	}
	kernel := d.kernel("blue")
	netnstest.Remove(t, d.path("blue"))
	d.Look()
	rc, rs := inside(t, d.path("red"))
	if got, a := shown(t, d.kernel("red"), rc, rs); got != "the server" || a.Status != 0 {
		t.Errorf("the neighbour shows %q, %v", got, a)
	}
	conn := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"sunrpc"}})
	if err := conn.Handshake(); err != nil {
		t.Errorf("what was in progress: %v", err)
	}
	if a := kernel.Wait(p, bound); a.Status != 0 {
		t.Errorf("what was in progress: %v", a)
	}
	if a := kernel.Wait(slow, bound); a.Status == 0 || kernel.Dones(slow) != 1 {
		t.Errorf("a silent peer: %v, %d times", a, kernel.Dones(slow))
	}
	d.wait("red")
	wantLine(t, "it", d.log, "a network namespace is gone.* namespace="+d.path("blue"))
	wantLine(t, "it", d.log, "reason=no_client_hello|reason=timeout")
}

// A hundred that come and go leave neither descriptor nor goroutine.
func TestNamespacesLeaveNothing(t *testing.T) {
	fakeInstall(t)
	dir, s := t.TempDir(), newSite(t)
	d := newSpaces(t, dir, fmt.Sprintf("namespaces = [\"host\", %q]\n", dir+"/*")+s.issue(t, "host", serverOptions()), nil)
	round := func() {
		netnstest.Make(t, d.path("x"))
		d.wait("x")
		c, srv := inside(t, d.path("x"))
		if _, a := shown(t, d.kernel("x"), c, srv); a.Status != 0 {
			t.Errorf("status %v", a)
		}
		c.Close()
		srv.Close()
		netnstest.Remove(t, d.path("x"))
		d.wait()
	}
	round()
	fds, routines := ours(t, dir), runtime.NumGoroutine()
	for range 20 {
		round()
	}
	// Of each round the fake kernel has its own left, up to the end of the test.
	const perKernel = 2
	for deadline := time.Now().Add(bound); runtime.NumGoroutine() > routines+20*perKernel; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, before %d:\n%s", runtime.NumGoroutine(), routines, buf[:runtime.Stack(buf, true)])
		}
	}
	if now := ours(t, dir); now != fds {
		t.Errorf("%d descriptors of namespaces, before %d", now, fds)
	}
}

// ours counts descriptors of namespaces.
func ours(t *testing.T, dir string) (n int) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && (strings.HasPrefix(target, "net:") || strings.HasPrefix(target, dir)) {
			n++
		}
	}
	return n
}

// One that cannot be served is said so once, does not keep others from it, and is
// served when it can be.
func TestNamespaceThatCannotBeServed(t *testing.T) {
	fakeInstall(t)
	dir, s := t.TempDir(), newSite(t)
	d := newSpaces(t, dir, fmt.Sprintf("namespaces = [\"host\", %q]\n", dir+"/*")+s.issue(t, "host", serverOptions()), nil)
	d.mu.Lock()
	d.refuse[d.path("bad")] = errors.New("broken on purpose")
	d.mu.Unlock()
	netnstest.Make(t, d.path("bad"))
	netnstest.Make(t, d.path("good"))
	d.wait("good")
	d.Look()
	if n := strings.Count(d.log.String(), "broken on purpose"); n != 1 {
		t.Errorf("said %d times:\n%s", n, d.log)
	}
	if w := d.Warnings(); len(w) != 1 || !strings.Contains(w[0], "broken on purpose") {
		t.Errorf("warnings %q", w)
	}
	d.mu.Lock()
	clear(d.refuse)
	d.mu.Unlock()
	d.wait("bad", "good")
	if w := d.Warnings(); len(w) != 0 {
		t.Errorf("warnings %q", w)
	}
}

// A request that comes by another way, from a namespace that is not served, is
// refused: it must not be shown the certificate of another one. One whose name has
// just come is served: the sibling may have seen it first.
func TestRequestOfAnotherNamespace(t *testing.T) {
	fakeInstall(t)
	dir, s := t.TempDir(), newSite(t)
	d := newSpaces(t, dir, fmt.Sprintf("namespaces = [\"host\", %q]\n", dir+"/*")+s.issue(t, "host", serverOptions()), nil)
	k, link := upcalltest.New(t) // our own, which others reach by hand-over
	l := upcall.NewListener(link, upcall.Config{Limit: 8})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, d.agent.Handle) }()
	defer func() { cancel(); <-done }()

	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	netnstest.Make(t, elsewhere)
	c, srv := inside(t, elsewhere)
	p := k.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
	if a := k.Wait(p, bound); a.Status != unix.EACCES {
		t.Errorf("status %v", a)
	}
	wantLine(t, "it", d.log, "reason=unsupported .*this network namespace is not served")
	c.Close()

	netnstest.Make(t, d.path("new"))
	c, srv = inside(t, d.path("new"))
	if got, a := shown(t, k, c, srv); got != "the server" || a.Status != 0 {
		t.Errorf("one that has just come: %q, %v\n%s", got, a, d.log)
	}
	own, oursrv := upcalltest.SocketPair(t)
	if got, a := shown(t, k, own, oursrv); got != "the server" || a.Status != 0 {
		t.Errorf("our own: %q, %v", got, a)
	}
}

// What the service manager has kept goes to the namespace that it is of; what is
// of none is left, for it would keep that alive. The lock says to the sibling
// whose sockets are ours.
func TestNamespacesKeep(t *testing.T) {
	dir, s := t.TempDir(), newSite(t)
	netnstest.Make(t, filepath.Join(dir, "blue"))
	text := fmt.Sprintf("namespaces = [\"host\", %q]\n", dir+"/*") + s.issue(t, "host", serverOptions())
	first := newSpaces(t, dir, text, nil)
	cookie := first.Served()[0].Cookie
	first.stop()
	if got := first.names(); len(got) != 0 {
		t.Errorf("after the end: %v", got)
	}
	pipe := make([]int, 2)
	if err := unix.Pipe2(pipe, unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[1])
	kept := map[string]int{agent.StoreName(cookie): pipe[0], agent.StoreName(1 << 62): pipe[1]}
	second := newSpaces(t, dir, text, kept)
	if second.kept[second.path("blue")] != pipe[0] {
		t.Errorf("kept %v", second.kept)
	}
	if len(kept) != 1 || kept[agent.StoreName(1<<62)] != pipe[1] {
		t.Errorf("left: %v", kept)
	}
	second.Record(77)
	if got := rivals.Recorded(second.lock.Name()); len(got) != 2 || got[0] != 77 {
		t.Errorf("recorded %v", got)
	}
	netnstest.Remove(t, second.path("blue"))
	second.wait()
	if got := rivals.Recorded(second.lock.Name()); !slices.Equal(got, []uint32{77}) {
		t.Errorf("recorded %v", got)
	}
}

// Without the right to enter, what is missing is said, and nothing else happens.
func TestNamespacesWithoutRight(t *testing.T) {
	dir := t.TempDir()
	p, err := netns.ParsePattern(dir + "/*")
	if err != nil {
		t.Fatal(err)
	}
	n, err := agent.NewNamespaces([]netns.Pattern{p}, netns.ErrNoRight)
	if err != nil {
		t.Fatal(err)
	}
	netnstest.Make(t, filepath.Join(dir, "blue"))
	log := new(logBuffer)
	lock, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := n.Begin(nil, lock, nil, nil, slog.New(logging.NewText(log, "rpctlssd", slog.LevelDebug))); err != nil {
		t.Fatal(err)
	}
	n.Look()
	if got := n.Served(); len(got) != 0 {
		t.Errorf("served %v", got)
	}
	if got := strings.TrimSpace(log.String()); strings.Count(got, "\n") != 0 || !strings.Contains(got, "CAP_SYS_ADMIN") || !strings.Contains(got, "namespaces.conf") {
		t.Errorf("log:\n%s", got)
	}
	if w := n.Warnings(); len(w) != 1 || !strings.Contains(w[0], "CAP_SYS_ADMIN") {
		t.Errorf("warnings %q", w)
	}
}
