// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/ktls"
	"rpctls/rpctlsctl/sessionscmd"
)

// TestSessions: what "rpctlsctl sessions" shows is what there is, whoever runs and
// whatever comes and goes; and what must end does, and nothing else.
func TestSessions(t *testing.T) {
	guest.RequireVM(t)
	w := &sessionWorld{world: newWorld(t), whole: t}
	w.neighbour = w.rogue
	w.pairs = map[*guest.Host]*certstest.Pair{
		w.client:    w.ca.MustIssue(t, certstest.Options{CommonName: "client", DNS: []string{"client.test"}}),
		w.neighbour: w.ca.MustIssue(t, certstest.Options{CommonName: "neighbour", DNS: []string{"neighbour.test"}}),
	}
	for h, p := range w.pairs {
		if err := os.MkdirAll(w.path(h.Name), 0o755); err != nil {
			t.Fatal(err)
		}
		p.MustWriteFiles(t, w.path(h.Name))
	}
	w.revoke(t)
	w.daemons = make(map[*guest.Host]*daemon)
	w.daemons[w.server] = run(t, w.server, "rpctlssd", w.serverConfig()+fmt.Sprintf("crl = [%q]\n", w.path("crl.pem")))
	for h := range w.pairs {
		w.daemons[h] = run(t, h, "rpctlscd", w.trust()+w.identity(h.Name))
	}
	for _, s := range []struct {
		name string
		run  func(*sessionWorld, *testing.T)
	}{
		{"nothing", (*sessionWorld).testNothing},
		{"list", (*sessionWorld).testList},
		{"churn", (*sessionWorld).testChurn},
		{"daemons are killed", (*sessionWorld).testKilledDaemons},
		{"older than the daemon", (*sessionWorld).testOlder},
		{"revoked", (*sessionWorld).testRevoked},
		{"kill", (*sessionWorld).testKill},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(w, t) })
	}
	w.checkDecryption(t)
}

type sessionWorld struct {
	*world
	whole     *testing.T // what daemons live as long as
	neighbour *guest.Host
	pairs     map[*guest.Host]*certstest.Pair // of the clients
	daemons   map[*guest.Host]*daemon
}

func (w *sessionWorld) hosts() []*guest.Host { return []*guest.Host{w.server, w.client, w.neighbour} }

// revoke writes a CRL that lists these.
func (w *sessionWorld) revoke(t *testing.T, serials ...*big.Int) {
	t.Helper()
	der := w.ca.MustCRL(t, serials, time.Now().Add(-time.Minute), time.Now().Add(24*time.Hour))
	replace(t, w.path("crl.pem"), certstest.CRLPEM(der))
}

// mounts mounts on both clients, and returns where.
func (w *sessionWorld) mounts(t *testing.T) map[*guest.Host]string {
	t.Helper()
	dirs := make(map[*guest.Host]string)
	for h := range w.pairs {
		dirs[h] = mountPoint(t) + "-" + h.Name
		guest.Mount(t, h, "server.test:"+exportBoth, dirs[h], "vers=4.2,xprtsec=mtls")
		use(t, dirs[h], 1)
	}
	return dirs
}

func runtimeDir(h *guest.Host) string { return "/run/rpctls-" + h.Name }

// sessions asks rpctlsctl.
func (w *sessionWorld) sessions(t *testing.T, h *guest.Host) (list []sessionscmd.Entry) {
	t.Helper()
	text := h.Run(t, binary("rpctlsctl"), "sessions", "--json", "--runtime-dir", runtimeDir(h))
	// What it notes is on standard error, which Run has as well.
	if i := strings.IndexByte(text, '['); i >= 0 {
		text = text[i:]
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatalf("%s says %q: %v", h.Name, text, err)
	}
	return list
}

// ends are a connection's, from its host.
type ends struct{ local, peer netip.AddrPort }

func listed(list []sessionscmd.Entry) (s []ends) {
	for _, e := range list {
		s = append(s, ends{e.Local, e.Peer})
	}
	return s
}

