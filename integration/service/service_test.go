// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package service

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"golang.org/x/sys/unix"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
)

// units is where the payload has what packaging/systemd has.
const units = "/payload/packaging/systemd"

const export = "/srv/both"

// A system is a server and a client, each with its daemon as a service.
type system struct {
	server, client *guest.Host
	bare           *guest.Host // without a daemon
	nfsd           *guest.NFSD
	ca             *certstest.CA
	leaf           *certstest.Pair // a client's
	cert           tls.Certificate // the same
}

// TestServices tells one story, since booting is dear.
func TestServices(t *testing.T) {
	guest.RequireVM(t)
	s := newSystem(t)
	for _, part := range []struct {
		name string
		run  func(*system, *testing.T)
	}{
		{"sandbox", (*system).testSandbox},
		{"mount", (*system).testMount},
		{"reload", (*system).testReload},
		{"revocation", (*system).testRevocation},
		{"restart loses nothing", (*system).testRestart},
		{"storm", (*system).testStorm},
		{"killed", (*system).testKilled},
		{"nobody there", (*system).testNobodyThere},
		{"watchdog", (*system).testWatchdog},
		{"rival", (*system).testRival},
		{"stop", (*system).testStop},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(s, t) }) {
			t.Log((*guest.Host)(nil).Run(t, "journalctl", "-u", "rpctls?d.service", "-n", "60", "--no-pager", "-o", "short-monotonic"))
		}
	}
}

func newSystem(t *testing.T) *system {
	s := &system{server: guest.NewHost(t, "server"), client: guest.NewHost(t, "client"), bare: guest.NewHost(t, "bare")}
	guest.Join(t, s.server, s.client, s.bare)
	s.nfsd = guest.StartNFSD(t, s.server, guest.NFSDConfig{Exports: []guest.Export{{Path: export, XprtSec: "tls:mtls"}}})
	sysctl := func(args ...string) { (*guest.Host)(nil).Run(t, args[0], args[1:]...) }
	sysctl("systemd-sysusers", units+"/rpctls.sysusers")
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "service CA"})
	s.ca = ca
	dir := "/etc/rpctls"
	write(t, dir+"/ca.pem", string(ca.PEM()), 0o644)
	for _, h := range []*guest.Host{s.server, s.client} {
		unit, letter := "rpctlssd", "s"
		if h == s.client {
			unit, letter = "rpctlscd", "c"
		}
		leaf := ca.MustIssue(t, certstest.Options{CommonName: h.Name, DNS: []string{h.FQDN()}})
		if err := os.MkdirAll(dir+"/"+h.Name, 0o755); err != nil {
			t.Fatal(err)
		}
		leaf.MustWriteFiles(t, dir+"/"+h.Name)
		// As a package has it: root's, and readable for the daemon's group.
		sysctl("chown", "-R", "root:rpctls", dir+"/"+h.Name)
		sysctl("chmod", "0640", dir+"/"+h.Name+"/key.pem")
		if h == s.client {
			s.leaf, s.cert = leaf, leaf.TLS()
		}
		more := ""
		if h == s.server {
			// A client of ours is no attacker, however long a busy machine keeps
			// it from its first word.
			more = "first_record_timeout = \"4s\"\n"
		}
		write(t, fmt.Sprintf("%s/%s.toml", dir, unit), fmt.Sprintf(
			"trust = %q\ncertificate = %q\nprivate_key = %q\nruntime_directory = %q\n%s",
			dir+"/ca.pem", dir+"/"+h.Name+"/cert.pem", dir+"/"+h.Name+"/key.pem", "/run/rpctls-"+letter, more), 0o644)
		install(t, "/payload/bin/"+unit, "/usr/sbin/"+unit, 0o755)
		install(t, units+"/"+unit+".service", "/etc/systemd/system/"+unit+".service", 0o644)
		// Two hosts on one machine differ in this from two machines, and a
		// watchdog that barks soon saves time.
		write(t, "/etc/systemd/system/"+unit+".service.d/test.conf", fmt.Sprintf(
			"[Service]\nNetworkNamespacePath=/run/netns/%s\nRuntimeDirectory=rpctls-%s\nWatchdogSec=5s\n", h.Name, letter), 0o644)
	}
	sysctl("systemctl", "daemon-reload")
	sysctl("systemctl", "start", "rpctlssd", "rpctlscd")
	t.Cleanup(func() { sysctl("systemctl", "stop", "rpctlssd", "rpctlscd") })
	return s
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// install replaces a file as a package manager does: it is the old one or the
// new one at any time.
func install(t *testing.T, from, to string, mode os.FileMode) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	write(t, to+".new", string(text), mode)
	if err := os.Rename(to+".new", to); err != nil {
		t.Fatal(err)
	}
}

