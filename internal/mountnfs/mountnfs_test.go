// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/clientask"
	"rpctls/internal/control"
	"rpctls/internal/history"
	"rpctls/internal/mountinfo"
)

// This program plays the helper under test, and the real one.
const (
	asOurs = "MOUNTNFS_TEST_OURS" // the path of the real helper
	asReal = "MOUNTNFS_TEST_REAL"
	// As if the set-user-ID bit were set, and a user called it.
	asSetuid = "MOUNTNFS_TEST_SETUID"
)

func TestMain(m *testing.M) {
	if real, ok := os.LookupEnv(asOurs); ok {
		os.Unsetenv(asOurs)
		os.Setenv(asReal, "1")
		if os.Getenv(asSetuid) != "" {
			if err := syscall.Setresuid(65534, 0, 0); err != nil {
				panic(err)
			}
		}
		p := &program{argv: os.Args, name: filepath.Base(os.Args[0]), stdout: os.Stdout, stderr: os.Stderr, real: []string{"/proc/self/exe", real}}
		os.Exit(p.run())
	}
	if os.Getenv(asReal) != "" {
		// What a real helper would be told, and an exit status of its own.
		json.NewEncoder(os.Stdout).Encode(os.Args)
		fmt.Fprintln(os.Stderr, "the real one")
		os.Exit(77)
	}
	os.Exit(m.Run())
}

// copySelf copies this program: the real helper is another file.
func copySelf(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), RealName)
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// The real helper gets the arguments byte by byte, and its exit status is ours.
func TestPassesOn(t *testing.T) {
	real := copySelf(t)
	for _, argv := range [][]string{
		{"mount.nfs"},
		{"/sbin/mount.nfs", "server:/x", "/mnt"},
		{"mount.nfs4", "server:/x", "/mnt", "-o", "rw,vers=4.2"},
		{"mount.nfs", "server:/x", "/mnt", "-o", "xprtsec=mtls"},
		{"mount.nfs", "server:/x", "/mnt", "-o", "xprtsec=tls,cert_serial=1"},
		{"mount.nfs", "server:/x", "/mnt", "-o", `context="tls,mtls",rw`},
		{"mount.nfs", "server:/x", "/mnt", "-o", "tlsx,nomtls,xtls=1"},
		{"mount.nfs", "tls", "mtls", "--", "-o", "tls"},
		{"mount.nfs", "-x", "-o", "tls"[:2]},
		{"mount.nfs", "", "\xff\x01", " a  b ", "-o", ""},
		{"mount.nfs", "-o"},
		{"mount.nfs", "--opt=rw", "--fake"},
		{"umount.nfs", "/mnt", "-o", "tls"},
		{"umount.nfs4", "-f", "-l", "/mnt"},
		{"mount.nfs", "server:/x", "/mnt", "-o", `context="a,tls`}, // mount.nfs sees no tls there either
		{"mount.nfs", "-h"},
		{"mount.nfs", "-V"},
	} {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: argv, Env: append(os.Environ(), asOurs+"="+real)}
		var stdout, stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		cmd.Run()
		var got []string
		if err := json.Unmarshal(stdout.Bytes(), &got); err != nil {
			t.Errorf("%q: %v, %q", argv, err, stderr.String())
			continue
		}
		want := slices.Clone(argv)
		for i := range want {
			want[i] = strings.ToValidUTF8(want[i], "\ufffd") // as JSON has it
		}
		if diff := cmp.Diff(want, got); diff != "" || cmd.ProcessState.ExitCode() != 77 || stderr.String() != "the real one\n" {
			t.Errorf("%q: exit status %d, %q\n%s", argv, cmd.ProcessState.ExitCode(), stderr.String(), diff)
		}
	}
}

// By our own names the real helper is called by its.
func TestOwnNames(t *testing.T) {
	for argv0, want := range map[string]string{
		"umount.nfstls": "umount.nfs", "/sbin/umount.nfstls": "/sbin/umount.nfs", "/sbin/mount.nfstls": "/sbin/mount.nfs",
		"mount.nfstls": "mount.nfs", "/x/mount.nfs4": "/x/mount.nfs4", "anything": "mount.nfs",
	} {
		if got := asHelper(argv0); got != want {
			t.Errorf("%s: %s, want %s", argv0, got, want)
		}
	}
}

func TestFindRealIsNotUs(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc/self/exe", link); err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := findReal([]string{"/proc/self/exe", exe, link, plain, dir, filepath.Join(dir, "nothing")}); err == nil {
		t.Errorf("found %s", got)
	}
	if got, err := findReal([]string{link, "/bin/sh"}); err != nil || got != "/bin/sh" {
		t.Errorf("%s, %v", got, err)
	}
}

