// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
	"rpctls/ktls"
)

// A mount does not need the daemons, and new ones take over.
func (w *world) testRestart(t *testing.T) {
	client, server := w.both(t)
	dir := w.mount(t, exportBoth, "vers=4.2,xprtsec=mtls")
	use(t, dir, 1)
	for _, d := range []*daemon{client, server} {
		d.Kill(t)
	}
	use(t, dir, 2)
	w.wantTLS(t, w.client, ktls.AES128GCM)
	client2, _ := w.both(t)
	use(t, dir, 3)
	if n := client2.count("handshake"); n != 0 {
		t.Errorf("the mount made %d handshakes", n)
	}
	other := dir + "-new"
	guest.Mount(t, w.client, "server.test:"+exportTLS, other, "vers=4.1,nosharecache,xprtsec=tls")
	use(t, other, 1)
}

// cut breaks the client's connections and waits until it has noticed.
func (w *world) cut(t *testing.T) {
	t.Helper()
	if n := guest.CutConnections(t, w.client, "dport = :2049"); n == 0 {
		t.Fatal("no connection was cut")
	}
}

func (w *world) testCut(t *testing.T) {
	client, _ := w.both(t)
	dir := w.mount(t, exportBoth, "vers=4.2,xprtsec=mtls")
	name := filepath.Join(dir, "cut")
	sum := guest.WriteRandom(t, name, 7, 4)
	before := client.count("handshake success")
	for range 3 {
		w.cut(t)
		guest.DropCaches(t)
		guest.CheckFile(t, name, sum)
	}
	if n := client.count("handshake success"); n < before+3 {
		t.Errorf("%d handshakes after 3 cuts, %d before", n, before)
	}
	w.wantTLS(t, w.client, ktls.AES128GCM)
}

// replaceServer gives the running server another certificate.
func (w *world) replaceServer(t *testing.T, server *daemon, identity string) {
	t.Helper()
	before := server.count("reloaded generation")
	for _, f := range []string{"cert.pem", "key.pem"} {
		b, err := os.ReadFile(w.path(identity + "/" + f))
		if err != nil {
			t.Fatal(err)
		}
		replace(t, w.path("changing/"+f), b)
	}
	server.Signal(t, syscall.SIGHUP)
	guest.Poll(t, guest.CommandLimit, "reload", func() error {
		if server.count("reloaded generation") == before {
			return errors.New("not reloaded yet")
		}
		return nil
	})
}

// replace writes a file as a careful administrator does.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// A hard mount whose server cannot be verified any more hangs, without an
// error to anybody, and goes on when trust is restored.
func (w *world) testTrustHeals(t *testing.T) {
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	w.issueBy(t, stranger, "stranger", serverOptions(w.server))
	w.issue(t, "changing", serverOptions(w.server))
	client := run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.trust()+w.identity("changing"))
	dir := w.mount(t, exportBoth, "vers=4.2,hard,xprtsec=mtls")
	use(t, dir, 1)
	w.replaceServer(t, server, "stranger")
	w.cut(t)
	name := filepath.Join(dir, "precious")
	writer := guest.Start(t, w.client, "writer", []string{"dd", "if=/dev/zero", "of=" + name, "bs=64k", "count=16", "conv=fsync"})
	// Several attempts, further and further apart, none of which reaches the
	// application.
	var at []time.Time
	for n := 1; n <= 4; n++ {
		guest.Poll(t, 30*time.Second, fmt.Sprintf("failure %d", n), func() error {
			if client.count(failure("unknown_ca", "ETIMEDOUT")) < n {
				return errors.New("not yet")
			}
			return nil
		})
		at = append(at, time.Now())
	}
	select {
	case <-writer.Done():
		t.Fatalf("the application ended: %s", writer.Output())
	default:
	}
	if first, last := at[1].Sub(at[0]), at[3].Sub(at[2]); last < first {
		t.Errorf("attempts come faster: %v apart, then %v", first, last)
	}
	w.issue(t, "good", serverOptions(w.server))
	w.replaceServer(t, server, "good")
	if err := writer.Wait(t, 60*time.Second); err != nil {
		t.Errorf("the application got an error: %v: %s", err, writer.Output())
	}
	if st, err := os.Stat(exportBoth + "/precious"); err != nil || st.Size() != 1<<20 {
		t.Errorf("what it wrote: %v, %v", st, err)
	}
	use(t, dir, 2)
}

// A first mount that cannot be verified fails at once and says so.
func (w *world) testFirstMountRefused(t *testing.T) {
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"})
	w.issueBy(t, stranger, "stranger", serverOptions(w.server))
	client := run(t, w.client, "rpctlscd", w.clientConfig())
	run(t, w.server, "rpctlssd", w.identity("stranger"))
	began := time.Now()
	err := guest.MountErr(t, w.client, "server.test:"+exportBoth, mountPoint(t), "vers=4.2,xprtsec=tls", 30*time.Second)
	t.Logf("after %v: %v", time.Since(began), err)
	if errors.Is(err, guest.ErrHung) || !strings.Contains(err.Error(), "access denied") {
		t.Errorf("mount says: %v", err)
	}
	client.said(t, failure("unknown_ca", "EACCES"))
	if n := client.count("ETIMEDOUT"); n != 0 {
		t.Errorf("%d attempts were to be tried again", n)
	}
}

// Changed files are noticed without a signal; bad ones are not taken, and said.
func (w *world) testReload(t *testing.T) {
	w.issue(t, "changing", serverOptions(w.server))
	run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.trust()+w.identity("changing"))
	mounts := 0
	mountable := func() {
		t.Helper()
		mounts++
		dir := fmt.Sprintf("%s-%d", mountPoint(t), mounts)
		guest.Mount(t, w.client, "server.test:"+exportBoth, dir, "vers=4.2,xprtsec=mtls")
		guest.Unmount(t, w.client, dir)
	}
	mountable()
	good, err := os.ReadFile(w.path("changing/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	other := w.ca.MustIssue(t, serverOptions(w.server))
	replace(t, w.path("changing/key.pem"), other.MustKeyPEM(t, certstest.PKCS8))
	server.said(t, `error: changed files are bad; keeping what was loaded before .*key`)
	mountable()
	server.Signal(t, syscall.SIGHUP)
	server.said(t, `error: reload refused; keeping what was loaded before`)
	mountable()
	replace(t, w.path("changing/key.pem"), good)
	server.said(t, `changed files loaded generation=`)
	mountable()
	if err := os.WriteFile(server.config, []byte("certificat = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	server.Signal(t, syscall.SIGHUP)
	server.said(t, `error: reload refused.*rpctlssd.toml:1:1: unknown key`)
	mountable()
}