func systemctl(t *testing.T, args ...string) { (*guest.Host)(nil).Run(t, "systemctl", args...) }

// property is what systemctl show says.
func property(t *testing.T, unit, name string) string {
	return strings.TrimSpace((*guest.Host)(nil).Run(t, "systemctl", "show", "-P", name, unit))
}

func pid(t *testing.T, unit string) int {
	n, err := strconv.Atoi(property(t, unit, "MainPID"))
	if err != nil || n == 0 {
		t.Fatalf("%s has no process (%v)", unit, err)
	}
	return n
}

// testSandbox: of all rights one is left, and the accepting thread has its
// scheduling all the same.
func (s *system) testSandbox(t *testing.T) {
	for _, unit := range []string{"rpctlssd", "rpctlscd"} {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid(t, unit)))
		if err != nil {
			t.Fatal(err)
		}
		netAdmin := fmt.Sprintf("%016x", uint64(1)<<unix.CAP_NET_ADMIN)
		for field, want := range map[string]string{
			"CapEff": netAdmin, "CapPrm": netAdmin, "CapBnd": netAdmin,
			"NoNewPrivs": "1", "Seccomp": "2",
		} {
			m := regexp.MustCompile(`(?m)^` + field + `:\s+(\S+)`).FindSubmatch(status)
			if m == nil || string(m[1]) != want {
				t.Errorf("%s: %s is %q, want %s", unit, field, m, want)
			}
		}
		if regexp.MustCompile(`(?m)^Uid:\s+0\s`).Match(status) {
			t.Errorf("%s runs as root", unit)
		}
		if text := property(t, unit, "StatusText"); !strings.Contains(text, "SCHED_FIFO 1") {
			t.Errorf("%s says %q, want SCHED_FIFO 1", unit, text)
		}
		if n := property(t, unit, "NFileDescriptorStore"); n != "1" {
			t.Errorf("%s has %s descriptors in the store, want 1", unit, n)
		}
	}
	// How nfsd is asked without a right to its files.
	if n := s.nfsd.Read(t, "threads"); strings.TrimSpace(n) == "0" {
		t.Errorf("nfsd has %s threads", n)
	}
}

// mount mounts the export; the name of the directory is the test's.
func (s *system) mount(t *testing.T, options string) string {
	t.Helper()
	dir := "/mnt/" + regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")
	guest.Mount(t, s.client, "server.test:"+export, dir, options)
	return dir
}

func (s *system) testMount(t *testing.T) {
	for _, sec := range []string{"tls", "mtls"} {
		t.Run(sec, func(t *testing.T) {
			dir := s.mount(t, "vers=4.2,xprtsec="+sec)
			sum := guest.WriteRandom(t, dir+"/file", 1, 1)
			guest.CheckFile(t, dir+"/file", sum)
		})
	}
}

