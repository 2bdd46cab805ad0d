// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
	"rpctls/ktls"
	"rpctls/rpc"
)

// TestScenarios is the table. One world serves all of it: a server and a
// client on a network, a third host for peers that misbehave, and an NFS
// server with an export for each policy.
func TestScenarios(t *testing.T) {
	guest.RequireVM(t)
	w := newWorld(t)
	for _, s := range []struct {
		name string
		run  func(*world, *testing.T)
	}{
		{"start-up", (*world).testStartUp},
		{"mounts", (*world).testMounts},
		{"export policies", (*world).testExportPolicies},
		{"connections in parallel", (*world).testNconnect},
		{"bulk", (*world).testBulk},
		{"wire", (*world).testWire},
		{"ciphers", (*world).testCiphers},
		{"one host", (*world).testOneHost},
		{"sibling", (*world).testSibling},
		{"peer tlshd", (*world).testTLSHD},
		{"what follows Finished", (*world).testWhatFollowsFinished},
		{"daemons restart", (*world).testRestart},
		{"connection is cut", (*world).testCut},
		{"trust is lost and restored", (*world).testTrustHeals},
		{"first mount is refused", (*world).testFirstMountRefused},
		{"reload", (*world).testReload},
		{"bad clients", (*world).testBadClients},
		{"bad servers", (*world).testBadServers},
		{"few descriptors", (*world).testFewDescriptors},
		{"notifications are lost", (*world).testOverflow},
		{"a thousand handshakes", (*world).testThousand},
		{"faults", (*world).testFaults},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(w, t) })
	}
	w.checkDecryption(t)
}

type world struct {
	server, client, rogue *guest.Host
	nfsd                  *guest.NFSD
	ca                    *certstest.CA
	dir                   string // with the certificates
}

// What is exported, by policy.
const (
	exportTLS  = "/srv/tls"  // xprtsec=tls
	exportMTLS = "/srv/mtls" // xprtsec=mtls
	exportBoth = "/srv/both" // xprtsec=tls:mtls
)

func newWorld(t *testing.T) *world {
	w := &world{
		server: guest.NewHost(t, "server"), client: guest.NewHost(t, "client"), rogue: guest.NewHost(t, "rogue"),
		ca: certstest.MustCA(t, certstest.CAOptions{CommonName: "scenario CA"}), dir: "/certs",
	}
	guest.Join(t, w.server, w.client, w.rogue)
	if err := os.MkdirAll(w.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "ca.pem", w.ca.PEM())
	w.issue(t, "server", serverOptions(w.server))
	w.issue(t, "client", certstest.Options{CommonName: "client", DNS: []string{"client.test"}})
	w.nfsd = guest.StartNFSD(t, w.server, guest.NFSDConfig{Exports: []guest.Export{
		{Path: exportTLS, XprtSec: "tls"}, {Path: exportMTLS, XprtSec: "mtls"}, {Path: exportBoth, XprtSec: "tls:mtls"},
	}})
	return w
}