// ss is what iproute2 has to say of it.
func (w *sessionWorld) ss(t *testing.T, h *guest.Host) (s []ends) {
	t.Helper()
	for _, one := range guest.TLSSockets(t, h) {
		s = append(s, ends{one.Local, one.Peer})
	}
	return s
}

func missing(from, in []ends) (list []ends) {
	for _, e := range from {
		if !slices.Contains(in, e) {
			list = append(list, e)
		}
	}
	return list
}

func common(a, b []ends) (list []ends) {
	for _, e := range a {
		if slices.Contains(b, e) {
			list = append(list, e)
		}
	}
	return list
}

// check compares the list of a quiet host with ss and sock_diag.
func (w *sessionWorld) check(t *testing.T, h *guest.Host) []sessionscmd.Entry {
	t.Helper()
	list := w.sessions(t, h)
	ss := guest.TLSSockets(t, h)
	if len(list) != len(ss) {
		t.Errorf("%s: %d sessions, ss has %d\n%+v\n%+v", h.Name, len(list), len(ss), list, ss)
	}
	ciphers := make(map[ends]uint16)
	for _, d := range guest.DiagTLS(t, w.client, 2049) {
		ciphers[ends{d.Peer, d.Local}] = d.Cipher // as the server sees it
	}
	for _, e := range list {
		i := slices.IndexFunc(ss, func(s guest.TLSSocket) bool { return s.Local == e.Local && s.Peer == e.Peer })
		if i < 0 {
			t.Errorf("%s: ss does not have %+v", h.Name, e)
			continue
		}
		if s := ss[i]; s.Version != e.TLS || s.RX != e.RX || s.TX != e.TX || s.State != "ESTAB" || e.State != "established" {
			t.Errorf("%s: %+v, ss says %+v", h.Name, e, s)
		}
		if c, ok := ciphers[ends{e.Local, e.Peer}]; ok && ktls.Cipher(c).String() != e.Cipher {
			t.Errorf("%s: %s, sock_diag says %v", h.Name, e.Cipher, ktls.Cipher(c))
		}
		if want := map[bool]string{true: "server", false: "client"}[h == w.server]; e.Role != want || e.BytesIn == 0 || e.BytesOut == 0 {
			t.Errorf("%s: %+v", h.Name, e)
		}
	}
	return list
}

func (w *sessionWorld) testNothing(t *testing.T) {
	for _, h := range w.hosts() {
		if list := w.check(t, h); len(list) != 0 {
			t.Errorf("%s has sessions: %+v", h.Name, list)
		}
	}
}

// subjects are those of the server's sessions, by the client's address.
func subjects(list []sessionscmd.Entry) map[netip.Addr]string {
	s := make(map[netip.Addr]string)
	for _, e := range list {
		s[e.Peer.Addr()] = "unknown"
		if e.Certificate != nil {
			s[e.Peer.Addr()] = e.Certificate.Subject + " " + e.Certificate.Fingerprint
		}
	}
	return s
}

