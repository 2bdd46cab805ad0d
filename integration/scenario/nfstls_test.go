// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
	"rpctls/internal/keyring"
	"rpctls/internal/mountinfo"
	"rpctls/ktls"
)

// TestMountHelper is mount.nfstls, called by mount(8), by its own name and in
// front of mount.nfs.
func TestMountHelper(t *testing.T) {
	guest.RequireVM(t)
	w := newWorld(t)
	link(t, binary("mount.nfstls"), "/usr/sbin/mount.nfstls")
	link(t, "mount.nfstls", "/usr/sbin/umount.nfstls")
	for _, s := range []struct {
		name string
		run  func(*world, *testing.T)
	}{
		{"options", (*world).testHelperOptions},
		{"falls back", (*world).testHelperFallsBack},
		{"reasons", (*world).testHelperReasons},
		{"beside a mount in clear", (*world).testHelperBesideClear},
		{"identities", (*world).testHelperIdentities},
		{"keys made by others", (*world).testForeignKeys},
		{"in the background", (*world).testHelperBackground},
		{"remount and unmount", (*world).testHelperRemount},
		{"in front of mount.nfs", (*world).testHelperInFront},
		{"passes on", (*world).testHelperPassesOn},
	} {
		t.Run(s.name, func(t *testing.T) { s.run(w, t) })
	}
	w.checkDecryption(t)
}

// link makes a symbolic link until the end of the test.
func link(t *testing.T, to, path string) {
	t.Helper()
	if err := os.Symlink(to, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) })
}

// A called is what a program has said, and how it ended.
type called struct {
	stdout, stderr string
	code           int
}

// call runs a program in a host.
func call(t *testing.T, h *guest.Host, env []string, argv ...string) called {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), guest.MountLimit)
	defer cancel()
	cmd := h.Command(ctx, argv[0], argv[1:]...)
	return callCommand(t, ctx, cmd, env)
}

func callCommand(t *testing.T, ctx context.Context, cmd *exec.Cmd, env []string) called {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok && !errors.Is(err, exec.ErrWaitDelay) || ctx.Err() != nil {
		t.Fatalf("%q: %v, %v", cmd.Args, err, ctx.Err())
	}
	return called{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// helper mounts by mount(8) in the client, with rpctlscd's configuration, and has
// it unmounted at the end of the test.
func (w *world) helper(t *testing.T, d *daemon, dir string, args ...string) called {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, ok := mountAt(t, dir); ok {
			call(t, w.client, nil, "umount", "-f", "-l", dir)
		}
	})
	return call(t, w.client, d.variable(), append(append([]string{"mount"}, args...), dir)...)
}

// variable tells mount.nfstls where the daemon is.
func (d *daemon) variable() []string { return []string{"RPCTLSCD_CONFIG=" + d.config} }

// mountAt returns the mount on top of a directory.
func mountAt(t *testing.T, dir string) (m mountinfo.Mount, ok bool) {
	t.Helper()
	all, err := mountinfo.Self()
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range all {
		if other.Point == dir {
			m, ok = other, true
		}
	}
	return m, ok
}

// wantMounted verifies that a mount went well, is protected, and works.
func (w *world) wantMounted(t *testing.T, c called, dir, xprtsec string) {
	t.Helper()
	if c.code != 0 {
		t.Fatalf("exit status %d\n%s%s", c.code, c.stdout, c.stderr)
	}
	m, ok := mountAt(t, dir)
	if !ok || m.XprtSec != xprtsec {
		t.Fatalf("mounted with %q (%v), want %q\n%s", m.XprtSec, ok, xprtsec, c.stderr)
	}
	if xprtsec != mountinfo.None {
		w.wantTLS(t, w.client, ktls.AES128GCM)
	}
	use(t, dir, 1)
}

// wantRefused verifies that a mount did not go well, and said why: the pattern is
// for all that it said.
func wantRefused(t *testing.T, c called, code int, dir, pattern string) {
	t.Helper()
	if _, ok := mountAt(t, dir); ok {
		t.Error("something was mounted")
	}
	if c.code != code || !regexp.MustCompile(pattern).MatchString(c.stderr) {
		t.Errorf("exit status %d, want %d; %q does not match\n%s%s", c.code, code, pattern, c.stdout, c.stderr)
	}
}