// testReload: a configuration that is refused leaves the service running and
// the old one in force; systemd hears the end of a reload.
func (s *system) testReload(t *testing.T) {
	before := pid(t, "rpctlssd")
	systemctl(t, "reload", "rpctlssd")
	const file = "/etc/rpctls/rpctlssd.toml"
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write(t, file, "no such key = 1\n", 0o644)
	systemctl(t, "reload", "rpctlssd")
	if err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert); err != nil {
		t.Errorf("after a reload that was refused: %v", err)
	}
	write(t, file, string(good), 0o644)
	systemctl(t, "reload", "rpctlssd")
	if now := pid(t, "rpctlssd"); now != before {
		t.Errorf("a reload made %d of process %d", now, before)
	}
}

// testRevocation: within its sandbox the daemon may ask the kernel about
// connections, which loads the module for that, and end them; and it may write what
// it knows of them.
func (s *system) testRevocation(t *testing.T) {
	const file, list = "/etc/rpctls/rpctlssd.toml", "/etc/rpctls/list.crl"
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	crl := func(revoked ...*certstest.Pair) {
		now := time.Now()
		write(t, list+".new", string(certstest.CRLPEM(s.ca.MustCRL(t, certstest.Serials(revoked...), now.Add(-time.Minute), now.Add(time.Hour)))), 0o644)
		if err := os.Rename(list+".new", list); err != nil {
			t.Fatal(err)
		}
	}
	crl()
	write(t, file, string(good)+fmt.Sprintf("crl = [%q]\n", list), 0o644)
	systemctl(t, "reload", "rpctlssd")
	dir := s.mount(t, "vers=4.2,xprtsec=mtls")
	sum := guest.WriteRandom(t, dir+"/file", 2, 1)
	ctl := func(args ...string) string {
		return s.server.Run(t, "/payload/bin/rpctlsctl", append([]string{"sessions", "--runtime-dir", "/run/rpctls-s"}, args...)...)
	}
	if text := ctl(); !strings.Contains(text, "CN=client") {
		t.Errorf("rpctlsctl says %s", text)
	}
	if text := (*guest.Host)(nil).Run(t, "stat", "-c", "%U %a", "/run/rpctls-s/rpctlssd.sessions"); strings.TrimSpace(text) != "rpctls 600" {
		t.Errorf("the file is %s", text)
	}
	crl(s.leaf)
	guest.Poll(t, guest.CommandLimit, "the end of the session", func() error {
		text := (*guest.Host)(nil).Run(t, "journalctl", "-u", "rpctlssd", "-n", "60", "--no-pager", "-o", "cat")
		if !strings.Contains(text, "session ended: its peer is no longer accepted") {
			return errors.New(text)
		}
		return nil
	})
	write(t, file, string(good), 0o644)
	systemctl(t, "reload", "rpctlssd")
	guest.CheckFile(t, dir+"/file", sum)
}

// An outcome is what became of bare connections.
type outcome struct {
	all    int
	failed []failure
}

// A failure is a connection that was lost, and how long it took.
type failure struct {
	error
	took time.Duration
}

// nfsdPatience is how long nfsd waits for a handshake (SVC_HANDSHAKE_TO in
// net/sunrpc/svcsock.c). A machine that takes longer to restart a service loses
// what came at the beginning.
const nfsdPatience = 5 * time.Second

// slowRestart is what no machine needs that has a processor for its guest: with
// the wait for its turn it adds up to what nfsd waits.
const slowRestart = 2 * time.Second

// judge fails the test for each connection that a restart, of which the longest
// took so long, cannot be excused for. On a slow machine those can that nfsd says
// it has given up itself: they were answered, too late.
func judge(t *testing.T, failed []failure, longest time.Duration, gaveUp int) {
	t.Helper()
	for i, f := range failed {
		if longest > nfsdPatience*3/4 && f.took >= nfsdPatience || longest > slowRestart && i < gaveUp {
			t.Logf("a restart took %v, and nfsd gave up %d: %v", longest, gaveUp, f)
			continue
		}
		t.Error(f)
	}
}

