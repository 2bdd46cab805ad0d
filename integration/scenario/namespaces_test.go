// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"rpctls/integration/guest"
)

// TestNamespaces: one pair of daemons, in the machine's own network namespace,
// serves hosts that are namespaces: each with the certificate that is configured
// for it, from the moment that it is there until it is not, and none the worse for
// what becomes of another.
func TestNamespaces(t *testing.T) {
	guest.RequireVM(t)
	w := &spacesWorld{world: newWorld(t), other: guest.NewHost(t, "other"), whole: t}
	guest.Link(t, w.client, w.other)
	guest.StartNFSD(t, w.other, guest.NFSDConfig{Exports: []guest.Export{{Path: exportBoth, XprtSec: "tls:mtls"}}})
	w.issue(t, "other", serverOptions(w.other))
	const common = "namespaces = [\"host\", \"/run/netns/*\"]\n"
	w.daemons = map[string]*daemon{
		"rpctlscd": w.start(t, "rpctlscd", common+w.clientConfig()),
		"rpctlssd": w.start(t, "rpctlssd", common+w.serverConfig()+"[[namespace]]\nmatch = [\"/run/netns/other\"]\n"+w.identity("other")),
	}
	for _, h := range []*guest.Host{w.server, w.client, w.rogue, w.other} {
		for _, d := range w.daemons {
			d.said(t, served(h.Name))
		}
	}
	for _, s := range []struct {
		name string
		run  func(*spacesWorld, *testing.T)
	}{
		{"two servers", (*spacesWorld).testTwoServers},
		{"one comes and goes under load", (*spacesWorld).testFleeting},
		{"both daemons stop", (*spacesWorld).testStop},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(w, t) })
	}
	w.checkDecryption(t)
}

type spacesWorld struct {
	*world
	other   *guest.Host
	whole   *testing.T
	daemons map[string]*daemon
}

func served(name string) string {
	return `a network namespace is served namespace=/run/netns/` + name + ` `
}
func left(name string) string { return `a network namespace is gone namespace=/run/netns/` + name }

// start starts a daemon outside of all hosts.
func (w *spacesWorld) start(t *testing.T, name, text string) *daemon {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".toml")
	text = "log_level = \"debug\"\nruntime_directory = \"/run/rpctls-machine\"\n" + text
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	p := guest.Start(t, nil, name, []string{binary(name), "-config", path})
	p.WaitLine(t, regexp.MustCompile(`: ready status=`), guest.CommandLimit)
	return &daemon{p, path}
}

// Each server shows what is configured for its namespace: the client, which knows
// it by name, would not have it otherwise.
func (w *spacesWorld) testTwoServers(t *testing.T) {
	for _, tt := range []struct{ source, namespace string }{
		{"server.test:" + exportMTLS, "server"}, {"other.test:" + exportBoth, "other"},
	} {
		dir := mountPoint(t) + tt.namespace
		guest.Mount(t, w.client, tt.source, dir, "vers=4.2,xprtsec=mtls")
		use(t, dir, 1)
		guest.Unmount(t, w.client, dir)
		w.daemons["rpctlssd"].said(t, `peer=\S+ namespace=/run/netns/`+tt.namespace+` result=success .*subject=`)
	}
	w.daemons["rpctlscd"].said(t, `namespace=/run/netns/client result=success`)
}