func unmount(t *testing.T, w *world, dir string) {
	t.Helper()
	if c := call(t, w.client, nil, "umount", dir); c.code != 0 {
		t.Errorf("umount: %d\n%s", c.code, c.stderr)
	}
}

const both = "server.test:" + exportBoth

func (w *world) testHelperOptions(t *testing.T) {
	client, _ := w.both(t)
	for _, tt := range []struct{ options, source, want string }{
		{"", both, "mtls"}, // the type says TLS, and there is a certificate
		{"tls", both, "mtls"},
		{"mtls", both, "mtls"},
		{"xprtsec=tls", both, "tls"},
		{"tls,xprtsec=tls", both, "tls"},
		{"tls,vers=4.1", both, "mtls"},
		{"tls,_netdev,nofail,noatime,x-systemd.automount", both, "mtls"},
		{"mtls," + v3, both, "mtls"},
		{"tls", "[" + w.server.IPv6().String() + "]:" + exportBoth, "mtls"},
	} {
		t.Run(tt.options+" "+tt.source, func(t *testing.T) {
			dir := mountPoint(t)
			args := []string{"-t", "nfstls", tt.source}
			if tt.options != "" {
				args = append(args, "-o", tt.options)
			}
			w.wantMounted(t, w.helper(t, client, dir, args...), dir, tt.want)
			unmount(t, w, dir)
		})
	}
	t.Run("flags", func(t *testing.T) {
		dir := mountPoint(t)
		c := w.helper(t, client, dir, "-v", "-n", "-s", "-r", "-t", "nfstls", "-o", "tls,thisisnooption", both)
		if _, ok := mountAt(t, dir); c.code != 0 || !ok || !strings.Contains(c.stdout, "xprtsec=mtls") {
			t.Fatalf("%d\n%s%s", c.code, c.stdout, c.stderr)
		}
		if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err == nil {
			t.Error("writable")
		}
		unmount(t, w, dir)
	})
	t.Run("fake", func(t *testing.T) {
		dir := mountPoint(t)
		c := w.helper(t, client, dir, "-f", "-t", "nfstls", "-o", "tls", both)
		if _, ok := mountAt(t, dir); c.code != 0 || ok {
			t.Errorf("%d, mounted %v\n%s", c.code, ok, c.stderr)
		}
	})
	for options, want := range map[string]string{
		"tls,xprtsec=none":                "xprtsec=none is not TLS",
		"mtls,xprtsec=tls":                "contradicts",
		"tlscertname=a,tlscertname=b":     "tlscertname=b contradicts tlscertname=a",
		"tlscertname=../a":                "cannot be the name of an identity",
		"tlscertname=a,cert_serial=1,tls": "contradicts cert_serial",
	} {
		dir := mountPoint(t)
		wantRefused(t, w.helper(t, client, dir, "-t", "nfstls", "-o", options, both), 1, dir, regexp.QuoteMeta(want)+`(?s).*hint: mount.nfstls --help`)
	}
}

// tls becomes less than mutual when the server does not want that, and says so;
// mtls does not.
func (w *world) testHelperFallsBack(t *testing.T) {
	client := run(t, w.client, "rpctlscd", w.clientConfig())
	t.Run("the server does not ask", func(t *testing.T) {
		server := run(t, w.server, "rpctlssd", w.identity("server"))
		defer server.stop(t)
		dir := mountPoint(t)
		wantRefused(t, w.helper(t, client, dir, "-t", "nfstls", "-o", "mtls", both), 32, dir,
			`^mount.nfstls: server.test:/srv/both: TLS handshake failed \(no_certificate_request\): the server does not ask for a certificate.*\nhint: on the server: set .trust. .*\n$`)
		c := w.helper(t, client, dir, "-t", "nfstls", "-o", "tls", both)
		w.wantMounted(t, c, dir, "tls")
		if !strings.Contains(c.stderr, "does not ask for a certificate: trying without") {
			t.Errorf("it did not say so: %q", c.stderr)
		}
	})
	t.Run("the export refuses", func(t *testing.T) {
		server := run(t, w.server, "rpctlssd", w.serverConfig())
		defer server.stop(t)
		dir := mountPoint(t)
		wantRefused(t, w.helper(t, client, dir, "-t", "nfstls", "-o", "mtls", "server.test:"+exportTLS), 32, dir,
			`^mount.nfstls: server.test:/srv/tls: the server refuses this host, though both have authenticated .*\nhint: .*tls:mtls.*\n$`)
		c := w.helper(t, client, dir, "-t", "nfstls", "-o", "tls", "server.test:"+exportTLS)
		w.wantMounted(t, c, dir, "tls")
		if !strings.Contains(c.stderr, "the export does not take this host with its certificate: trying without") {
			t.Errorf("it did not say so: %q", c.stderr)
		}
	})
}