// paced makes a connection every interval from each of two clients until stop
// is closed, whatever becomes of the one before.
func (s *system) paced(interval time.Duration, stop <-chan struct{}) *outcome {
	var mu sync.Mutex
	var wg sync.WaitGroup
	o := new(outcome)
	for client := range 2 {
		wg.Go(func() {
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				began := time.Now()
				err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert)
				mu.Lock()
				if o.all++; err != nil {
					o.failed = append(o.failed, failure{fmt.Errorf("client %d, connection %d: %w", client, n, err), time.Since(began)})
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return o
}

// bearable is how often each of two clients may connect without keeping this
// machine busy for more than half of the time: what restarts lose is to be seen,
// not what a guest cannot compute.
func (s *system) bearable(t *testing.T) time.Duration {
	const n = 5
	began := time.Now()
	for range n {
		if err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert); err != nil {
			t.Errorf("before anything happens: %v", err)
		}
	}
	return max(4*time.Since(began)/n, 100*time.Millisecond)
}

// writer appends to a file on a mount and syncs, over and over, until stop is
// closed: no error may reach it.
func writer(t *testing.T, dir string, stop <-chan struct{}) error {
	f, err := os.OpenFile(dir+"/written", os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	block := make([]byte, 4096)
	n := 0
	for ; ; n++ {
		select {
		case <-stop:
		default:
			for i := range block {
				block[i] = byte(n + i)
			}
			if _, err := f.Write(block); err != nil {
				return fmt.Errorf("write %d: %w", n, err)
			}
			if err := f.Sync(); err != nil {
				return fmt.Errorf("sync %d: %w", n, err)
			}
			continue
		}
		break
	}
	if n == 0 {
		return errors.New("nothing was written")
	}
	for i := range n {
		if _, err := f.ReadAt(block, int64(i)*int64(len(block))); err != nil {
			return fmt.Errorf("read %d: %w", i, err)
		}
		if block[0] != byte(i) || block[1] != byte(i+1) {
			return fmt.Errorf("block %d is another one", i)
		}
	}
	t.Logf("%d blocks were written and synced", n)
	return nil
}

// disturb has a mount written to, its connection cut and bare connections made
// all the time, while what happens to both services happens: rounds times, one
// and then the other, a second apart.
func (s *system) disturb(t *testing.T, rounds int, happens func(unit string)) *outcome {
	dir := s.mount(t, "vers=4.2,xprtsec=mtls")
	interval := s.bearable(t)
	stop := make(chan struct{})
	wrote := make(chan error, 1)
	go func() { wrote <- writer(t, dir, stop) }()
	bare := make(chan *outcome, 1)
	go func() { bare <- s.paced(interval, stop) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range rounds {
		for _, unit := range []string{"rpctlssd", "rpctlscd"} {
			<-tick.C
			// The mount has to come back in the middle of it.
			guest.CutConnections(t, s.client, "dport = :2049")
			happens(unit)
		}
	}
	close(stop)
	guest.Within(t, 3*time.Minute, "the writer's end", func() error { return <-wrote })
	return <-bare
}

// testRestart: systemctl restart, of both daemons in turn, and nothing is
// lost: requests wait in the kernel.
func (s *system) testRestart(t *testing.T) {
	before := pid(t, "rpctlssd")
	trace := guest.Trace(t, requestEvents...)
	longest := time.Duration(0)
	o := s.disturb(t, 3, func(unit string) {
		if unit == "rpctlssd" {
			// An upgrade: the program is another file from here on.
			install(t, "/payload/bin/"+unit, "/usr/sbin/"+unit, 0o755)
		}
		began := time.Now()
		systemctl(t, "restart", unit)
		longest = max(longest, time.Since(began))
	})
	t.Logf("%d bare connections, %d failed", o.all, len(o.failed))
	n := count(trace.Lines(t))
	t.Logf("the kernel counts %v", n)
	if n["handshake_cmd_accept"] != n["handshake_cmd_done"] {
		t.Errorf("accepted are %d, done %d", n["handshake_cmd_accept"], n["handshake_cmd_done"])
	}
	judge(t, o.failed, longest, n[gaveUp])
	if pid(t, "rpctlssd") == before {
		t.Error("nothing was restarted")
	}
}

// testStorm: restarts in the middle of a storm. Each of nfsd's threads asks for
// one handshake at a time, and the kernel's queue has room for all of them in
// this guest: what comes while no daemon runs waits, and nothing is lost.
func (s *system) testStorm(t *testing.T) {
	trace := guest.Trace(t, requestEvents...)
	const total, clients = 240, 16
	work := make(chan int)
	var mu sync.Mutex
	var failed []failure
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := range work {
				began := time.Now()
				if err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert); err != nil {
					mu.Lock()
					failed = append(failed, failure{fmt.Errorf("connection %d: %w", i, err), time.Since(began)})
					mu.Unlock()
				}
			}
		})
	}
	restart := make(chan struct{}, total)
	restarted := make(chan int)
	longest := time.Duration(0) // until restarted
	go func() {
		n := 0
		for range restart {
			began := time.Now()
			if out, err := exec.Command("systemctl", "restart", "rpctlssd").CombinedOutput(); err != nil {
				t.Errorf("restart: %v: %s", err, out)
			}
			longest = max(longest, time.Since(began))
			n++
		}
		restarted <- n
	}()
	for i := range total {
		if i%80 == 40 {
			restart <- struct{}{}
		}
		work <- i
	}
	close(work)
	close(restart)
	wg.Wait()
	times := <-restarted
	n := count(trace.Lines(t))
	t.Logf("%d connections, %d restarts of at most %v, %d failed; the kernel counts %v", total, times, longest, len(failed), n)
	judge(t, failed, longest, n[gaveUp])
	if n["handshake_submit"] != total || n["handshake_cmd_accept"] != total || n["handshake_cmd_done"] != total {
		t.Errorf("of %d requests the kernel counts %v", total, n)
	}
}