// While mounts of one server come and go, another server appears, is mounted,
// has a client that stalls, and vanishes; three times by one name.
func (w *spacesWorld) testFleeting(t *testing.T) {
	d := w.daemons["rpctlssd"]
	before := namespaceFDs(t, d)
	if before < 4 { // the hosts; their network is one, too
		t.Fatalf("rpctlssd holds %d namespaces", before)
	}
	stop, result := make(chan struct{}), make(chan error, 1)
	dir := mountPoint(t) + "-load"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := 0
	go func() {
		for {
			select {
			case <-stop:
				result <- nil
				return
			default:
			}
			ctx, cancel := context.WithTimeout(context.Background(), guest.CommandLimit)
			for _, argv := range [][]string{
				{"mount", "-t", "nfs", "-o", "vers=4.2,xprtsec=mtls", "server.test:" + exportMTLS, dir}, {"umount", dir},
			} {
				if out, err := w.client.Command(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
					cancel()
					result <- fmt.Errorf("mount %d: %v: %w: %s", mounts+1, argv, err, out)
					return
				}
			}
			cancel()
			mounts++
		}
	}()
	for i := range 3 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			h := guest.NewHost(t, "fleeting")
			guest.Link(t, w.client, h)
			guest.StartNFSD(t, h, guest.NFSDConfig{Exports: []guest.Export{{Path: exportBoth, XprtSec: "tls:mtls"}}})
			waitCount(t, d, served("fleeting"), i+1)
			waitCount(t, w.daemons["rpctlscd"], served("fleeting"), i+1)
			// It has the common certificate, of another name: the one that is
			// wanted is said by who refuses it.
			if err := guest.TryMount(t, w.client, "fleeting.test:"+exportBoth, mountPoint(t), "vers=4.2,xprtsec=tls", guest.CommandLimit); err == nil {
				t.Error("mounted with the certificate of another host")
			}
			waitCount(t, d, `handshake failure role=server peer=\S+ namespace=/run/netns/fleeting result=failure reason=peer_alert`, i+1)
			probed(t, w.client, h.IPv4()) // and says nothing more
		})
		waitCount(t, d, left("fleeting"), i+1)
	}
	close(stop)
	if err := <-result; err != nil {
		t.Error(err)
	}
	if mounts == 0 {
		t.Error("there was no load")
	}
	t.Logf("%d mounts meanwhile", mounts)
	deadline := time.Now().Add(guest.CommandLimit)
	for now := namespaceFDs(t, d); now != before; now = namespaceFDs(t, d) {
		if time.Now().After(deadline) {
			t.Fatalf("rpctlssd holds %d namespaces, before %d", now, before)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if n := d.count(`level=error|: error: `); n != 0 {
		t.Errorf("%d errors in the log:\n%s", n, d.Output())
	}
}

// waitCount waits for the nth line.
func waitCount(t *testing.T, d *daemon, pattern string, n int) {
	t.Helper()
	for deadline := time.Now().Add(guest.CommandLimit); d.count(pattern) < n; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s said %q %d times, want %d:\n%s", d.Name, pattern, d.count(pattern), n, d.Output())
		}
	}
}

// namespaceFDs counts the namespaces that a daemon holds.
func namespaceFDs(t *testing.T, d *daemon) (n int) {
	t.Helper()
	dir := "/proc/" + strconv.Itoa(d.PID()) + "/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err == nil && (strings.HasPrefix(target, "net:") || strings.HasPrefix(target, "/run/netns/")) {
			n++
		}
	}
	return n
}

// A daemon that stops ends what it has in all namespaces, in order. What is left
// there with nobody to answer for it is what doctor finds, from another host.
func (w *spacesWorld) testStop(t *testing.T) {
	dir := mountPoint(t)
	guest.Mount(t, w.client, "server.test:"+exportMTLS, dir, "vers=4.2,xprtsec=mtls")
	const (
		mounts  = "nobody answers the kernel for mounts with TLS in another network namespace: they hang when their connection breaks"
		servers = "nobody answers the kernel for the NFS server of another network namespace: its clients get no TLS"
	)
	doctor := func() string {
		return w.doctor(t, w.rogue, w.daemons["rpctlscd"].config, w.daemons["rpctlssd"].config).stdout
	}
	if said := doctor(); strings.Contains(said, mounts) || strings.Contains(said, servers) {
		t.Errorf("doctor finds fault with namespaces that are served:\n%s", said)
	}
	for _, d := range w.daemons {
		d.stop(t)
	}
	said := doctor()
	for _, want := range []string{
		mounts, "/run/netns/client: server.test:" + exportMTLS,
		servers, "/run/netns/server: nfsd has ", "/run/netns/other: nfsd has ",
	} {
		if !strings.Contains(said, want) {
			t.Errorf("doctor does not say %q:\n%s", want, said)
		}
	}
	// It needs no handshake to be ended.
	guest.Unmount(t, w.client, dir)
}