// checkSubjects: every session's certificate is the right one, and the server's
// own list of clients names the same hosts.
func (w *sessionWorld) checkSubjects(t *testing.T) {
	t.Helper()
	server := w.check(t, w.server)
	have := subjects(server)
	var addresses []string
	for _, h := range []*guest.Host{w.client, w.neighbour} {
		p := w.pairs[h]
		at := slices.IndexFunc(server, func(e sessionscmd.Entry) bool {
			return e.Certificate != nil && e.Certificate.Subject == p.Cert.Subject.String()
		})
		if at < 0 {
			t.Fatalf("no session of %s: %v", h.Name, have)
		}
		e := server[at]
		addresses = append(addresses, e.Peer.Addr().String())
		if e.Certificate.Serial != fmt.Sprintf("%x", p.Cert.SerialNumber.Bytes()) || e.Daemon != "rpctlssd" || e.Mutual == nil || !*e.Mutual || e.Began == nil {
			t.Errorf("%+v", e)
		}
		mine := w.check(t, h)
		if len(mine) == 0 || mine[0].PeerName != "server.test" || mine[0].Certificate == nil || mine[0].Certificate.Subject != "CN=server" || mine[0].Daemon != "rpctlscd" {
			t.Errorf("%s: %+v", h.Name, mine)
		}
	}
	text := w.nfsd.Run(t, "sh", "-c", "cat /proc/fs/nfsd/clients/*/info")
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^address: "(.*):\d+"$`).FindAllStringSubmatch(text, -1) {
		known = append(known, strings.Trim(m[1], "[]"))
	}
	slices.Sort(addresses)
	slices.Sort(known)
	if known = slices.Compact(known); !slices.Equal(addresses, known) {
		t.Errorf("sessions of %q, nfsd's clients are %q", addresses, known)
	}
}

func (w *sessionWorld) testList(t *testing.T) {
	w.mounts(t)
	w.checkSubjects(t)
	table := w.server.Run(t, binary("rpctlsctl"), "sessions", "--runtime-dir", runtimeDir(w.server))
	t.Log("\n" + table)
	if !strings.Contains(table, "CN=client") || !strings.Contains(table, "CN=neighbour") {
		t.Error("the table lacks a client")
	}
}

// While mounts come and go, whatever was there in two looks was there in one of
// the other kind between them.
func (w *sessionWorld) testChurn(t *testing.T) {
	const cycles = 8
	var churn []*guest.Proc
	for h := range w.pairs {
		dir := mountPoint(t) + "-" + h.Name
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		script := fmt.Sprintf("for i in $(seq %d); do mount -t nfs -o vers=4.2,xprtsec=mtls server.test:%s %s && umount %[3]s || exit 1; done", cycles, exportBoth, dir)
		churn = append(churn, guest.Start(t, h, "churn-"+h.Name, []string{"sh", "-c", script}))
	}
	running := func() bool {
		return slices.ContainsFunc(churn, func(p *guest.Proc) bool {
			select {
			case <-p.Done():
				return false
			default:
				return true
			}
		})
	}
	looks, seen := 0, make(map[ends]bool)
	last, lastSS := listed(w.sessions(t, w.server)), w.ss(t, w.server)
	for running() {
		list := listed(w.sessions(t, w.server))
		if lost := missing(common(last, list), lastSS); len(lost) > 0 {
			t.Errorf("ss never had %v", lost)
		}
		ss := w.ss(t, w.server)
		if lost := missing(common(lastSS, ss), list); len(lost) > 0 {
			t.Errorf("the list lacks %v", lost)
		}
		for _, e := range list {
			seen[e] = true
		}
		last, lastSS = list, ss
		looks++
	}
	for _, p := range churn {
		if err := p.Wait(t, guest.CommandLimit); err != nil {
			t.Errorf("%s: %v: %s", p.Name, err, p.Output())
		}
	}
	t.Logf("%d looks, %d sessions seen", looks, len(seen))
	if len(seen) < 3 {
		t.Errorf("only %d sessions were ever seen", len(seen))
	}
	guest.Poll(t, guest.CommandLimit, "the end of all sessions", func() error {
		if list := w.sessions(t, w.server); len(list) > 0 {
			return fmt.Errorf("%+v", list)
		}
		return nil
	})
}

// Killed daemons have not forgotten whose sessions those were, neither while
// nobody runs nor afterwards.
func (w *sessionWorld) testKilledDaemons(t *testing.T) {
	w.mounts(t)
	for _, h := range w.hosts() {
		d := w.daemons[h]
		file := sessions.Path(runtimeDir(h), map[bool]string{true: "rpctlssd", false: "rpctlscd"}[h == w.server])
		want := len(w.sessions(t, h))
		guest.Poll(t, guest.CommandLimit, file, func() error {
			list, err := sessions.ReadFile(file)
			if err != nil || len(list) < want {
				return fmt.Errorf("%d of %d sessions, %v", len(list), want, err)
			}
			return nil
		})
		d.Kill(t)
	}
	w.checkSubjects(t)
	for _, h := range w.hosts() {
		w.restart(t, h)
	}
	w.checkSubjects(t)
}

func (w *sessionWorld) restart(t *testing.T, h *guest.Host) {
	t.Helper()
	name := map[bool]string{true: "rpctlssd", false: "rpctlscd"}[h == w.server]
	config := w.daemons[h].config
	w.daemons[h] = &daemon{runWith(w.whole, h, name, config), config}
}

// Sessions of which no daemon knows anything are listed, with what the kernel has.
func (w *sessionWorld) testOlder(t *testing.T) {
	w.mounts(t)
	d := w.daemons[w.server]
	d.Kill(t)
	if err := os.Remove(sessions.Path(runtimeDir(w.server), "rpctlssd")); err != nil {
		t.Fatal(err)
	}
	w.restart(t, w.server)
	list := w.check(t, w.server)
	if len(list) < 2 {
		t.Errorf("%+v", list)
	}
	for _, e := range list {
		if e.Daemon != "" || e.Certificate != nil || e.Began != nil || e.Role != "server" || e.Cipher == "" {
			t.Errorf("%+v", e)
		}
	}
}

// lag is how late this guest lets a goroutine run, at worst, until stop is called.
func lag() (stop func() time.Duration) {
	const step = 50 * time.Millisecond
	quit, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		late := time.Duration(0)
		for last := time.Now(); ; {
			select {
			case <-quit:
				worst <- late
				return
			case <-time.After(step):
				now := time.Now()
				late, last = max(late, now.Sub(last)-step), now
			}
		}
	}()
	return func() time.Duration { close(quit); return <-worst }
}

// A CRL arrives: the revoked client's connection ends, and the neighbour, who is
// just writing a file, hears nothing of it.
func (w *sessionWorld) testRevoked(t *testing.T) {
	dirs := w.mounts(t)
	server := w.daemons[w.server]
	find := func(name string) (e sessionscmd.Entry, ok bool) {
		for _, e := range w.sessions(t, w.server) {
			if e.Certificate != nil && e.Certificate.Subject == "CN="+name {
				return e, true
			}
		}
		return e, false
	}
	victim, ok := find("client")
	other, ok2 := find("neighbour")
	if !ok || !ok2 {
		t.Fatal("not both are connected")
	}
	const mebibytes = 16
	before := server.count("handshake success")
	copying := guest.Start(t, w.neighbour, "copy", []string{"dd", "if=/dev/urandom", "of=" + filepath.Join(dirs[w.neighbour], "copy"), "bs=1M", fmt.Sprint("count=", mebibytes), "conv=fsync"})
	serial := w.pairs[w.client].Cert.SerialNumber
	// Not with ss: while a file is being encrypted a process takes seconds here. A
	// netlink socket stays in the network namespace where it was made.
	var diag *sockdiag.Conn
	var derr error
	if err := w.server.Do(func() { diag, derr = sockdiag.Open() }); err != nil || derr != nil {
		t.Fatal(err, derr)
	}
	defer diag.Close()
	cookie, err := sessions.ParseName(victim.ID)
	if err != nil {
		t.Fatal(err)
	}
	socket := sockdiag.ID{Local: victim.Local, Remote: victim.Peer, Cookie: cookie}
	if _, err := diag.Find(socket); err != nil {
		t.Fatal(err)
	}
	ruler := lag()
	arrived := time.Now()
	w.revoke(t, serial)
	loaded := time.Duration(0)
	for {
		_, err := diag.Find(socket)
		if errors.Is(err, sockdiag.ErrGone) {
			break
		}
		if err != nil || time.Since(arrived) > guest.CommandLimit {
			t.Fatalf("%v is still there: %v", victim.Peer, err)
		}
		if loaded == 0 && server.count("changed files loaded") > 0 {
			loaded = time.Since(arrived)
		}
		time.Sleep(10 * time.Millisecond)
	}
	took, late := time.Since(arrived), ruler()
	t.Logf("cut %v after the CRL's arrival, which the log told after %v; this guest was late by up to %v", took, loaded, late)
	if slices.Contains(w.ss(t, w.server), ends{victim.Local, victim.Peer}) {
		t.Errorf("ss still has %v", victim.Peer)
	}
	// A guest is translated, and this one is just encrypting a file.
	if allowance := 2*time.Second + 20*late; took > allowance {
		t.Errorf("cut %v after the CRL's arrival, want at most %v", took, allowance)
	}
	line := server.said(t, `session ended: its peer is no longer accepted .*`)
	for _, part := range []string{"reason=revoked", "CN=client", "session=" + victim.ID, "fingerprint=" + victim.Certificate.Fingerprint, victim.Peer.String()} {
		if !strings.Contains(line, part) {
			t.Errorf("the log lacks %q: %s", part, line)
		}
	}
	if err := copying.Wait(t, guest.MountLimit); err != nil {
		t.Errorf("the neighbour's copy: %v: %s", err, copying.Output())
	}
	if now, ok := find("neighbour"); !ok || now.ID != other.ID {
		t.Errorf("the neighbour has connected again: %+v, before %+v", now, other)
	}
	if n := server.count("handshake success"); n != before {
		t.Errorf("%d handshakes succeeded meanwhile", n-before)
	}
	st, err := os.Stat(filepath.Join(dirs[w.neighbour], "copy"))
	if err != nil || st.Size() != mebibytes<<20 {
		t.Errorf("what the neighbour wrote: %v, %v", st, err)
	}
	// Whoever was cut stays out, and hangs, until its certificate is good again.
	touch := guest.Start(t, w.client, "touch", []string{"touch", filepath.Join(dirs[w.client], "touched")})
	server.said(t, `handshake failure .*reason=revoked`)
	w.revoke(t)
	if err := touch.Wait(t, guest.MountLimit); err != nil {
		// The client's table: a refusal by the server's alert is EACCES for a
		// moment, then the mount goes on.
		t.Logf("the revoked client's application: %v: %s", err, touch.Output())
	}
	use(t, dirs[w.client], 3)
	w.checkSubjects(t)
}

// An administrator ends sessions: through the daemon, and without one.
func (w *sessionWorld) testKill(t *testing.T) {
	dirs := w.mounts(t)
	ctl := func(h *guest.Host, args ...string) called {
		return call(t, h, nil, append([]string{binary("rpctlsctl"), "sessions", "kill", "--runtime-dir", runtimeDir(h)}, args...)...)
	}
	gone := func(h *guest.Host, id string) {
		t.Helper()
		for _, e := range w.sessions(t, h) {
			if e.ID == id {
				t.Errorf("%s still has %+v", h.Name, e)
			}
		}
	}
	var id string
	for _, e := range w.sessions(t, w.server) {
		if e.Certificate != nil && e.Certificate.Subject == "CN=neighbour" {
			id = e.ID
		}
	}
	c := ctl(w.server, id)
	if c.code != 0 || !strings.HasPrefix(c.stdout, "ended server session with client "+id) || !strings.Contains(c.stdout, "CN=neighbour") {
		t.Errorf("%+v", c)
	}
	gone(w.server, id)
	w.daemons[w.server].said(t, `session ended: somebody asked for it .*CN=neighbour`)
	use(t, dirs[w.neighbour], 4) // it comes again, and is let in
	if c = ctl(w.server, id); c.code != 1 || !strings.Contains(c.stderr, "no such session") {
		t.Errorf("again: %+v", c)
	}
	// On the client's side, while no daemon runs there.
	w.daemons[w.client].Kill(t)
	mine := w.sessions(t, w.client)
	if len(mine) == 0 {
		t.Fatal("no session")
	}
	if c = ctl(w.client, "--peer", "server.test"); c.code != 0 || strings.Count(c.stdout, "ended client session") != len(mine) {
		t.Errorf("%+v", c)
	}
	for _, e := range mine {
		gone(w.client, e.ID)
	}
	w.restart(t, w.client)
	use(t, dirs[w.client], 5)
}
