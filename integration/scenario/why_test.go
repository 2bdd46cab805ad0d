// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

// TestWhy is the table of what goes wrong with a mount, and of what mount(8) and
// rpctlsctl doctor say of it: the cause, and no other.
func TestWhy(t *testing.T) {
	guest.RequireVM(t)
	w := newWorld(t)
	link(t, binary("mount.nfstls"), "/usr/sbin/mount.nfstls")
	w.prepareWhy(t)
	for _, c := range w.whyCases(t) {
		t.Run(c.name, func(t *testing.T) { w.why(t, c) })
	}
	t.Run("a reconnect", w.whyReconnect)
	t.Run("on the server", w.whyServer)
	t.Run("all is well", w.whyNothing)
}

// A whyCase is one way in which a mount fails.
type whyCase struct {
	name           string
	client, server string // configurations; none: that daemon does not run
	// happen makes it fail, once the daemons run.
	happen func(t *testing.T, client *daemon)
	// mount are its options, source what is mounted.
	options, source string

	// What is said, after usual has replaced what differs from run to run.
	mount, doctor string
}

// none is the configuration of a daemon that is not started.
const none = "-"

// Options that keep a mount which hangs from doing so for long.
const quick = ",retry=0,timeo=20,retrans=0"

func (w *world) why(t *testing.T, c whyCase) {
	server := none
	if c.server != none {
		server = configure(t, w.server, "rpctlssd", c.server)
		p := runWith(t, w.server, "rpctlssd", server)
		defer p.Stop(t, 20*time.Second)
	}
	text, start := strings.CutPrefix(c.client, none)
	client := &daemon{config: configure(t, w.client, "rpctlscd", text)}
	if !start {
		client.Proc = runWith(t, w.client, "rpctlscd", client.config)
		defer client.Stop(t, 20*time.Second)
	}
	if c.happen != nil {
		c.happen(t, client)
	}
	options := c.options
	if !strings.Contains(options, "timeo=") {
		options += quick
	}
	dir := mountPoint(t)
	began := time.Now()
	got := w.helper(t, client, dir, "-t", "nfstls", "-o", options, c.source)
	took := time.Since(began)
	if _, ok := mountAt(t, dir); ok || got.code != 32 {
		t.Errorf("mount: exit status %d, mounted %v", got.code, ok)
	}
	w.said(t, "mount", got.stderr, c.mount, dir)

	option, _, _ := strings.Cut(c.options, ",")
	began = time.Now()
	got = w.doctor(t, w.client, client.config, none, "-o", option, c.source)
	t.Logf("mount took %v, doctor %v", took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if got.code != 1 || got.stderr != "" {
		t.Errorf("doctor: exit status %d\n%s", got.code, got.stderr)
	}
	w.said(t, "doctor", got.stdout, c.doctor, dir)
}

// doctor runs rpctlsctl doctor on a host.
func (w *world) doctor(t *testing.T, h *guest.Host, client, server string, args ...string) called {
	t.Helper()
	argv := []string{binary("rpctlsctl"), "doctor", "--timeout", "2s", "--client-config", client, "--server-config", server}
	return call(t, h, nil, append(argv, args...)...)
}

// What differs from run to run.
var whyUsual = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`/tmp/config-\d+/`), "CONFIG/"},
	{regexp.MustCompile(`\bSHA-256 [0-9A-Fa-f:]{64,95}`), "SHA-256 FP"},
	{regexp.MustCompile(`sha256:[0-9a-f]{64}`), "sha256:PIN"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`), "DATE"},
	{regexp.MustCompile(`serial [0-9a-f]+`), "serial N"},
	{regexp.MustCompile(`\(process \d+\)`), "(process N)"},
	{regexp.MustCompile(`(10\.77\.\d+\.\d+|\[fd77:[0-9a-f:]+\]):\d+->`), "HERE->"},
	{regexp.MustCompile(`10\.77\.\d+\.`), "10.77.N."},
	{regexp.MustCompile(`fd77:[0-9a-f]+::`), "fd77:N::"},
	{regexp.MustCompile(`in group \d+ `), "in group N "},
	{regexp.MustCompile(`/lib/modules/[^ :;]+`), "/lib/modules/RELEASE"},
}

func (w *world) said(t *testing.T, who, got, want, dir string) {
	t.Helper()
	got = strings.ReplaceAll(got, dir, "DIR")
	for _, u := range whyUsual {
		got = u.re.ReplaceAllString(got, u.with)
	}
	if want = strings.TrimPrefix(want, "\n"); got != want {
		t.Errorf("%s says:\n%swant:\n%s", who, got, want)
	}
}

// rogueServer has the rogue offer TLS and shake hands as it likes.
func (w *world) rogueServer(change func(*tls.Config)) func(*testing.T, *daemon) {
	return func(t *testing.T, _ *daemon) {
		cfg := w.tlsConfig(t, "rogue")
		change(cfg)
		w.serve(t, &rpctest.Server{TLS: cfg})
	}
}

// misbehave has the rogue offer TLS and do something else.
func (w *world) misbehave(f func(net.Conn)) func(*testing.T, *daemon) {
	return func(t *testing.T, _ *daemon) {
		w.serve(t, &rpctest.Server{TLS: &tls.Config{}, Handshake: func(_ context.Context, c net.Conn, _ *tls.Config) (net.Conn, error) {
			f(c)
			return nil, errors.New("misbehaved")
		}})
	}
}

// drain reads until the other side has enough.
func drain(c net.Conn) {
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	b := make([]byte, 4<<10)
	for {
		if _, err := c.Read(b); err != nil {
			return
		}
	}
}

// withoutTLSModule unloads the module and keeps it from being loaded, until the end
// of the test.
func withoutTLSModule(t *testing.T) {
	t.Helper()
	guest.Poll(t, guest.CommandLimit, "unloading tls", func() error {
		out, err := exec.Command("modprobe", "-r", "tls").CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	const helper = "/proc/sys/kernel/modprobe"
	old, err := os.ReadFile(helper)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(helper, []byte("/bin/false"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(helper, []byte(strings.TrimSpace(string(old))), 0); err != nil {
			t.Error(err)
		}
	})
}

// setClock sets the guest's clock until the end of the test.
func setClock(t *testing.T, to time.Time) {
	t.Helper()
	began, old := time.Now(), time.Now().Round(0)
	set := func(to time.Time) {
		tv := unix.NsecToTimeval(to.UnixNano())
		if err := unix.Settimeofday(&tv); err != nil {
			t.Fatal(err)
		}
	}
	set(to)
	t.Cleanup(func() { set(old.Add(time.Since(began))) })
}

// prepareWhy makes the certificates of the table.
func (w *world) prepareWhy(t *testing.T) {
	past := time.Now().Add(-time.Hour)
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: "another CA"})
	w.write(t, "other-ca.pem", other.PEM())
	// Long enough for nobody to be warned.
	lasting := time.Now().Add(90 * 24 * time.Hour)
	long := func(o certstest.Options) certstest.Options {
		o.NotAfter = lasting
		return o
	}
	w.issue(t, "server", long(serverOptions(w.server)))
	w.issue(t, "client", long(certstest.Options{CommonName: "client", DNS: []string{"client.test"}}))
	server := func(change func(*certstest.Options)) certstest.Options {
		o := long(serverOptions(w.server))
		change(&o)
		return o
	}
	expired := func(o *certstest.Options) { o.NotBefore, o.NotAfter = past.Add(-time.Hour), past }
	w.issue(t, "expired", server(expired))
	w.issue(t, "early", server(func(o *certstest.Options) {
		o.NotBefore, o.NotAfter = time.Now().Add(24*time.Hour), time.Now().Add(48*time.Hour)
	}))
	w.issue(t, "elsewhere", server(func(o *certstest.Options) { o.DNS, o.IPs = []string{"elsewhere.test"}, nil }))
	w.issue(t, "not-for-servers", server(func(o *certstest.Options) { o.EKU = certstest.OIDs{certstest.ClientAuth} }))
	w.issueBy(t, other, "unknown", long(serverOptions(w.server)))
	w.issue(t, "rogue", long(serverOptions(w.rogue)))
	w.issueBy(t, other, "stranger", long(certstest.Options{CommonName: "stranger"}))
	old := certstest.Options{CommonName: "client"}
	expired(&old)
	w.issue(t, "expired-client", old)
	revoked, revokedClient := w.ca.MustIssue(t, long(serverOptions(w.server))), w.ca.MustIssue(t, long(certstest.Options{CommonName: "client"}))
	for name, pair := range map[string]*certstest.Pair{"revoked": revoked, "revoked-client": revokedClient} {
		if err := os.MkdirAll(w.path(name), 0o755); err != nil {
			t.Fatal(err)
		}
		pair.MustWriteFiles(t, w.path(name))
	}
	w.write(t, "ca.crl", w.ca.MustCRL(t, certstest.Serials(revoked, revokedClient), past, time.Now().Add(30*24*time.Hour)))
	w.write(t, "stale.crl", w.ca.MustCRL(t, nil, past.Add(-time.Hour), past))
	open := w.path("open.key")
	key, err := os.ReadFile(w.path("client/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(open, key, 0o644), os.Chmod(open, 0o644)); err != nil {
		t.Fatal(err)
	}
}

func (w *world) crl(name string) string { return fmt.Sprintf("crl = [%q]\n", w.path(name)) }

func (w *world) whyCases(t *testing.T) []whyCase {
	rogue := w.rogue.FQDN() + ":/"
	client, server, anonymous := w.clientConfig(), w.serverConfig(), w.trust()
	shows := func(name string) string { return w.trust() + w.identity(name) }
	silent := strings.TrimSuffix(w.rogue.IPv4().String(), fmt.Sprint(w.rogue.IPv4().As4()[3])) + "99"
	const (
		mtlsExport = "server.test:" + exportMTLS
		tlsExport  = "server.test:" + exportTLS
	)
	return []whyCase{
		{
			name: "tls module missing", client: client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) {
				w.rogueServer(func(*tls.Config) {})(t, nil)
				withoutTLSModule(t)
			},
		},
		{
			name: "tls module missing at the start", client: none + client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) {
				w.rogueServer(func(*tls.Config) {})(t, nil)
				withoutTLSModule(t)
			},
		},
		{name: "no agent on the client", client: none + client, server: server, options: "tls", source: both},
		{
			name: "the agent is in another namespace", client: none + client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, client *daemon) { runWith(t, w.rogue, "rpctlscd", client.config) },
		},
		{name: "no agent on the server", client: client, server: none, options: "tls", source: both},
		{
			name: "server without TLS", client: client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) { w.serve(t, &rpctest.Server{}) },
		},
		{
			name: "server without NFSv4", client: client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) {
				old := func(c *rpc.Call) *rpc.Reply {
					return &rpc.Reply{XID: c.XID, AcceptStat: rpc.ProgMismatch, Low: 2, High: 3}
				}
				w.serve(t, &rpctest.Server{TLS: &tls.Config{}, Probe: old, Handler: old})
			},
		},
		{name: "expired", client: client, server: shows("expired"), options: "tls", source: both},
		{name: "not yet valid", client: client, server: shows("early"), options: "tls", source: both},
		{name: "wrong name", client: client, server: shows("elsewhere"), options: "tls", source: both},
		{name: "unknown CA", client: client, server: shows("unknown"), options: "tls", source: both},
		{name: "revoked", client: client + w.crl("ca.crl"), server: shows("revoked"), options: "tls", source: both},
		{name: "stale CRL", client: client + w.crl("stale.crl"), server: server, options: "tls", source: both},
		{name: "not for servers", client: client, server: shows("not-for-servers"), options: "tls", source: both},
		{
			name: "pinned", client: client + "[[server]]\nmatch = [\"server.test\"]\npin = [\"sha256:" + strings.Repeat("00", 32) + "\"]\n",
			server: server, options: "tls", source: both,
		},
		{name: "client certificate refused by CA", client: shows("stranger"), server: server, options: "mtls", source: both},
		{name: "client certificate expired", client: shows("expired-client"), server: server, options: "mtls", source: both},
		{name: "client certificate revoked", client: shows("revoked-client"), server: server + w.crl("ca.crl"), options: "mtls", source: both},
		{name: "client certificate demanded", client: anonymous, server: server + "client_certificate = \"require\"\n", options: "tls", source: both},
		{name: "none configured", client: anonymous, server: server, options: "mtls", source: both},
		{name: "not asked for a certificate", client: client, server: w.identity("server"), options: "mtls", source: both},
		{
			name: "key unreadable", server: server, options: "tls", source: both,
			client: none + w.trust() + fmt.Sprintf("certificate = %q\nprivate_key = %q\n", w.path("client/cert.pem"), w.path("open.key")),
		},
		{name: "export wants mtls", client: anonymous, server: server, options: "tls", source: mtlsExport},
		{name: "export tls-only met by mtls", client: client, server: server, options: "mtls", source: tlsExport},
		{name: "no such export", client: client, server: server, options: "tls", source: "server.test:/srv/nothing"},
		{name: "no such name", client: client, server: none, options: "tls", source: "nowhere.test:/x"},
		{
			name: "TLS 1.2 peer", client: client, server: none, options: "tls", source: rogue,
			happen: w.rogueServer(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
		},
		{
			name: "ALPN mismatch", client: client, server: none, options: "tls", source: rogue,
			happen: w.rogueServer(func(c *tls.Config) { c.NextProtos = []string{"h2"} }),
		},
		{
			name: "not TLS", client: client, server: none, options: "tls", source: rogue,
			happen: w.misbehave(func(c net.Conn) {
				c.Read(make([]byte, 4<<10))
				c.Write([]byte("\x00\x01garbage and more"))
				drain(c)
			}),
		},
		{name: "port closed", client: client, server: none, options: "tls", source: rogue},
		{
			name: "packets dropped", client: client, server: none, options: "tls", source: silent + ":/x",
			happen: func(t *testing.T, _ *daemon) {
				// The switch floods what is for an address that nobody has.
				link := w.client.Interfaces()[0]
				w.client.Run(t, "ip", "neigh", "replace", silent, "lladdr", "02:00:00:00:00:99", "dev", link, "nud", "permanent")
				t.Cleanup(func() { w.client.Run(t, "ip", "neigh", "del", silent, "dev", link) })
			},
		},
		{
			name: "no way", client: client, server: none, options: "tls", source: silent + ":/x",
			happen: func(t *testing.T, _ *daemon) {
				w.client.Run(t, "ip", "route", "add", "unreachable", silent)
				t.Cleanup(func() { w.client.Run(t, "ip", "route", "del", "unreachable", silent) })
			},
		},
		{
			name: "stalled peer", client: client, server: none, options: "tls,retry=0,timeo=150,retrans=0", source: rogue,
			happen: w.misbehave(drain),
		},
		{
			name: "clock in 1970", client: client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, _ *daemon) { setClock(t, time.Unix(0, 0).Add(36*time.Hour)) },
		},
		{
			name: "tlshd also running", client: client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, client *daemon) {
				// It has to be first: whoever is gets the request.
				p := w.tlshdTrusting(t, w.client, "client", "other-ca.pem")
				w.client.Run(t, "chrt", "--fifo", "--all-tasks", "--pid", "50", fmt.Sprint(p.PID()))
				w.client.Run(t, "chrt", "--idle", "--all-tasks", "--pid", "0", fmt.Sprint(client.PID()))
			},
		},
	}
}

// A mount that exists, whose server cannot be verified any more, hangs: that is
// seen from beside it.
func (w *world) whyReconnect(t *testing.T) {
	client := run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.serverConfig())
	dir := w.mount(t, exportBoth, "vers=4.2,xprtsec=mtls")
	use(t, dir, 1)
	server.stop(t)
	server = run(t, w.server, "rpctlssd", w.trust()+w.identity("unknown"))
	w.cut(t)
	go os.Stat(filepath.Join(dir, "hangs"))
	client.said(t, failure("unknown_ca", "ETIMEDOUT"))
	got := w.doctor(t, w.client, client.config, none, both)
	w.said(t, "doctor", got.stdout, ``, dir)
	server.stop(t)
	run(t, w.server, "rpctlssd", w.serverConfig())
	guest.DropCaches(t)
	use(t, dir, 2)
	guest.Unmount(t, w.client, dir)
}

// What a server says of itself.
func (w *world) whyServer(t *testing.T) {
	const etab = "/var/lib/nfs/etab" // the server's own is in its mount namespace
	if err := os.MkdirAll(filepath.Dir(etab), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(etab) })
	for _, c := range []struct {
		name, server string
		down         bool
		exports      bool
		want         string
	}{
		{"no agent", none + w.serverConfig(), false, false, ``},
		{"expired", w.trust() + w.identity("expired"), false, false, ``},
		{"key unreadable", none + w.trust() + fmt.Sprintf("certificate = %q\nprivate_key = %q\n", w.path("client/cert.pem"), w.path("open.key")), false, false, ``},
		{"exports refuse those who authenticate", w.serverConfig(), false, true, ``},
		{"exports demand what nobody asks for", w.identity("server"), false, true, ``},
		{"nfsd does not run", w.serverConfig(), true, false, ``},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, stopped := strings.CutPrefix(c.server, none)
			config := configure(t, w.server, "rpctlssd", text)
			if !stopped {
				p := runWith(t, w.server, "rpctlssd", config)
				defer p.Stop(t, 20*time.Second)
			}
			if c.down {
				w.nfsd.Down(t)
				defer w.nfsd.Up(t)
			}
			if c.exports {
				if err := os.WriteFile(etab, []byte(w.nfsd.Run(t, "cat", etab)), 0o644); err != nil {
					t.Fatal(err)
				}
				defer os.Remove(etab)
			}
			got := w.doctor(t, w.server, none, config)
			if got.code != 1 {
				t.Errorf("exit status %d", got.code)
			}
			w.said(t, "doctor", got.stdout, c.want, "")
		})
	}
}

// What is not wrong is not found wrong, and the mount that is proposed works.
func (w *world) whyNothing(t *testing.T) {
	client, server := w.both(t)
	for _, h := range []struct {
		host *guest.Host
		args []string
	}{
		{w.server, nil}, {w.client, nil},
		{w.client, []string{both}}, {w.client, []string{"-o", "xprtsec=tls", "server.test:" + exportTLS}}, {w.client, []string{"[" + w.server.IPv6().String() + "]:" + exportMTLS}},
	} {
		clientConfig, serverConfig := client.config, none
		if h.host == w.server {
			clientConfig, serverConfig = none, server.config
		}
		got := w.doctor(t, h.host, clientConfig, serverConfig, h.args...)
		if got.code != 0 || !strings.HasPrefix(got.stdout, "nothing is wrong\n") {
			t.Errorf("%s %v: %d\n%s%s", h.host.Name, h.args, got.code, got.stdout, got.stderr)
		}
		if m := regexp.MustCompile(`do:   mount -t nfstls -o (\S+) (\S+) /mnt`).FindStringSubmatch(got.stdout); m != nil {
			dir := mountPoint(t)
			if c := w.helper(t, client, dir, "-t", "nfstls", "-o", m[1], m[2]); c.code != 0 {
				t.Errorf("%q: %d\n%s", m[0], c.code, c.stderr)
			} else {
				unmount(t, w, dir)
			}
		} else if len(h.args) > 0 {
			t.Errorf("%v: no mount is proposed\n%s", h.args, got.stdout)
		}
	}
	t.Run("probe", func(t *testing.T) {
		got := call(t, w.client, nil, binary("rpctlsctl"), "probe", "--config", client.config, both)
		t.Log(got.stdout)
		if got.code != 0 {
			t.Errorf("%d\n%s", got.code, got.stderr)
		}
		for _, want := range []string{"TLS 1.3, TLS_AES_128_GCM_SHA256, ", "ALPN sunrpc", "server       ok", "certificate  shown", "export       ", "NFSv4.1"} {
			if !strings.Contains(got.stdout, want) {
				t.Errorf("it does not say %q", want)
			}
		}
		// Neither root nor a configuration is needed to look.
		got = call(t, w.client, nil, "setpriv", "--reuid", "1000", "--clear-groups", binary("rpctlsctl"), "probe", "--trust", w.path("ca.pem"), "server.test")
		if got.code != 0 || !strings.Contains(got.stdout, "server       ok") {
			t.Errorf("as a user: %d\n%s%s", got.code, got.stdout, got.stderr)
		}
	})
}