// What is said when it does not work: one line and a hint.
func (w *world) testHelperReasons(t *testing.T) {
	dir := mountPoint(t)
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: "another CA"})
	w.write(t, "other-ca.pem", other.PEM())
	elsewhere := &daemon{config: configure(t, w.client, "rpctlscd", w.trust())}
	wantRefused(t, w.helper(t, elsewhere, dir, "-t", "nfstls", "-o", "tls", both), 32, dir,
		`^mount.nfstls: server.test:/srv/both: nobody answers the kernel's request for a TLS handshake: rpctlscd is not running\nhint: systemctl enable --now rpctlscd\n$`)
	wantRefused(t, w.helper(t, elsewhere, dir, "-t", "nfstls", "-o", "tlscertname=x", both), 32, dir,
		`^mount.nfstls: tlscertname=x: rpctlscd is not running\n`)
	for _, tt := range []struct{ name, client, server, options, source, want string }{
		{"wrong CA", fmt.Sprintf("trust = %q\n", w.path("other-ca.pem")), w.serverConfig(), "tls", both,
			`^mount.nfstls: server.test:/srv/both: TLS handshake failed \(unknown_ca\): this host does not trust the CA .*\nhint: rpctlsctl cert trust CA\.pem\n$`},
		{"wrong name", w.trust(), w.issue(t, "elsewhere", certstest.Options{DNS: []string{"elsewhere.test"}}), "tls", both,
			`TLS handshake failed \(wrong_name\): .*elsewhere\.test.*\nhint: on the server: rpctlsctl cert server`},
		{"our CA is unknown to the server", w.trust() + w.issueBy(t, other, "stranger", certstest.Options{}), w.serverConfig(), "tls", both,
			`TLS handshake failed \(peer_alert\): the server does not trust the CA .*unknown_ca\nhint: on the server: rpctlsctl cert trust CA\.pem\n$`},
		{"no identity", w.trust(), w.serverConfig(), "mtls", both,
			`TLS handshake failed \(no_identity\): .*\nhint: rpctls-client-setup FILE\.bundle\n$`},
		{"no such identity", w.clientConfig(), w.serverConfig(), "tlscertname=nobody", both,
			`^mount.nfstls: tlscertname=nobody: this host has no identity of that name\nhint: `},
		{"export wants a certificate", w.trust(), w.serverConfig(), "tls", "server.test:" + exportMTLS,
			`^mount.nfstls: server.test:/srv/mtls: the server refuses this host, though the connection is encrypted\nhint: .*rpctls-client-setup FILE\.bundle gives this host one\n$`},
		{"no such export", w.clientConfig(), w.serverConfig(), "tls", "server.test:/srv/nothing", `No such file or directory`},
		{"no such server", w.clientConfig(), w.serverConfig(), "tls", "nowhere.test:/x", `Failed to resolve server nowhere.test`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client, server := run(t, w.client, "rpctlscd", tt.client), run(t, w.server, "rpctlssd", tt.server)
			defer client.stop(t)
			defer server.stop(t)
			dir := mountPoint(t)
			wantRefused(t, w.helper(t, client, dir, "-t", "nfstls", "-o", tt.options+",retry=0", tt.source), 32, dir, tt.want)
		})
	}
}

// A mount with TLS beside one in clear of the same server: the kernel, left to
// itself, uses the connection that it has.
func (w *world) testHelperBesideClear(t *testing.T) {
	client, _ := w.both(t)
	w.nfsd.Export(t, guest.Export{Path: "/srv/any", XprtSec: "none:tls:mtls"})
	const any = "server.test:/srv/any"
	plain := mountPoint(t) + "-plain"
	w.wantMounted(t, w.helper(t, client, plain, "-t", "nfs", "-o", "vers=4.2", any), plain, "none")
	for _, options := range []string{"mtls", "xprtsec=tls"} {
		// What the helper is for. Whether the kernel needs it is not for this
		// test to demand.
		stock := mountPoint(t) + "-stock"
		if c := w.helper(t, client, stock, "-t", "nfs", "-o", "vers=4.2,xprtsec="+strings.TrimPrefix(options, "xprtsec="), any); c.code == 0 {
			m, _ := mountAt(t, stock)
			t.Logf("without the helper, %s becomes xprtsec=%s", options, m.XprtSec)
			unmount(t, w, stock)
		}
		dir := mountPoint(t) + "-" + options
		w.wantMounted(t, w.helper(t, client, dir, "-t", "nfstls", "-o", options, any), dir, strings.TrimPrefix(options, "xprtsec="))
	}
	use(t, plain, 2)
	if n := len(w.nfsSockets(t, w.client)); n != 2 {
		t.Errorf("%d connections with TLS, want 2", n)
	}
}

