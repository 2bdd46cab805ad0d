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
const quick = ",proto=tcp,vers=4.2,retry=0,timeo=20,retrans=0"

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
	if dir != "" {
		got = strings.ReplaceAll(got, dir, "DIR")
	}
	for _, u := range whyUsual {
		got = u.re.ReplaceAllString(got, u.with)
	}
	// There may be two ways in which the kernel comes to know it.
	for one := range strings.SplitSeq(want, "\nor\n") {
		if strings.Trim(got, "\n") == strings.Trim(one, "\n") {
			return
		}
	}
	t.Errorf("%s says:\n%swant:\n%s", who, got, want)
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

// daemonsUser makes the user that the packages make, until the end of the test.
func daemonsUser(t *testing.T) {
	t.Helper()
	for file, line := range map[string]string{
		"/etc/passwd": fmt.Sprintf("rpctls:x:%d:%[1]d::/:/usr/sbin/nologin\n", daemonUser),
		"/etc/group":  fmt.Sprintf("rpctls:x:%d:\n", daemonUser),
	} {
		old, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, append(old, line...), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.WriteFile(file, old, 0o644); err != nil {
				t.Error(err)
			}
		})
	}
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
			// The kernel has asked the daemon, or knows it by itself.
			mount: `
mount.nfstls: rogue.test:/: this host's kernel has no TLS
hint: modprobe tls
or
mount.nfstls: rogue.test:/: the server does not ask for a certificate: trying without
mount.nfstls: rogue.test:/: TLS handshake failed (no_kernel_tls): this host's kernel has no TLS: install kernel tls: TCP_ULP (AES-128-GCM): no such file or directory (the kernel module tls is not loaded: modprobe tls)
hint: modprobe tls
`,
			doctor: `
this host's kernel has no TLS
    seen: install kernel tls: TCP_ULP (AES-128-GCM): no such file or directory (the kernel module tls is not loaded: modprobe tls)
    do:   modprobe tls
`,
		},
		{
			name: "tls module missing at the start", client: none + client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) {
				w.rogueServer(func(*tls.Config) {})(t, nil)
				withoutTLSModule(t)
			},
			mount: `
mount.nfstls: rogue.test:/: this host's kernel has no TLS
hint: modprobe tls
`,
			doctor: `
this host's kernel has no TLS
    seen: install kernel tls: TCP_ULP (AES-128-GCM): no such file or directory (the kernel module tls is not loaded: modprobe tls)
    do:   modprobe tls
`,
		},
		{
			name: "no agent on the client", client: none + client, server: server, options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: nobody answers the kernel's request for a TLS handshake: rpctlscd is not running
hint: systemctl enable --now rpctlscd
`,
			doctor: `
nobody answers the kernel's request for a TLS handshake: rpctlscd is not running
    seen: nobody listens on /run/rpctls-client/rpctlscd.sock
    do:   systemctl enable --now rpctlscd
`,
		},
		{
			name: "the agent is in another namespace", client: none + client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, client *daemon) { runWith(t, w.rogue, "rpctlscd", client.config) },
			mount: `
mount.nfstls: server.test:/srv/both: nobody answers the kernel's request for a TLS handshake, though rpctlscd is running: in another network namespace?
hint: run rpctlscd in the network namespace of the mount
`,
			doctor: `
nobody answers the kernel's request for a TLS handshake, though rpctlscd is running: in another network namespace?
    seen: its socket is not in group N of this network namespace
    do:   run rpctlscd in the network namespace of the mount
`,
		},
		{
			name: "no agent on the server", client: client, server: none, options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (closed): the server agreed to TLS and hung up: no agent answers its kernel: tls client handshake: EOF
hint: on the server: systemctl enable --now rpctlssd
`,
			doctor: `
the server agreed to TLS and hung up: no agent answers its kernel
    seen: 10.77.N.1:2049: tls client handshake: EOF
    do:   on the server: systemctl enable --now rpctlssd
`,
		},
		{
			name: "server without TLS", client: client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) { w.serve(t, &rpctest.Server{}) },
			mount: `
mount.nfstls: rogue.test:/: the server does not offer TLS
hint: on the server: uname -r: a Linux server needs 6.4 or later, and rpctlssd
`,
			doctor: `
the server does not offer TLS
    seen: 10.77.N.3:2049: server does not offer TLS: call denied: AUTH_ERROR, AUTH_BADCRED
    do:   on the server: uname -r: a Linux server needs 6.4 or later, and rpctlssd
`,
		},
		{
			name: "server without NFSv4", client: client, server: none, options: "tls", source: rogue,
			happen: func(t *testing.T, _ *daemon) {
				old := func(c *rpc.Call) *rpc.Reply {
					return &rpc.Reply{XID: c.XID, AcceptStat: rpc.ProgMismatch, Low: 2, High: 3}
				}
				w.serve(t, &rpctest.Server{TLS: &tls.Config{}, Probe: old, Handler: old})
			},
			mount: `
mount.nfstls: rogue.test:/: the server on port 2049 of rogue.test does not offer NFSv4
hint: on the server: cat /proc/fs/nfsd/versions
`,
			doctor: `
the server on port 2049 of rogue.test does not offer NFSv4
    seen: 10.77.N.3:2049: procedure 0: call failed: PROG_MISMATCH (supported versions: 2 to 3)
    do:   on the server: cat /proc/fs/nfsd/versions
`,
		},
		{
			name: "expired", client: client, server: shows("expired"), options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (expired): the server's certificate has expired: tls client handshake: verify certificate "CN=server" (SHA-256 FP): expired DATE
hint: on the server: rpctlsctl cert renew --due
`,
			doctor: `
the server's certificate has expired
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): expired DATE
    do:   on the server: rpctlsctl cert renew --due