func TestParseArgs(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want commandLine
	}{
		// As util-linux calls helpers.
		{[]string{"s:/x", "/mnt", "-s", "-f", "-n", "-v", "-o", "rw,tls"},
			commandLine{spec: "s:/x", dir: "/mnt", flags: []string{"-s", "-f", "-n", "-v"}, options: []string{"rw", "tls"}, fake: true, verbose: true}},
		{[]string{"-rotls", "s:/x", "-o", `context="a,b",mtls`, "/mnt"},
			commandLine{spec: "s:/x", dir: "/mnt", flags: []string{"-r"}, options: []string{"tls", `context="a,b"`, "mtls"}}},
		{[]string{"--opt", "tls", "--options=ro", "--verb", "--", "-a", "-o"},
			commandLine{spec: "-a", dir: "-o", flags: []string{"-v"}, options: []string{"tls", "ro"}, verbose: true}},
		{[]string{"-", "d"}, commandLine{spec: "-", dir: "d"}},
		{[]string{"-h"}, commandLine{help: true}},
		{[]string{"-V", "x"}, commandLine{version: true}},
	} {
		got, err := parseArgs(tt.args)
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(commandLine{})); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", tt.args, err, diff)
		}
	}
	for want, args := range map[string][]string{
		"0 arguments": {}, "1 arguments": {"s:/x"}, "3 arguments": {"a", "b", "c"},
		"unknown option -x": {"a", "b", "-vx"}, "unknown option --nothing": {"a", "b", "--nothing"},
		"-o needs a value": {"a", "b", "-o"}, "--options needs a value": {"a", "b", "--options"},
		"--fake takes no value": {"a", "b", "--fake=1"}, "option --ver is ambiguous": {"a", "b", "--ver"},
		"unknown option -N": {"a", "b", "-N", "1"},
	} {
		if _, err := parseArgs(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

func TestParseOptions(t *testing.T) {
	for _, tt := range []struct {
		options string
		have    bool // an identity
		want    string
	}{
		{"", false, "tls"},
		{"", true, "mtls then tls"},
		{"tls", true, "mtls then tls"},
		{"tls", false, "tls"},
		{"mtls", false, "mtls"},
		{"tls,mtls", true, "mtls"},
		{"tlscertname=a.b", false, "mtls as a.b"},
		{"tls,tlscertname=a,tlscertname=a", true, "mtls as a"},
		{"xprtsec=tls", true, "tls"},
		{"xprtsec=mtls", false, "mtls"},
		{"tls,xprtsec=tls", true, "tls"},
		{"mtls,xprtsec=mtls", true, "mtls"},
		{"tlscertname=a,xprtsec=mtls", true, "mtls as a"},
		{"tls,xprtsec=mtls", true, "error: xprtsec=mtls contradicts"},
		{"mtls,xprtsec=tls", true, "error: xprtsec=tls contradicts"},
		{"xprtsec=tls,xprtsec=mtls", true, "error: xprtsec=mtls contradicts"},
		{"xprtsec=none", true, "error: xprtsec=none is not TLS"},
		{"tls,xprtsec=", true, "error: xprtsec= is not TLS"},
		{"tlscertname=", true, "error: tlscertname: "},
		{"tlscertname", true, "error: tlscertname: "},
		{"tlscertname=A", true, "error: tlscertname: "},
		{"tlscertname=a,tlscertname=b", true, "error: tlscertname=b contradicts tlscertname=a"},
		{"tlscertname=a,privkey_serial=1", true, "error: tlscertname contradicts cert_serial"},
		{"tls=1", true, "error: option tls takes no value"},
		{"mtls=", true, "error: option mtls takes no value"},
		{"tls,user", true, "error: user: tls, mtls and tlscertname are for mounts by root: for mounts by users write xprtsec="},
		{"users,mtls", true, "error: users: "},
		{"tlscertname=a,owner", true, "error: owner: "},
		{"group,tls", true, "error: group: "},
		{"user=alice,tls,xprtsec=tls", true, "error: user: "},
		{"user", true, "error: user: "}, // the type is nfstls, and the real helper knows no more of it
		{"remount,tls,user", true, "error: user: "},
		{"user,xprtsec=mtls", true, "mtls"},
		{`tls,context="a,b`, true, `error: a quotation mark is missing in context="a,b`},
		{`context="a"b",tls`, true, "error: a quotation mark is missing"},
		{`tls,context="a,b"`, false, "tls"},
	} {
		w, err := parseOptions(splitOptions(tt.options))
		var got []string
		for _, a := range w.attempts(tt.have) {
			s := a.xprtsec
			if a.identity != "" {
				s += " as " + a.identity
			}
			got = append(got, s)
		}
		text := strings.Join(got, " then ")
		if err != nil {
			text = "error: " + err.Error()
		}
		if want, isError := strings.CutPrefix(tt.want, "error: "); text != tt.want && !(isError && err != nil && strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %s, want %s", tt.options, text, tt.want)
		}
	}
}

// What the real helper is told.
func TestHelperOptions(t *testing.T) {
	for _, tt := range []struct{ options, want string }{
		{"tls", "xprtsec=mtls,vers=4"},
		{`rw,tls,context="a,tls",noatime`, `xprtsec=mtls,vers=4,rw,context="a,tls",noatime`},
		{"mtls,vers=4.1", "xprtsec=mtls,vers=4.1"},
		{"mtls,v4.2,minorversion=2", "xprtsec=mtls,v4.2,minorversion=2"},
		{"mtls,vers=3,nolock", "xprtsec=mtls,vers=3,nolock"},
		{"tlscertname=a,bg", "xprtsec=mtls,cert_serial=7,privkey_serial=7,vers=4,bg"},
		{"mtls,mountport=635", "xprtsec=mtls,vers=4,mountport=635"},
		{"mtls,mountaddr=10.0.0.1", "xprtsec=mtls,mountaddr=10.0.0.1"},
	} {
		w, err := parseOptions(splitOptions(tt.options))
		if err != nil {
			t.Fatal(err)
		}
		serial := int32(0)
		if w.identity != "" {
			serial = 7
		}
		if got := strings.Join(w.options(w.attempts(true)[0], serial), ","); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.options, got, tt.want)
		}
	}
	for options, clientID := range map[string]bool{
		"": true, "vers=4": true, "nfsvers=4.2": true, "v4.1": true, "vers=3": false, "v3": false, "mountproto=tcp": false,
		"mountport=635": true, "vers=4.2,mountproto=tcp": true, "mountproto=tcp,vers=4.2": true, "mounthost=a,v4": true, "v4.2,mountvers=3": true,
		"vers=3,mountproto=tcp": false, "mountaddr=10.0.0.1": false, "minorversion=1": true, "v3,vers=4": true, "vers=4,vers=3": true,
	} {
		if w, err := parseOptions(splitOptions(options)); err != nil || w.clientID != clientID {
			t.Errorf("%q: %v, %v", options, w.clientID, err)
		}
	}
}