// testKilled: as above with kill -9. What is lost is what was in progress.
func (s *system) testKilled(t *testing.T) {
	trace := guest.Trace(t, requestEvents...)
	o := s.disturb(t, 3, func(unit string) {
		if err := unix.Kill(pid(t, unit), unix.SIGKILL); err != nil {
			t.Error(err)
		}
		guest.Poll(t, guest.CommandLimit, unit+" to be back", func() error {
			if state := property(t, unit, "ActiveState"); state != "active" {
				return errors.New(state)
			}
			return nil
		})
	})
	n := count(trace.Lines(t))
	t.Logf("%d bare connections, %d failed; the kernel counts %v", o.all, len(o.failed), n)
	// nfsd gives up those, and on a slow machine some that were only answered
	// too late.
	inProgress := max(n["handshake_cmd_accept"]-n["handshake_cmd_done"], n[gaveUp])
	if len(o.failed) > inProgress {
		t.Errorf("%d connections were lost, %d were in progress when the daemons were killed", len(o.failed), inProgress)
		for _, err := range o.failed {
			t.Log(err)
		}
	}
}

// gaveUp is nfsd's word that it has waited long enough for an agent.
const gaveUp = "svc_tls_timed_out"

var requestEvents = []string{"handshake:handshake_submit", "handshake:handshake_submit_err", "handshake:handshake_cmd_accept", "handshake:handshake_cmd_done", "sunrpc:" + gaveUp}

// count counts trace events by name.
func count(lines []string) map[string]int {
	n := make(map[string]int)
	for _, l := range lines {
		for _, e := range requestEvents {
			if _, name, _ := strings.Cut(e, ":"); strings.Contains(l, name+":") {
				n[name]++
			}
		}
	}
	return n
}

