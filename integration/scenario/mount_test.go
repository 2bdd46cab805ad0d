// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

// v3 mounts need more options: their side protocols are in clear, and say
// which transport they use.
const (
	v3     = "vers=3,nolock,proto=tcp,mountproto=tcp"
	v3IPv6 = "vers=3,nolock,proto=tcp6,mountproto=tcp6"
)

func (w *world) testMounts(t *testing.T) {
	client, server := w.both(t)
	for _, vers := range []string{"vers=4.2", "vers=4.1", v3} {
		for _, address := range []struct{ name, host string }{
			{"name", "server.test"}, {"IPv4", w.server.IPv4().String()}, {"IPv6", "[" + w.server.IPv6().String() + "]"},
		} {
			for _, sec := range []string{"tls", "mtls"} {
				name, _, _ := strings.Cut(vers, ",")
				t.Run(fmt.Sprintf("%s by %s with %s", name, address.name, sec), func(t *testing.T) {
					dir, options := mountPoint(t), vers
					if vers == v3 && address.name == "IPv6" {
						options = v3IPv6
					}
					guest.Mount(t, w.client, address.host+":"+exportBoth, dir, options+",xprtsec="+sec)
					use(t, dir, 1)
					w.wantTLS(t, w.client, ktls.AES128GCM)
					guest.Unmount(t, w.client, dir)
				})
			}
		}
	}
	client.said(t, `handshake success .*peer="server\.test \([0-9a-f:.\[\]]+:2049\)" .*cipher=AES-128-GCM group=X25519MLKEM768 alpn=sunrpc subject="?CN=server"? fingerprint=[0-9a-f]{64} .*errno=0`)
	server.said(t, `handshake success .*subject="?CN=client"? fingerprint=`)
	if n := client.count("handshake failure") + server.count("handshake failure"); n != 0 {
		t.Errorf("%d handshakes failed", n)
	}
}

// What the exports' xprtsec makes of what the daemon reports.
func (w *world) testExportPolicies(t *testing.T) {
	w.both(t)
	for _, tt := range []struct {
		export, sec string
		ok          bool
	}{
		{exportTLS, "tls", true},
		{exportTLS, "mtls", false}, // the kernel refuses clients that authenticated
		{exportMTLS, "tls", false},
		{exportMTLS, "mtls", true},
		{exportBoth, "tls", true},
		{exportBoth, "mtls", true},
		{exportBoth, "none", false},
	} {
		t.Run(filepath.Base(tt.export)+" with "+tt.sec, func(t *testing.T) {
			err := guest.TryMount(t, w.client, "server.test:"+tt.export, mountPoint(t), "vers=4.2,xprtsec="+tt.sec, 30*time.Second)
			if (err == nil) != tt.ok {
				t.Errorf("mount: %v, want success %v", err, tt.ok)
			}
		})
	}
}

func (w *world) testNconnect(t *testing.T) {
	client, _ := w.both(t)
	dir := w.mount(t, exportBoth, "vers=4.2,nconnect=4,xprtsec=mtls")
	const files = 8
	var sums [files]guest.Sum
	each := func(f func(i int, name string)) {
		var wg sync.WaitGroup
		for i := range files {
			wg.Go(func() { f(i, filepath.Join(dir, fmt.Sprintf("parallel-%d", i))) })
		}
		wg.Wait()
	}
	each(func(i int, name string) { sums[i] = guest.WriteRandom(t, name, uint64(i), 1) })
	// Once, and not beside the reads: in one kernel, an open may hold the
	// session slot that the eviction of the same inode waits for.
	guest.DropCaches(t)
	each(func(i int, name string) {
		if got := guest.SumFile(t, name); got != sums[i] {
			t.Errorf("%s: contents are %v, want %v", name, got, sums[i])
		}
	})
	if n := len(w.nfsSockets(t, w.client)); n != 4 {
		t.Errorf("%d connections with kernel TLS, want 4", n)
	}
	w.wantTLS(t, w.client, ktls.AES128GCM)
	w.waitCount(t, client, "handshake success", 4)
}

// testBulk writes 256 MiB and reads them back, in eight files; on a machine that
// takes minutes for them, as many as it writes in one.
func (w *world) testBulk(t *testing.T) {
	w.both(t)
	dir := w.mount(t, exportBoth, "vers=4.2,xprtsec=mtls")
	const files, each = 8, 32
	var sums []guest.Sum
	file := func(i int) string { return fmt.Sprintf("/bulk-%d", i) }
	began := time.Now()
	for i := 0; i < files && (i == 0 || time.Since(began) < time.Minute); i++ {
		sums = append(sums, guest.WriteRandom(t, dir+file(i), uint64(i), each))
	}
	t.Logf("wrote %d MiB in %v", len(sums)*each, time.Since(began))
	guest.DropCaches(t)
	began = time.Now()
	for i, sum := range sums {
		guest.CheckFile(t, dir+file(i), sum)
		guest.CheckFile(t, exportBoth+file(i), sum)
	}
	t.Logf("read %d MiB in %v, here and there", len(sums)*each, time.Since(began))
	w.wantTLS(t, w.client, ktls.AES128GCM)
	for i := range sums {
		if err := os.Remove(dir + file(i)); err != nil {
			t.Error(err)
		}
	}
}