`,
		},
		{
			name: "not yet valid", client: client, server: shows("early"), options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (not_yet_valid): the server's certificate is not valid yet: this host's clock, or that of its CA, is wrong: tls client handshake: verify certificate "CN=server" (SHA-256 FP): not valid before DATE
hint: timedatectl
`,
			doctor: `
the server's certificate is not valid yet: this host's clock, or that of its CA, is wrong
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): not valid before DATE
    do:   timedatectl
`,
		},
		{
			name: "wrong name", client: client, server: shows("elsewhere"), options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (wrong_name): the server's certificate is for other names than the mount uses: tls client handshake: verify certificate "CN=server" (SHA-256 FP): want "server.test", certificate has "dns:elsewhere.test"
hint: on the server: rpctlsctl cert server NAME...
`,
			doctor: `
the server's certificate is for other names than the mount uses
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): want "server.test", certificate has "dns:elsewhere.test"
    do:   on the server: rpctlsctl cert server NAME...
`,
		},
		{
			name: "unknown CA", client: client, server: shows("unknown"), options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (unknown_ca): this host does not trust the CA that issued the server's certificate: tls client handshake: verify certificate "CN=server" (SHA-256 FP): no trusted CA issued it (issuer "CN=another CA"): x509: certificate signed by unknown authority
hint: rpctlsctl cert trust CA.pem
`,
			doctor: `
this host does not trust the CA that issued the server's certificate
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): no trusted CA issued it (issuer "CN=another CA"): x509: certificate signed by unknown authority
    do:   rpctlsctl cert trust CA.pem
`,
		},
		{
			name: "revoked", client: client + w.crl("ca.crl"), server: shows("revoked"), options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (revoked): the server's certificate is revoked: tls client handshake: verify certificate "CN=server" (SHA-256 FP): serial N is revoked by CN=scenario CA in /certs/ca.crl
hint: on the server: rpctlsctl cert server NAME...
`,
			doctor: `
the server's certificate is revoked
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): serial N is revoked by CN=scenario CA in /certs/ca.crl
    do:   on the server: rpctlsctl cert server NAME...
`,
		},
		{
			name: "stale CRL", client: client + w.crl("stale.crl"), server: server, options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (no_revocation_info): there is no fresh CRL of the CA that issued the server's certificate: tls client handshake: verify certificate "CN=server" (SHA-256 FP): /certs/stale.crl: CRL is stale since DATE
hint: on the CA's host: rpctlsctl cert crl -o crl.pem, and copy that here
`,
			doctor: `
there is no fresh CRL of the CA that issued the server's certificate
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): /certs/stale.crl: CRL is stale since DATE
    do:   on the CA's host: rpctlsctl cert crl -o crl.pem, and copy that here
`,
		},
		{
			name: "not for servers", client: client, server: shows("not-for-servers"), options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (key_usage): the server's certificate is not one for servers: tls client handshake: verify certificate "CN=server" (SHA-256 FP): extended key usage does not allow it for a server (neither TLS nor RFC 9289)
hint: on the server: rpctlsctl cert server NAME...
`,
			doctor: `
the server's certificate is not one for servers
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): extended key usage does not allow it for a server (neither TLS nor RFC 9289)
    do:   on the server: rpctlsctl cert server NAME...