func serverOptions(h *guest.Host) certstest.Options {
	return certstest.Options{CommonName: h.Name, DNS: []string{h.FQDN()}, IPs: []string{h.IPv4().String(), h.IPv6().String()}}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(w.path(name), b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// issue makes certificate and key of the world's CA and returns the
// configuration lines about them.
func (w *world) issue(t *testing.T, name string, o certstest.Options) string {
	t.Helper()
	return w.issueBy(t, w.ca, name, o)
}

func (w *world) issueBy(t *testing.T, ca *certstest.CA, name string, o certstest.Options) string {
	t.Helper()
	if err := os.MkdirAll(w.path(name), 0o755); err != nil {
		t.Fatal(err)
	}
	ca.MustIssue(t, o).MustWriteFiles(t, w.path(name))
	return w.identity(name)
}

func (w *world) identity(name string) string {
	return fmt.Sprintf("certificate = %q\nprivate_key = %q\n", w.path(name+"/cert.pem"), w.path(name+"/key.pem"))
}

func (w *world) trust() string { return fmt.Sprintf("trust = %q\n", w.path("ca.pem")) }

// clientConfig and serverConfig are for mutual TLS.
func (w *world) clientConfig() string { return w.trust() + w.identity("client") }
func (w *world) serverConfig() string { return w.trust() + w.identity("server") }

// A daemon is one of ours, running.
type daemon struct {
	*guest.Proc
	config string // path
}

// binary is where the payload has a program.
func binary(name string) string { return "/payload/bin/" + name }

// configure writes a configuration file for a daemon on h.
func configure(t *testing.T, h *guest.Host, name, text string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "config-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, name+".toml")
	text = fmt.Sprintf("log_level = \"debug\"\nruntime_directory = \"/run/rpctls-%s\"\n", h.Name) + text
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// run starts a daemon on h and waits until it is ready.
func run(t *testing.T, h *guest.Host, name, text string, env ...string) *daemon {
	t.Helper()
	config := configure(t, h, name, text)
	return &daemon{runWith(t, h, name, config, env...), config}
}

func runWith(t *testing.T, h *guest.Host, name, config string, env ...string) *guest.Proc {
	t.Helper()
	p := guest.Start(t, h, name+"-"+h.Name, []string{binary(name), "-config", config}, env...)
	p.WaitLine(t, regexp.MustCompile(`: ready status=`), guest.CommandLimit)
	return p
}

// stop ends a daemon in order and fails the test if it does not go well.
func (d *daemon) stop(t *testing.T) {
	t.Helper()
	if err := d.Stop(t, 20*time.Second); err != nil {
		t.Errorf("%s: %v", d.Name, err)
	}
}

// both starts the two daemons on their hosts, for mutual TLS, until the end of
// the test.
func (w *world) both(t *testing.T) (client, server *daemon) {
	t.Helper()
	return run(t, w.client, "rpctlscd", w.clientConfig()), run(t, w.server, "rpctlssd", w.serverConfig())
}

// said waits for a line.
func (d *daemon) said(t *testing.T, pattern string) string {
	t.Helper()
	return d.WaitLine(t, regexp.MustCompile(pattern), guest.CommandLimit)
}

// count counts lines.
func (d *daemon) count(pattern string) int {
	return len(regexp.MustCompile(pattern).FindAllString(d.Output(), -1))
}

// mountPoint is a directory for a mount of this test.
func mountPoint(t *testing.T) string {
	return "/mnt/" + regexp.MustCompile(`[^A-Za-z0-9]+`).ReplaceAllString(t.Name(), "-")
}

// mount mounts an export of the server in the client, and returns where.
func (w *world) mount(t *testing.T, export, options string) string {
	t.Helper()
	dir := mountPoint(t)
	guest.Mount(t, w.client, "server.test:"+export, dir, options)
	return dir
}

// use writes and reads a file through a mount.
func use(t *testing.T, dir string, seed uint64) {
	t.Helper()
	name := filepath.Join(dir, fmt.Sprintf("file-%d", seed))
	sum := guest.WriteRandom(t, name, seed, 1)
	guest.CheckFile(t, name, sum)
	if err := os.Remove(name); err != nil {
		t.Error(err)
	}
}

// nfsSockets are the client's connections to the server with kernel TLS.
func (w *world) nfsSockets(t *testing.T, h *guest.Host) (found []guest.TLSSocket) {
	t.Helper()
	for _, s := range guest.TLSSockets(t, h) {
		if s.Peer.Port() == 2049 && s.State == "ESTAB" {
			found = append(found, s)
		}
	}
	return found
}

// wantTLS verifies that the client's connections carry TLS in the kernel, both
// ways, with the cipher. ss does not name every cipher, so the kernel's own
// statement is asked for beside it.
func (w *world) wantTLS(t *testing.T, h *guest.Host, cipher ktls.Cipher) {
	t.Helper()
	sockets := w.nfsSockets(t, h)
	if len(sockets) == 0 {
		t.Errorf("%s has no connection with kernel TLS", h.Name)
	}
	for _, s := range sockets {
		if s.Version != "1.3" || s.RX != "sw" || s.TX != "sw" {
			t.Errorf("%v to %v: %+v, want TLS 1.3 in software both ways", s.Local, s.Peer, s.SocketTLS)
		}
	}
	for _, d := range guest.DiagTLS(t, h, 2049) {
		if ktls.Cipher(d.Cipher) != cipher {
			t.Errorf("%v to %v: %v, want %v", d.Local, d.Peer, ktls.Cipher(d.Cipher), cipher)
		}
	}
}

// checkDecryption: in all of it, not one record failed to decrypt.
func (w *world) checkDecryption(t *testing.T) {
	for _, h := range []*guest.Host{w.server, w.client} {
		stat := guest.TLSStat(t, h)
		if n, ok := stat["TlsDecryptError"]; !ok || n != 0 {
			t.Errorf("%s: TlsDecryptError is %d (%v)", h.Name, n, ok)
		}
	}
}

// dial connects to port 2049 of an address from within a host.
func dial(t *testing.T, from *guest.Host, to netip.Addr) *net.TCPConn {
	t.Helper()
	var conn *net.TCPConn
	var err error
	derr := from.Do(func() {
		conn, err = net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.AddrPortFrom(to, 2049)))
	})
	if derr != nil || err != nil {
		t.Fatalf("dial %v: %v, %v", to, derr, err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// probed connects and gets the server's STARTTLS.
func probed(t *testing.T, from *guest.Host, to netip.Addr) *net.TCPConn {
	t.Helper()
	conn := dial(t, from, to)
	ctx, cancel := context.WithTimeout(context.Background(), guest.CommandLimit)
	defer cancel()
	if err := rpc.Probe(ctx, conn, rpc.ProgramNFS, rpc.NFSVersion4); err != nil {
		t.Fatalf("probe: %v", err)
	}
	return conn
}

// reset ends a connection with a RST.
func reset(c *net.TCPConn) {
	c.SetLinger(0)
	c.Close()
}

// failure is the pattern of a log line about a failed handshake.
func failure(reason, errno string) string {
	return fmt.Sprintf(`handshake failure .*reason=%s .*errno=%s`, reason, errno)
}