// testNobodyThere: what comes while a killed daemon has not been replaced yet
// waits for the next one, on both sides.
func (s *system) testNobodyThere(t *testing.T) {
	const dropIn = "/etc/systemd/system/%s.service.d/slow.conf"
	for _, unit := range []string{"rpctlssd", "rpctlscd"} {
		write(t, fmt.Sprintf(dropIn, unit), "[Service]\nRestartSec=2s\n", 0o644)
	}
	systemctl(t, "daemon-reload")
	defer func() {
		for _, unit := range []string{"rpctlssd", "rpctlscd"} {
			os.Remove(fmt.Sprintf(dropIn, unit))
		}
		systemctl(t, "daemon-reload")
	}()
	for round := range 3 {
		for _, unit := range []string{"rpctlssd", "rpctlscd"} {
			systemctl(t, "kill", "--signal=KILL", unit)
			guest.Poll(t, guest.CommandLimit, unit+" to be gone", func() error {
				if now := property(t, unit, "MainPID"); now != "0" {
					return errors.New(now)
				}
				return nil
			})
			if n := property(t, unit, "NFileDescriptorStore"); n != "1" {
				t.Errorf("round %d: %s has %s descriptors in the store, want 1", round, unit, n)
			}
			if unit == "rpctlssd" {
				if err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert); err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			} else {
				dir := s.mount(t, "vers=4.2,xprtsec=mtls")
				guest.Unmount(t, s.client, dir)
			}
			if state := property(t, unit, "ActiveState"); state != "active" {
				t.Errorf("round %d: %s is %s", round, unit, state)
			}
		}
	}
}

// testWatchdog: a daemon that stands still is replaced.
func (s *system) testWatchdog(t *testing.T) {
	before := pid(t, "rpctlssd")
	if err := unix.Kill(before, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	guest.Poll(t, guest.CommandLimit, "another process", func() error {
		if now := property(t, "rpctlssd", "MainPID"); now == "0" || now == strconv.Itoa(before) {
			return fmt.Errorf("it is %s", now)
		}
		if state := property(t, "rpctlssd", "ActiveState"); state != "active" {
			return errors.New(state)
		}
		return nil
	})
	if err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert); err != nil {
		t.Error(err)
	}
}

// testRival: the daemon in its sandbox sees who else is in the kernel's group,
// and takes neither itself nor the socket that is kept for it for a stranger.
func (s *system) testRival(t *testing.T) {
	warnings := func() int {
		log := (*guest.Host)(nil).Run(t, "journalctl", "--quiet", "--unit=rpctlssd.service", "--output=cat", "--boot")
		return strings.Count(log, "another program answers the kernel's handshake requests")
	}
	if n := warnings(); n != 0 {
		t.Errorf("it has warned %d times, and nobody else was there", n)
	}
	var rival *genetlink.Conn
	var err error
	if derr := s.server.Do(func() {
		if rival, err = genetlink.Dial(nil); err != nil {
			return
		}
		var family genetlink.Family
		if family, err = rival.GetFamily("handshake"); err != nil {
			return
		}
		for _, g := range family.Groups {
			if g.Name == "tlshd" {
				err = rival.JoinGroup(g.ID)
			}
		}
	}); derr != nil || err != nil {
		t.Fatal(derr, err)
	}
	defer rival.Close()
	// It looks when it starts, and every half a minute.
	systemctl(t, "restart", "rpctlssd")
	guest.Poll(t, guest.CommandLimit, "the warning", func() error {
		if n := warnings(); n != 1 {
			return fmt.Errorf("%d warnings", n)
		}
		return nil
	})
}

// testStop: a service that is stopped, and not restarted, keeps nothing: the
// kernel knows that nobody is there, and says so at once.
func (s *system) testStop(t *testing.T) {
	systemctl(t, "stop", "rpctlssd")
	if n := property(t, "rpctlssd", "NFileDescriptorStore"); n != "0" {
		t.Errorf("%s descriptors are kept", n)
	}
	trace := guest.Trace(t, "handshake:handshake_notify_err")
	if err := guest.CallOverTLS(s.bare, s.server.IPv4(), s.cert); err == nil {
		t.Error("a session without a daemon")
	}
	guest.Poll(t, guest.CommandLimit, "the kernel to say that nobody is there", func() error {
		if len(trace.Lines(t)) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	systemctl(t, "start", "rpctlssd")
}