// daemonUser is as whom rpctlscd runs in the scenarios about keys: root could
// read them anyhow.
const daemonUser = 990

// runAsUser starts rpctlscd in the client with the rights that its unit gives it.
func (w *world) runAsUser(t *testing.T, text string) *daemon {
	t.Helper()
	const dir = "/run/rpctls-user"
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, daemonUser, daemonUser); err != nil {
		t.Fatal(err)
	}
	config := configure(t, w.client, "rpctlscd", "")
	text = fmt.Sprintf("log_level = \"debug\"\nruntime_directory = %q\n", dir) + text
	for path, mode := range map[string]os.FileMode{config: 0o644, filepath.Dir(config): 0o755} {
		if path == config {
			if err := os.WriteFile(path, []byte(text), mode); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	id := fmt.Sprint(daemonUser)
	p := guest.Start(t, w.client, "rpctlscd-user", []string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups",
		"--inh-caps", "-all,+net_admin", "--ambient-caps", "+net_admin", "--bounding-set", "-all,+net_admin",
		binary("rpctlscd"), "-config", config})
	p.WaitLine(t, regexp.MustCompile(`: ready status=`), guest.CommandLimit)
	return &daemon{p, config}
}

// person issues an identity for the daemon's user, that mounts can name.
func (w *world) person(t *testing.T, name, commonName string) {
	t.Helper()
	dir := filepath.Join("ids", name, "current")
	w.issue(t, dir, certstest.Options{CommonName: commonName, DNS: []string{name + ".test"}})
	if err := os.Chown(w.path(filepath.Join(dir, "key.pem")), daemonUser, -1); err != nil {
		t.Fatal(err)
	}
}

// authenticated waits until the server has seen a client of that name, and
// returns how often it has.
func (d *daemon) authenticated(t *testing.T, commonName string, more int) int {
	t.Helper()
	pattern := `handshake success .*subject="?CN=` + commonName + `"? `
	n := 0
	guest.Poll(t, guest.CommandLimit, commonName+" at the server", func() error {
		if n = d.count(pattern); n <= more {
			return fmt.Errorf("%d handshakes, want more than %d", n, more)
		}
		return nil
	})
	return n
}

// Several identities on one client: at once where the kernel keeps them apart,
// one at a time where it does not.
func (w *world) testHelperIdentities(t *testing.T) {
	guest.LoadModule(t, "nfs")
	w.person(t, "alice", "alice")
	w.person(t, "bob", "bob")
	if err := os.Chown(w.path("client/key.pem"), daemonUser, -1); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chown(w.path("client/key.pem"), 0, -1) })
	text := w.clientConfig() + fmt.Sprintf("identity_directory = %q\n", w.path("ids"))
	client := w.runAsUser(t, text)
	server := run(t, w.server, "rpctlssd", w.serverConfig())
	as := func(t *testing.T, name, options string) (string, called) {
		dir := mountPoint(t) + "-" + name
		c := w.helper(t, client, dir, "-t", "nfstls", "-o", options, both)
		return dir, c
	}
	alice, c := as(t, "alice", "tlscertname=alice")
	w.wantMounted(t, c, alice, "mtls")
	server.authenticated(t, "alice", 0)
	if keyring.Supported() {
		w.identitiesAtOnce(t, client, server, alice, as)
	} else {
		w.identitiesOneByOne(t, client, server, alice, text, as)
	}
}