// What is on the wire holds nothing of a file: neither its name nor its bytes.
// The same over a connection in clear holds both, or the look would be blind.
func (w *world) testWire(t *testing.T) {
	w.both(t)
	clear := guest.Export{Path: "/srv/clear", XprtSec: "none"}
	w.nfsd.Export(t, clear)
	secret := bytes.Repeat([]byte("kolibri-4711 "), 1000)
	for _, tt := range []struct {
		sec, export string
		visible     bool
	}{{"none", clear.Path, true}, {"mtls", exportMTLS, false}} {
		t.Run(tt.sec, func(t *testing.T) {
			dir := mountPoint(t)
			capture := guest.Capture(t, w.client, w.client.Interfaces()[0], "port", "2049")
			guest.Mount(t, w.client, "server.test:"+tt.export, dir, "vers=4.2,xprtsec="+tt.sec)
			name := filepath.Join(dir, "albatross-0815")
			if err := os.WriteFile(name, secret, 0o644); err != nil {
				t.Fatal(err)
			}
			guest.Unmount(t, w.client, dir)
			capture.Stop(t)
			for _, what := range []string{"kolibri-4711", "albatross-0815"} {
				if got := capture.Contains(t, []byte(what)); got != tt.visible {
					t.Errorf("%q is on the wire: %v", what, got)
				}
			}
		})
	}
}

// noAES makes a Go program believe that its processor has no AES.
const noAES = "GODEBUG=cpu.aes=off"

// crypto/tls prefers AES-128-GCM, and ChaCha20 on processors without AES. The
// third cipher is chosen by a peer, in testTLSHD.
func (w *world) testCiphers(t *testing.T) {
	client := run(t, w.client, "rpctlscd", w.clientConfig(), noAES)
	run(t, w.server, "rpctlssd", w.serverConfig(), noAES)
	dir := w.mount(t, exportBoth, "vers=4.2,xprtsec=mtls")
	use(t, dir, 1)
	w.wantTLS(t, w.client, ktls.ChaCha20Poly1305)
	client.said(t, "cipher=ChaCha20-Poly1305")
}

// Client and server on one host, with both daemons: either may get the
// other's requests.
func (w *world) testOneHost(t *testing.T) {
	client := run(t, w.server, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.serverConfig())
	for i := range 6 { // who gets what is a race, and both ways must work
		dir := fmt.Sprintf("%s-%d", mountPoint(t), i)
		guest.Mount(t, w.server, "server.test:"+exportBoth, dir, "vers=4.2,xprtsec=mtls")
		use(t, dir, 1)
		w.wantTLS(t, w.server, ktls.AES128GCM)
		guest.Unmount(t, w.server, dir)
	}
	t.Logf("handed over: %d by rpctlscd, %d by rpctlssd", client.count("request handed over"), server.count("request handed over"))
	if n := client.count("handshake success"); n < 6 {
		t.Errorf("%d client handshakes", n)
	}
}

// The sibling that has never run, and the one that is being restarted.
func (w *world) testSibling(t *testing.T) {
	t.Run("not installed", func(t *testing.T) {
		if err := os.RemoveAll("/run/rpctls-server"); err != nil {
			t.Fatal(err)
		}
		server := run(t, w.server, "rpctlssd", w.serverConfig())
		began := time.Now()
		err := guest.MountErr(t, w.server, "server.test:"+exportBoth, mountPoint(t), "vers=4.2,xprtsec=tls", 20*time.Second)
		t.Logf("refused after %v: %v", time.Since(began), err)
		server.said(t, `cannot serve a request .*role=client .*reason=sibling_not_installed .*missing=rpctlscd .*errno=EOPNOTSUPP`)
	})
	t.Run("restarting", func(t *testing.T) {
		server := run(t, w.server, "rpctlssd", w.serverConfig())
		client := run(t, w.server, "rpctlscd", w.clientConfig())
		client.stop(t)
		dir := mountPoint(t)
		trace := guest.Trace(t, "handshake:handshake_cmd_accept")
		done := make(chan error, 1)
		go func() {
			done <- guest.TryMount(t, w.server, "server.test:"+exportBoth, dir, "vers=4.2,xprtsec=mtls", time.Minute)
		}()
		guest.Poll(t, guest.CommandLimit, "rpctlssd to accept the client's request", func() error {
			if len(trace.Lines(t)) == 0 {
				return errors.New("nothing accepted yet")
			}
			return nil
		})
		runWith(t, w.server, "rpctlscd", client.config)
		if err := <-done; err != nil {
			t.Fatalf("mount while the daemon was restarting: %v", err)
		}
		use(t, dir, 1)
		server.said(t, `request handed over role=client`)
	})
}