`,
		},
		{
			name: "pinned", client: client + "[[server]]\nmatch = [\"server.test\"]\npin = [\"sha256:" + strings.Repeat("00", 32) + "\"]\n",
			server: server, options: "tls", source: both,
			mount:  "mount.nfstls: server.test:/srv/both: TLS handshake failed (pin_mismatch): the server's key is none of those that this host expects: tls client handshake: server's public key is not pinned: it is sha256:PIN\nhint: if it was renewed on purpose, set `pin` in /etc/rpctls/rpctlscd.toml\n",
			doctor: "the server's key is none of those that this host expects\n    seen: 10.77.N.1:2049: server's public key is not pinned: it is sha256:PIN\n    do:   if it was renewed on purpose, set `pin` in /etc/rpctls/rpctlscd.toml\n",
		},
		{
			name: "client certificate refused by CA", client: shows("stranger"), server: server, options: "mtls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (peer_alert): the server does not trust the CA that issued this host's certificate: peer sent alert unknown_ca
hint: on the server: rpctlsctl cert trust CA.pem
`,
			doctor: `
the server does not trust the CA that issued this host's certificate
    seen: 10.77.N.1:2049: tls client handshake: peer sent alert unknown_ca
    do:   on the server: rpctlsctl cert trust CA.pem
`,
		},
		{
			name: "client certificate expired", client: shows("expired-client"), server: server, options: "mtls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (peer_alert): this host's certificate has expired or is not valid yet, says the server: peer sent alert certificate_expired
hint: rpctlsctl cert renew --due
`,
			doctor: `
this host's certificate has expired
    seen: /certs/expired-client/cert.pem (CN=client): valid from DATE to DATE
    do:   rpctlsctl cert renew --due
`,
		},
		{
			name: "client certificate revoked", client: shows("revoked-client"), server: server + w.crl("ca.crl"), options: "mtls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (peer_alert): this host's certificate is revoked, says the server: peer sent alert certificate_revoked
hint: rpctls-client-setup FILE.bundle
`,
			doctor: `
this host's certificate is revoked, says the server
    seen: 10.77.N.1:2049: tls client handshake: peer sent alert certificate_revoked
    do:   rpctls-client-setup FILE.bundle
`,
		},
		{
			name: "client certificate refused by policy", client: client, server: server + "[[deny]]\ndns = [\"client.test\"]\n", options: "mtls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (peer_alert): the server's policy refuses this host's certificate: peer sent alert access_denied
hint: on the server: rpctlsctl policy test CERT --from ADDRESS
`,
			doctor: `
the server's policy refuses this host's certificate
    seen: 10.77.N.1:2049: tls client handshake: peer sent alert access_denied
    do:   on the server: rpctlsctl policy test CERT --from ADDRESS
`,
		},
		{
			name: "client certificate demanded", client: anonymous, server: server + "client_certificate = \"require\"\n", options: "tls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (peer_alert): the server demands a certificate, and this host has shown none: peer sent alert certificate_required
hint: rpctls-client-setup FILE.bundle
or
mount.nfstls: server.test:/srv/both: the server refuses this host, though the connection is encrypted
hint: on the server: does the export include this host? With xprtsec=mtls it wants a certificate: rpctls-client-setup FILE.bundle gives this host one
`,
			doctor: `
the server demands a certificate, and this host has shown none
    seen: 10.77.N.1:2049: tls client handshake: peer sent alert certificate_required
    do:   rpctls-client-setup FILE.bundle
`,
		},
		{
			name: "none configured", client: anonymous, server: server, options: "mtls", source: both,
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (no_identity): this host has no certificate to show, and the mount wants TLS to be mutual: no certificate is configured for this
hint: rpctls-client-setup FILE.bundle
`,
			doctor: "this host has no certificate to show, and the mount wants TLS to be mutual\n    seen: CONFIG/rpctlscd.toml has no `certificate` for server.test\n    do:   rpctls-client-setup FILE.bundle\n",
		},
		{
			name: "not asked for a certificate", client: client, server: w.identity("server"), options: "mtls", source: both,
			mount:  "mount.nfstls: server.test:/srv/both: TLS handshake failed (no_certificate_request): the server does not ask for a certificate, so that TLS cannot be mutual: server did not ask for a client certificate, but the mount wants mutual TLS\nhint: on the server: set `trust` in /etc/rpctls/rpctlssd.toml, then systemctl reload rpctlssd\n",
			doctor: "the server does not ask for a certificate, so that TLS cannot be mutual\n    seen: 10.77.N.1:2049: no certificate request in the handshake\n    do:   on the server: set `trust` in /etc/rpctls/rpctlssd.toml, then systemctl reload rpctlssd\n",
		},
		{
			name: "key readable by all", server: server, options: "tls", source: both,
			client: none + w.trust() + fmt.Sprintf("certificate = %q\nprivate_key = %q\n", w.path("client/cert.pem"), w.path("open.key")),
			mount: `
mount.nfstls: server.test:/srv/both: rpctlscd is not running, and cannot: load private key: read /certs/open.key: private key file is not private: mode 0644 gives access to others; run chmod 0600
hint: mend that, then: systemctl restart rpctlscd
`,
			doctor: `
rpctlscd does not take a private key that others can read or write
    seen: load private key: read /certs/open.key: private key file is not private: mode 0644 gives access to others; run chmod 0600
    do:   chmod 0600 /certs/open.key
`,
		},
		{
			name: "key unreadable", client: none + client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, client *daemon) {
				daemonsUser(t)
				if err := os.Chmod(filepath.Dir(client.config), 0o755); err != nil {
					t.Fatal(err)
				}
				id := fmt.Sprint(daemonUser)
				out := fails(t, w.client, 1, "setpriv", "--reuid", id, "--regid", id, "--clear-groups", binary("rpctlscd"), "-config", client.config)
				if !strings.Contains(out, "permission denied") {
					t.Errorf("it said %q", out)
				}
			},
			mount: `
mount.nfstls: server.test:/srv/both: rpctlscd is not running, and cannot: as user rpctls: load private key: open /certs/client/key.pem: permission denied
hint: mend that, then: systemctl restart rpctlscd
`,
			doctor: `
rpctlscd may not read a file of its own
    seen: load private key: open /certs/client/key.pem: permission denied
    do:   chgrp rpctls /certs/client/key.pem && chmod 0640 /certs/client/key.pem
`,
		},
		{
			name: "export wants mtls", client: anonymous, server: server, options: "tls", source: mtlsExport,
			mount: `
mount.nfstls: server.test:/srv/mtls: the server refuses this host, though the connection is encrypted
hint: on the server: does the export include this host? With xprtsec=mtls it wants a certificate: rpctls-client-setup FILE.bundle gives this host one
`,
			doctor: `
the export does not let in who has no certificate (xprtsec=mtls), and this host has none
    seen: 10.77.N.1:2049: LOOKUP /srv/mtls: NFS4ERR_WRONGSEC
    do:   rpctls-client-setup FILE.bundle
`,
		},
		{
			name: "export tls-only met by mtls", client: client, server: server, options: "mtls", source: tlsExport,
			mount: `
mount.nfstls: server.test:/srv/tls: the server refuses this host, though both have authenticated each other by TLS
hint: on the server: does the export include this host, and does it say xprtsec=mtls or xprtsec=tls:mtls?
`,
			doctor: `
the export does not let in who shows a certificate (xprtsec=tls alone)
    seen: 10.77.N.1:2049: LOOKUP /srv/tls: NFS4ERR_WRONGSEC
    do:   on the server: write xprtsec=tls:mtls into /etc/exports, then exportfs -ra
`,
		},
		{
			name: "no such export", client: client, server: server, options: "tls", source: "server.test:/srv/nothing",
			mount: `
mount.nfs: mounting server.test:/srv/nothing failed, reason given by server: No such file or directory
`,
			doctor: `
the server exports no /srv/nothing to this host
    seen: 10.77.N.1:2049: LOOKUP /srv/nothing: NFS4ERR_NOENT
    do:   on the server: exportfs -v
`,
		},
		{
			name: "no such name", client: client, server: none, options: "tls", source: "nowhere.test:/x",
			mount: `
mount.nfs: Failed to resolve server nowhere.test: Name or service not known
`,
			doctor: `
the name nowhere.test cannot be resolved
    seen: lookup nowhere.test: no such host
    do:   getent hosts nowhere.test
`,
		},
		{
			name: "TLS 1.2 peer", client: client, server: none, options: "tls", source: rogue,
			happen: w.rogueServer(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }),
			mount: `
mount.nfstls: rogue.test:/: TLS handshake failed (protocol_version): the server does not speak TLS 1.3: tls client handshake: peer sent alert protocol_version
hint: on the server: systemctl enable --now rpctlssd
`,
			doctor: `
the server does not speak TLS 1.3
    seen: 10.77.N.3:2049: tls client handshake: peer sent alert protocol_version
    do:   on the server: systemctl enable --now rpctlssd
`,
		},
		{
			name: "ALPN mismatch", client: client, server: none, options: "tls", source: rogue,
			happen: w.rogueServer(func(c *tls.Config) { c.NextProtos = []string{"h2"} }),
			mount: `
mount.nfstls: rogue.test:/: TLS handshake failed (alpn): the server does not speak RPC over TLS (ALPN "sunrpc"): tls client handshake: peer sent alert no_application_protocol
hint: on the server: ss -tlnp sport = :2049
`,
			doctor: `
the server does not speak RPC over TLS (ALPN "sunrpc")
    seen: 10.77.N.3:2049: tls client handshake: peer sent alert no_application_protocol
    do:   on the server: ss -tlnp sport = :2049
`,
		},
		{
			name: "not TLS", client: client, server: none, options: "tls", source: rogue,
			happen: w.misbehave(func(c net.Conn) {
				c.Read(make([]byte, 4<<10))
				c.Write([]byte("\x00\x01garbage and more"))
				drain(c)
			}),
			mount: `
mount.nfstls: rogue.test:/: TLS handshake failed (not_tls): the server agreed to TLS and answers something else: tls client handshake: tls: first record does not look like a TLS handshake
hint: on the server: ss -tlnp sport = :2049
`,
			doctor: `
the server agreed to TLS and answers something else
    seen: 10.77.N.3:2049: tls client handshake: tls: first record does not look like a TLS handshake
    do:   on the server: ss -tlnp sport = :2049
`,
		},
		{
			name: "port closed", client: client, server: none, options: "tls", source: rogue,
			mount: `
mount.nfs: Connection refused for rogue.test:/ on DIR
`,
			doctor: `
nothing listens on port 2049 of rogue.test
    seen: 10.77.N.3:2049: dial tcp 10.77.N.3:2049: connect: connection refused
    do:   on the server: systemctl enable --now nfs-server
`,
		},
		{
			name: "packets dropped", client: client, server: none, options: "tls", source: silent + ":/x",
			happen: func(t *testing.T, _ *daemon) {
				// The switch floods what is for an address that nobody has.
				link := w.client.Interfaces()[0]
				w.client.Run(t, "ip", "neigh", "replace", silent, "lladdr", "02:00:00:00:00:99", "dev", link, "nud", "permanent")
				t.Cleanup(func() { w.client.Run(t, "ip", "neigh", "del", silent, "dev", link) })
			},
			mount: `
mount.nfs: Connection timed out for 10.77.N.99:/x on DIR
`,
			doctor: `
port 2049 of 10.77.N.99 does not answer: the host is down, or a firewall drops the packets
    seen: 10.77.N.99:2049: dial tcp 10.77.N.99:2049: i/o timeout
    do:   ping 10.77.N.99; nc -vz 10.77.N.99 2049
`,
		},
		{
			name: "no way", client: client, server: none, options: "tls", source: silent + ":/x",
			happen: func(t *testing.T, _ *daemon) {
				w.client.Run(t, "ip", "route", "add", "unreachable", silent)
				t.Cleanup(func() { w.client.Run(t, "ip", "route", "del", "unreachable", silent) })
			},
			mount: `
mount.nfs: No route to host for 10.77.N.99:/x on DIR
`,
			doctor: `
there is no way to 10.77.N.99
    seen: 10.77.N.99:2049: dial tcp 10.77.N.99:2049: connect: no route to host
    do:   ip route get 10.77.N.99
`,
		},
		{
			name: "stalled peer", client: client, server: none, options: "tls,proto=tcp,vers=4.2,retry=0,timeo=130,retrans=0", source: rogue,
			happen: w.misbehave(drain),
			mount: `
mount.nfstls: rogue.test:/: TLS handshake failed (timeout): the server agreed to TLS and fell silent: tls client handshake: read: i/o timeout
hint: on the server: systemctl restart rpctlssd
`,
			doctor: `
the server agreed to TLS and fell silent
    seen: 10.77.N.3:2049: i/o timeout
    do:   on the server: systemctl restart rpctlssd
`,
		},
		{
			name: "clock in 1970", client: client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, _ *daemon) { setClock(t, time.Unix(0, 0).Add(36*time.Hour)) },
			mount: `
mount.nfstls: server.test:/srv/both: TLS handshake failed (not_yet_valid): this host's clock says DATE, which is past: tls client handshake: verify certificate "CN=server" (SHA-256 FP): not valid before DATE
hint: timedatectl set-ntp true
`,
			doctor: `
this host's clock says DATE, which is past
    seen: rpctls was made after DATE
    do:   timedatectl set-ntp true
`,
		},
		{
			name: "tlshd also running", client: client, server: server, options: "tls", source: both,
			happen: func(t *testing.T, client *daemon) {
				// It has to be first: whoever is gets the request.
				p := w.tlshdTrusting(t, w.client, "client", "other-ca.pem")
				w.client.Run(t, "chrt", "--fifo", "--all-tasks", "--pid", "50", fmt.Sprint(p.PID()))
				w.client.Run(t, "chrt", "--idle", "--all-tasks", "--pid", "0", fmt.Sprint(client.PID()))
			},
			mount: `
mount.nfstls: server.test:/srv/both: another program answers the kernel's handshake requests, by its own rules
hint: systemctl disable --now tlshd
`,
			doctor: `
another program answers the kernel's handshake requests, by its own rules
    seen: tlshd (process N)
    do:   systemctl disable --now tlshd
`,
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
	w.said(t, "doctor", got.stdout, `
this host does not trust the CA that issued the server's certificate
    seen: 10.77.N.1:2049: verify certificate "CN=server" (SHA-256 FP): no trusted CA issued it (issuer "CN=another CA"): x509: certificate signed by unknown authority
    do:   rpctlsctl cert trust CA.pem
`, dir)
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
		{"no agent", none + w.serverConfig(), false, false, `
nobody answers nfsd's request for a TLS handshake: rpctlssd is not running
    seen: nobody listens on /run/rpctls-server/rpctlssd.sock
    do:   systemctl enable --now rpctlssd
`},
		{"expired", w.trust() + w.identity("expired"), false, false, `
this host's certificate has expired
    seen: /certs/expired/cert.pem (CN=server): valid from DATE to DATE
    do:   rpctlsctl cert renew --due
`},
		{"key unreadable", none + w.trust() + fmt.Sprintf("certificate = %q\nprivate_key = %q\n", w.path("client/cert.pem"), w.path("open.key")), false, false, `
rpctlssd does not take a private key that others can read or write
    seen: load private key: read /certs/open.key: private key file is not private: mode 0644 gives access to others; run chmod 0600
    do:   chmod 0600 /certs/open.key
`},
		{"exports refuse those who authenticate", w.serverConfig(), false, true, `
an export refuses clients that show a certificate, and rpctlssd asks for one
    seen: /srv/tls for *: xprtsec=tls, client_certificate = "request"
    do:   write xprtsec=tls:mtls into /etc/exports, then exportfs -ra
`},
		{"exports demand what nobody asks for", w.identity("server"), false, true, "an export demands a certificate of clients, and rpctlssd asks for none\n    seen: /srv/mtls for *: xprtsec=mtls, client_certificate = \"none\"\n    do:   set `trust` in CONFIG/rpctlssd.toml, then systemctl reload rpctlssd\n"},
		{"nfsd does not run", w.serverConfig(), true, false, `
the NFS server does not run
    seen: nfsd has no threads
    do:   systemctl enable --now nfs-server
`},
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