func (w *world) identitiesAtOnce(t *testing.T, client, server *daemon, alice string, as func(*testing.T, string, string) (string, called)) {
	bob, c := as(t, "bob", "tlscertname=bob")
	w.wantMounted(t, c, bob, "mtls")
	server.authenticated(t, "bob", 0)
	plain, c := as(t, "plain", "mtls")
	w.wantMounted(t, c, plain, "mtls")
	server.authenticated(t, "client", 0)
	if n := len(w.nfsSockets(t, w.client)); n != 3 {
		t.Errorf("%d connections, want one for each identity", n)
	}
	// Each keeps its own at a reconnect, and a certificate that was renewed is
	// used without a new mount.
	before := server.authenticated(t, "alice", 0)
	w.person(t, "bob", "bob-renewed")
	client.said(t, "changed files loaded")
	w.cut(t)
	guest.DropCaches(t)
	for i, dir := range []string{alice, bob, plain} {
		use(t, dir, uint64(10+i))
	}
	server.authenticated(t, "alice", before)
	server.authenticated(t, "bob-renewed", 0)
	// A key names one thing for ever: the same one again is no new client.
	again, c := as(t, "again", "tlscertname=alice")
	w.wantMounted(t, c, again, "mtls")
	if n := len(w.nfsSockets(t, w.client)); n != 3 {
		t.Errorf("%d connections after a second mount with one identity, want 3", n)
	}
}

func (w *world) identitiesOneByOne(t *testing.T, client, server *daemon, alice, text string, as func(*testing.T, string, string) (string, called)) {
	dir, c := as(t, "bob", "tlscertname=bob")
	wantRefused(t, c, 32, dir, `^mount.nfstls: server.test:/srv/both: server.test is mounted with identity "alice"\nhint: this kernel cannot .*\n$`)
	dir, c = as(t, "plain", "mtls")
	wantRefused(t, c, 32, dir, `is mounted with identity "alice"`)
	// By another name it is the same server.
	byAddress := mountPoint(t) + "-address"
	c = w.helper(t, client, byAddress, "-t", "nfstls", "-o", "tlscertname=bob", w.server.IPv4().String()+":"+exportBoth)
	wantRefused(t, c, 32, byAddress, `is mounted with identity "alice"`)
	// It is remembered over a restart.
	before := server.authenticated(t, "alice", 0)
	client.stop(t)
	client = w.runAsUser(t, text)
	w.cut(t)
	guest.DropCaches(t)
	use(t, alice, 20)
	server.authenticated(t, "alice", before)
	// And can be another one afterwards.
	unmount(t, w, alice)
	dir = mountPoint(t) + "-after"
	c = w.helper(t, client, dir, "-t", "nfstls", "-o", "tlscertname=bob", both)
	w.wantMounted(t, c, dir, "mtls")
	server.authenticated(t, "bob", 0)
	unmount(t, w, dir)
	c = w.helper(t, client, dir, "-t", "nfstls", "-o", "mtls", both)
	w.wantMounted(t, c, dir, "mtls")
	server.authenticated(t, "client", 0)
}

// Keys with a certificate and a private key in them, as others make them.
func (w *world) testForeignKeys(t *testing.T) {
	guest.LoadModule(t, "nfs")
	if !keyring.Supported() {
		t.Skip("this kernel's mounts cannot name keys")
	}
	w.issue(t, "carol", certstest.Options{CommonName: "carol"})
	client := run(t, w.client, "rpctlscd", w.clientConfig())
	server := run(t, w.server, "rpctlssd", w.serverConfig())
	const readable, unreadable = "0x3f3f0000", "0x3f010000" // by root, who does not possess it; the second is what keyctl makes
	add := func(name, file, convert, rights string) string {
		// In a session of its own, whose keyring makes it the possessor.
		out := call(t, w.client, nil, "keyctl", "session", "-", "sh", "-ec", "keyctl link %:.nfs @s; "+convert+" <"+w.path(file)+" >/tmp/"+name+"; "+
			"id=$(keyctl padd user "+name+" %:.nfs </tmp/"+name+"); keyctl setperm $id "+rights+"; echo $id")
		if out.code != 0 {
			t.Fatalf("add a key: %d\n%s", out.code, out.stderr)
		}
		return strings.TrimSpace(out.stdout)
	}
	for name, keys := range map[string][2]string{
		"PEM": {add("cert-pem", "carol/cert.pem", "cat", readable), add("key-pem", "carol/key.pem", "cat", readable)},
		"DER": {add("cert-der", "carol/cert.pem", "openssl x509 -outform der", readable), add("key-der", "carol/key.pem", "openssl pkey -outform der", readable)},
	} {
		t.Run(name, func(t *testing.T) {
			before := server.count("CN=carol")
			dir := mountPoint(t)
			options := fmt.Sprintf("mtls,cert_serial=%s,privkey_serial=%s", keys[0], keys[1])
			w.wantMounted(t, w.helper(t, client, dir, "-t", "nfstls", "-o", options, both), dir, "mtls")
			server.authenticated(t, "carol", before)
			unmount(t, w, dir)
			// The key is no certificate.
			options = fmt.Sprintf("mtls,cert_serial=%s,privkey_serial=%s", keys[1], keys[1])
			wantRefused(t, w.helper(t, client, dir, "-t", "nfstls", "-o", options, both), 32, dir, `TLS handshake failed \(named_identity\): `)
		})
	}
	closed := add("closed", "carol/cert.pem", "cat", unreadable)
	dir := mountPoint(t)
	wantRefused(t, w.helper(t, client, dir, "-t", "nfstls", "-o", "mtls,cert_serial="+closed+",privkey_serial="+closed, both), 32, dir,
		`TLS handshake failed \(named_identity\): .*cert_serial: key \d+: not permitted to read it`)
}