// Two policies, or two identities, never have one name, however long the host's
// is; and every name fits.
func TestNodeName(t *testing.T) {
	long := strings.Repeat("h", 63)
	attempts := []attempt{
		{mountinfo.TLS, "", ""}, {mountinfo.Mutual, "", ""}, {mountinfo.Mutual, "a", ""}, {mountinfo.Mutual, "7", ""}, {mountinfo.Mutual, "", "7"},
		{mountinfo.Mutual, strings.Repeat("i", 64), ""}, {mountinfo.Mutual, strings.Repeat("i", 63) + "j", ""},
	}
	seen := make(map[string]bool)
	for _, host := range []string{"client", "", long, long + "h", long[:62] + "g", long[:60]} {
		if seen[host] {
			t.Errorf("%q is also the name of another host's mount", host)
		}
		for _, a := range attempts {
			name := nodeName(host, a)
			if seen[name] || name == host || len(name) > maxNodeName || name != nodeName(host, a) {
				t.Errorf("%q for %q, %v", name, host, a)
			}
			seen[name] = true
		}
	}
	if got := nodeName("client", attempts[2]); got != "client+mtls:a" {
		t.Error(got)
	}
}

func TestExplain(t *testing.T) {
	old := kernelTLS
	kernelTLS = func() bool { return true } // whatever this machine has
	t.Cleanup(func() { kernelTLS = old })
	ok := history.Event{Role: "client", Reason: "ok"}
	bad := history.Event{Role: "client", Reason: "unknown_ca", Error: "x509:\nno", Hint: "trust it"}
	denied, nobody := outcome{code: 32, said: "mount.nfs: access denied by server while mounting x\n"}, outcome{code: 32, said: "mount.nfs: No such process for x on y\n"}
	other := outcome{code: 32, said: "mount.nfs: something else\n"}
	mutual := attempt{xprtsec: mountinfo.Mutual}
	for _, tt := range []struct {
		name   string
		o      outcome
		events []history.Event
		want   string
	}{
		{"a handshake failed", denied, []history.Event{bad, ok}, "TLS handshake failed (unknown_ca): this host does not trust the CA that issued the server's certificate: x509: no"},
		{"all went well", denied, []history.Event{ok, ok}, "the server refuses this host"},
		{"the server hung up", outcome{code: 32, said: "mount.nfs: Broken pipe for x on y\n"}, []history.Event{ok}, "the server refuses this host, though the connection is encrypted"},
		{"something else", other, []history.Event{ok}, ""},
		{"nothing is known", denied, nil, ""},
		{"nobody answers", nobody, nil, "nobody answers the kernel's request for a TLS handshake, though rpctlscd is running"},
	} {
		if got := explain(tt.o, mutual, tt.events, &agent{}); !strings.HasPrefix(got.text, tt.want) || (tt.want == "") != (got.text == "") || got.text != "" && got.hint == "" {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// However the options look, none of them gets lost or is made up, and what is
// for the kernel to know is said once.
func FuzzCommandLine(f *testing.F) {
	f.Add("s:/x", "/mnt", "rw,tls", "-vn")
	f.Add("--", "-o", `context="a,tls"`, "-o")
	f.Add("", "", `",,mtls,tlscertname=a,xprtsec=mtls`, "--opt=tls")
	f.Fuzz(func(t *testing.T, spec, dir, options, more string) {
		c, err := parseArgs([]string{spec, dir, "-o", options, more})
		if err != nil {
			return
		}
		if strings.Trim(strings.Join(splitOptions(options), ","), ",") != strings.Trim(squeeze(options), ",") {
			t.Errorf("%q becomes %q", options, splitOptions(options))
		}
		w, err := parseOptions(c.options)
		if err != nil {
			return
		}
		for _, a := range w.attempts(true) {
			said := 0
			for _, o := range w.options(a, 0) {
				if strings.HasPrefix(o, "xprtsec=") && !w.remount {
					said++
				}
				if ours([]string{o}) {
					t.Errorf("%q is left", o)
				}
			}
			if said != 1 && !w.remount {
				t.Errorf("xprtsec is said %d times: %q", said, w.options(a, 0))
			}
		}
	})
}

// squeeze leaves out empty items between commas that are not quoted.
func squeeze(s string) string {
	var b strings.Builder
	quoted := false
	for i := range len(s) {
		if s[i] == '"' {
			quoted = !quoted
		}
		if s[i] == ',' && !quoted && (b.Len() == 0 || i+1 == len(s) || s[i+1] == ',') {
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// fakeDaemon answers what a mount asks, with one handshake that failed for good.
// More handlers add to its own, or take their place.
func fakeDaemon(t *testing.T, more map[string]control.Handler) (restart func()) {
	t.Helper()
	dir := t.TempDir()
	past := history.New()
	handlers := map[string]control.Handler{
		clientask.OpHistory: control.Typed(func(_ context.Context, _ *control.Call, q history.Query) (history.Answer, error) {
			got := past.Ask(q)
			if got.Last == 0 { // after the first question
				past.Add(history.Event{Time: time.Now(), Role: "client", PeerName: "server.test", Reason: "unknown_ca", Errno: "EACCES", Error: "who is that?", Hint: "ask"})
			}
			return got, nil
		}),
		clientask.OpIdentity: control.Typed(func(context.Context, *control.Call, clientask.Identity) (clientask.Identities, error) {
			return clientask.Identities{}, nil
		}),
	}
	maps.Copy(handlers, more)
	start := func() (stop func()) {
		s, err := control.Listen(dir, clientask.Daemon, control.MaxConns, handlers, func(err error) { t.Log(err) })
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		return func() { cancel(); <-done }
	}
	stop := start()
	t.Cleanup(func() { stop() })
	useRuntimeDirectory(t, dir)
	return func() { stop(); stop = start() }
}

// useRuntimeDirectory has mounts look for the daemon there.
func useRuntimeDirectory(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpctlscd.toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, "runtime_directory = %q\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(configVariable, path)
}

// A helper that waits for nothing is ended, and the reason is said.
func TestHopeless(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a mount with TLS is root's")
	}
	patience, look := hopelessAfter, lookEvery
	hopelessAfter, lookEvery = 50*time.Millisecond, 10*time.Millisecond
	t.Cleanup(func() { hopelessAfter, lookEvery = patience, look })
	for name, script := range map[string]string{"heeds": "exec sleep 600", "does not heed": "trap '' TERM; sleep 5 </dev/null >/dev/null 2>&1"} {
		t.Run(name, func(t *testing.T) {
			fakeDaemon(t, nil)
			dir := t.TempDir()
			real := filepath.Join(dir, "real")
			if err := os.WriteFile(real, []byte("#!/bin/sh\necho the real one >&2\n"+script+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			var stderr bytes.Buffer
			// NFSv3 needs no UTS namespace.
			p := &program{argv: []string{"mount.nfs", "server.test:/x", dir, "-o", "tls,vers=3"}, name: "mount.nfs", stdout: io.Discard, stderr: &stderr, real: []string{real}}
			if code := p.run(); code != exitFail {
				t.Errorf("exit code %d", code)
			}
			if want := "mount.nfs: server.test:/x: TLS handshake failed (unknown_ca): this host does not trust the CA that issued the server's certificate: who is that?\nhint: rpctlsctl cert trust CA.pem\n"; stderr.String() != want {
				t.Errorf("%q, want %q", stderr.String(), want)
			}
		})
	}
}