func (w *world) testHelperBackground(t *testing.T) {
	client, _ := w.both(t)
	dir := mountPoint(t)
	w.nfsd.Down(t)
	c := w.helper(t, client, dir, "-t", "nfstls", "-o", "bg,tls", both)
	_, mounted := mountAt(t, dir)
	w.nfsd.Up(t)
	if c.code != 0 || mounted {
		t.Fatalf("%d, mounted %v\n%s%s", c.code, mounted, c.stdout, c.stderr)
	}
	guest.Poll(t, guest.MountLimit, "the mount in the background", func() error {
		if _, ok := mountAt(t, dir); !ok {
			return errors.New("nothing mounted yet")
		}
		return nil
	})
	w.wantMounted(t, c, dir, "mtls")
	unmount(t, w, dir)
	guest.Poll(t, guest.CommandLimit, "the watcher to end", func() error {
		if out := call(t, nil, nil, "pgrep", "-f", "^mount.nfstls: watching"); out.code == 0 {
			return fmt.Errorf("it lives: %s", out.stdout)
		}
		return nil
	})
}

func (w *world) testHelperRemount(t *testing.T) {
	client, _ := w.both(t)
	dir := mountPoint(t)
	w.wantMounted(t, w.helper(t, client, dir, "-t", "nfstls", "-o", "tls", both), dir, "mtls")
	if c := w.helper(t, client, dir, "-t", "nfstls", "-o", "remount,ro,tls", both); c.code != 0 {
		t.Errorf("remount: %d\n%s", c.code, c.stderr)
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o644); err == nil {
		t.Error("writable after a remount with ro")
	}
	if c := call(t, w.client, client.variable(), "mount", "-o", "remount,rw", dir); c.code != 0 {
		t.Errorf("remount as mount(8) knows it: %d\n%s", c.code, c.stderr)
	}
	use(t, dir, 3)
	if m, _ := mountAt(t, dir); m.XprtSec != "mtls" {
		t.Errorf("after remounts: %+v", m)
	}
	// Without the helper, with it, by force.
	for _, argv := range [][]string{{"umount", "-i", dir}, {"umount.nfstls", dir}, {"umount", "-f", dir}, {"umount", "-l", dir}} {
		if _, ok := mountAt(t, dir); !ok {
			w.wantMounted(t, w.helper(t, client, dir, "-t", "nfstls", "-o", "tls", both), dir, "mtls")
		}
		if c := call(t, w.client, nil, argv...); c.code != 0 {
			t.Errorf("%q: %d\n%s", argv, c.code, c.stderr)
		}
		if _, ok := mountAt(t, dir); ok {
			t.Errorf("%q: still mounted", argv)
		}
	}
	// What is mounted otherwise cannot be made TLS by a remount.
	w.nfsd.Export(t, guest.Export{Path: "/srv/plain", XprtSec: "none:tls:mtls"})
	guest.Mount(t, w.client, "server.test:/srv/plain", dir, "vers=4.2")
	c := w.helper(t, client, dir, "-t", "nfstls", "-o", "remount,tls", "server.test:/srv/plain")
	if c.code != 32 || !strings.Contains(c.stderr, "is mounted with xprtsec=none, which a remount cannot change\nhint: ") {
		t.Errorf("remount of a mount in clear: %d\n%s", c.code, c.stderr)
	}
	guest.Unmount(t, w.client, dir)
}

// realHelper is where the package rpctls-mount puts mount.nfs.
const realHelper = "/usr/sbin/mount.nfs.rpctls-real"

// divert puts mount.nfstls in place of mount.nfs until the end of the test.
func divert(t *testing.T) {
	t.Helper()
	const usual = "/usr/sbin/mount.nfs"
	if err := os.Rename(usual, realHelper); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(realHelper, usual); err != nil { // over the link
			t.Error(err)
		}
	})
	if err := os.Symlink("mount.nfstls", usual); err != nil {
		t.Fatal(err)
	}
}

func (w *world) testHelperInFront(t *testing.T) {
	divert(t)
	client, _ := w.both(t)
	w.nfsd.Export(t, guest.Export{Path: "/srv/plain", XprtSec: "none:tls:mtls"})
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"mtls", []string{"-o", "tls", both}}, // as it is typed
		{"mtls", []string{"-t", "nfs", "-o", "mtls", both}},
		{"mtls", []string{"-t", "nfs4", "-o", "tls", both}},
		{"tls", []string{"-o", "xprtsec=tls", both}},
		{"none", []string{"server.test:/srv/plain"}},
		{"none", []string{"-t", "nfs", "-o", v3, "server.test:/srv/plain"}},
		{"none", []string{"-t", "nfs4", "server.test:/srv/plain"}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			dir := mountPoint(t)
			w.wantMounted(t, w.helper(t, client, dir, tt.args...), dir, tt.want)
			unmount(t, w, dir) // by umount.nfs or umount.nfs4, which are links to mount.nfs
		})
	}
	t.Run("fstab", func(t *testing.T) {
		old, err := os.ReadFile("/etc/fstab")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.WriteFile("/etc/fstab", old, 0o644) })
		one, two, three := mountPoint(t)+"-one", mountPoint(t)+"-two", mountPoint(t)+"-three"
		lines := fmt.Sprintf("%s %s nfs tls,noauto 0 0\n%s %s nfstls _netdev,noauto 0 0\n%s %s nfs tls,noauto,user 0 0\n", both, one, both, two, both, three)
		if err := os.WriteFile("/etc/fstab", append(old, lines...), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, dir := range []string{one, two} {
			w.wantMounted(t, w.helper(t, client, dir), dir, "mtls")
			unmount(t, w, dir)
		}
		// A user may not, and nor may root for users; both hear why.
		if err := os.MkdirAll(three, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, who := range [][]string{nil, {"setpriv", "--reuid", "nobody", "--clear-groups"}} {
			c := call(t, w.client, client.variable(), append(who, "mount", three)...)
			if c.code == 0 || !strings.Contains(c.stderr, "for mounts by users write xprtsec=tls") {
				t.Errorf("%q: %d\n%s", who, c.code, c.stderr)
			}
		}
	})
	t.Run("a helper that mounts in clear", func(t *testing.T) {
		aside := realHelper + ".aside"
		if err := os.Rename(realHelper, aside); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(aside, realHelper)
		for name, script := range map[string]string{
			"at once":           `exec -a mount.nfs ` + aside + ` "$1" "$2" -o vers=4.2`,
			"in the background": `(sleep 2; exec -a mount.nfs ` + aside + ` "$1" "$2" -o vers=4.2) </dev/null >/dev/null 2>&1 &`,
		} {
			t.Run(name, func(t *testing.T) {
				if err := os.WriteFile(realHelper, []byte("#!/bin/bash\n"+script+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
				dir := mountPoint(t)
				c := w.helper(t, client, dir, "-o", "tls", "server.test:/srv/plain")
				if name == "at once" {
					wantRefused(t, c, 32, dir, `was mounted with xprtsec=none, not mtls, and has been unmounted again\nhint: `)
					return
				}
				if c.code != 0 {
					t.Fatalf("%d\n%s", c.code, c.stderr)
				}
				seen := false
				guest.Poll(t, guest.CommandLimit, "the mount in clear to come and go", func() error {
					_, ok := mountAt(t, dir)
					seen = seen || ok
					if out := call(t, nil, nil, "pgrep", "-f", "^mount.nfstls: watching"); out.code == 0 {
						return errors.New("it is still being watched")
					}
					return nil
				})
				if _, ok := mountAt(t, dir); ok {
					t.Errorf("it is still there (seen: %v)", seen)
				}
			})
		}
	})
}

// What is not about TLS reaches the real helper as it is: what it says and how it
// ends are what they are without us.
func (w *world) testHelperPassesOn(t *testing.T) {
	divert(t)
	w.nfsd.Export(t, guest.Export{Path: "/srv/plain", XprtSec: "none:tls:mtls"})
	const plain = "server.test:/srv/plain"
	dir := mountPoint(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(path, name string, user bool, args []string) called {
		argv := append([]string{"-c", `exec -a "$0" "` + path + `" "$@"`, name}, args...)
		if user {
			argv = append([]string{"setpriv", "--reuid", "1000", "--clear-groups", "bash"}, argv...)
		} else {
			argv = append([]string{"bash"}, argv...)
		}
		return call(t, w.client, nil, argv...)
	}
	for _, tt := range []struct {
		name string
		args []string
		user bool
	}{
		{name: "mount.nfs"},
		{name: "mount.nfs", args: []string{"-V"}},
		{name: "mount.nfs4", args: []string{"--version"}},
		{name: "mount.nfs", args: []string{"-h"}},
		{name: "mount.nfs", args: []string{"--help"}},
		{name: "mount.nfs", args: []string{"-N", "1", plain, dir}},
		{name: "mount.nfs", args: []string{plain, dir, "-t", "nfs.x"}},
		{name: "mount.nfs", args: []string{plain, dir, "-o"}},
		{name: "mount.nfs", args: []string{"--", plain, dir}},
		{name: "/sbin/mount.nfs", args: []string{plain}},
		{name: "mount.nfs", args: []string{plain, dir, "one more"}},
		{name: "mount.nfs", args: []string{"no colon", dir}},
		{name: "mount.nfs", args: []string{plain, "/does/not/exist", "-o", "rw"}},
		{name: "mount.nfs", args: []string{plain, "/etc/hostname"}},
		{name: "mount.nfs", args: []string{plain, dir, "-o", "rw,nonsense,vers=4.2"}},
		{name: "mount.nfs", args: []string{plain, dir, "-o", "vers=9"}},
		{name: "mount.nfs", args: []string{plain, dir, "-o", "xprtsec=bogus,vers=4.2"}},
		{name: "mount.nfs", args: []string{plain, dir, "-o", `context="a,tls,b"`}},
		{name: "mount.nfs", args: []string{"nowhere.test:/x", dir, "-o", "retry=0"}},
		{name: "mount.nfs", args: []string{"server.test:/not/exported", dir, "-o", "vers=4.2"}},
		{name: "mount.nfs", args: []string{plain, dir, "-f"}},
		{name: "mount.nfs", args: []string{plain, dir, "-fv", "-o", "vers=4.2,retry=0"}},
		{name: "mount.nfs", args: []string{plain, dir}},
		{name: "mount.nfs4", args: []string{plain, dir, "-sn", "-o", "ro", "-o", "vers=4.1"}},
		{name: "mount.nfs", args: []string{plain, dir, "-o", v3}},
		{name: "mount.nfs", args: []string{plain, dir}, user: true},
		{name: "mount.nfs4", args: []string{plain, dir, "-o", "rw"}, user: true},
		{name: "umount.nfs"},
		{name: "umount.nfs", args: []string{"-h"}},
		{name: "umount.nfs4", args: []string{"/not/mounted"}},
		{name: "umount.nfs", args: []string{"-x", dir}},
		{name: "umount.nfs", args: []string{dir}, user: true},
	} {
		t.Run(tt.name+" "+strings.Join(tt.args, " "), func(t *testing.T) {
			var results [2]called
			var was [2]bool
			for i, path := range []string{realHelper, binary("mount.nfstls")} {
				results[i] = run(path, tt.name, tt.user, tt.args)
				if _, was[i] = mountAt(t, dir); was[i] {
					guest.Unmount(t, w.client, dir)
				}
			}
			// The time in what -v says differs.
			for i := range results {
				results[i].stdout = regexp.MustCompile(`timeout set for .*`).ReplaceAllString(results[i].stdout, "timeout set")
			}
			if results[0] != results[1] || was[0] != was[1] {
				t.Errorf("the real helper:\n%+v, mounted %v\nmount.nfstls:\n%+v, mounted %v", results[0], was[0], results[1], was[1])
			}
			t.Logf("%d, mounted %v", results[0].code, was[0])
		})
	}
}
