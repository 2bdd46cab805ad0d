// SPDX-License-Identifier: BSD-3-Clause

package scripts

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A step is what is typed on a host, and what should come of it.
type step struct {
	do      string   // a shell command
	code    int      // exit status
	out     []string // expressions, each of which a line of the output matches
	err     []string // the same of the errors, of which there are no other lines
	not     []string // expressions that no line of either matches
	changes bool     // else nothing on the host is different afterwards
}

// A host is where steps are done, one after the other.
func run(t *testing.T, prepare string, steps ...step) {
	t.Helper()
	if os.Geteuid() != 0 || unshare("true").Run() != nil {
		t.Skip("only root can make up a host in a mount namespace")
	}
	// The shell reads them; "go test" is to know that a result depends on them.
	files, err := filepath.Glob("rpctls-*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "testdata/host.sh") {
		if _, err := os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	var script strings.Builder
	script.WriteString("set +e\n" + treeFunction + prepare + "\n")
	for i, s := range steps {
		fmt.Fprintf(&script, "tree >%[1]s/%[2]d.before\n(\n%[3]s\n) >%[1]s/%[2]d.out 2>%[1]s/%[2]d.err </dev/null\necho $? >%[1]s/%[2]d.code\ntree >%[1]s/%[2]d.after\n", dir, i, s.do)
	}
	path := filepath.Join(dir, "script")
	if err := os.WriteFile(path, []byte(script.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := unshare("sh", "testdata/host.sh", binaries, wd(t), path).CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	for i, s := range steps {
		read := func(what string) string {
			t.Helper()
			b, err := os.ReadFile(fmt.Sprintf("%s/%d.%s", dir, i, what))
			if err != nil {
				t.Fatal(err)
			}
			return string(b)
		}
		out, errors := read("out"), read("err")
		fail := func(format string, args ...any) {
			t.Helper()
			t.Errorf("%s: %s\nstdout:\n%sstderr:\n%s", s.do, fmt.Sprintf(format, args...), out, errors)
		}
		if got := strings.TrimSpace(read("code")); got != fmt.Sprint(s.code) {
			fail("exit status %s, want %d", got, s.code)
		}
		for _, want := range s.out {
			if !slices.ContainsFunc(lines(out), matches(want)) {
				fail("no line is %s", want)
			}
		}
		left := lines(errors)
		for _, want := range s.err {
			n := slices.IndexFunc(left, matches(want))
			if n < 0 {
				fail("no error is %s", want)
				continue
			}
			left = slices.Delete(left, n, n+1)
		}
		if len(left) > 0 {
			fail("unexpected: %q", left)
		}
		for _, not := range s.not {
			if slices.ContainsFunc(lines(out+errors), matches(not)) {
				fail("a line is %s", not)
			}
		}
		before, after := read("before"), read("after")
		if (before != after) != s.changes {
			fail("changes (-before +after): %s", cmp.Diff(lines(before), lines(after)))
		}
	}
}

// treeFunction lists what a host is: its files, and the state of its units.
const treeFunction = `tree() {
	for dir in /etc/rpctls . /usr/local/sbin; do
		find "$dir" -printf '%p %y %m %U %G %l\n'
		find "$dir" -type f -exec cksum {} +
	done | sort
	ls -d /run/fake/active* /run/fake/enabled* /run/rpctls-setup.?* 2>/dev/null || true
}
`

func unshare(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	return cmd
}

func lines(s string) []string {
	return slices.DeleteFunc(strings.Split(s, "\n"), func(l string) bool { return l == "" })
}

// matches is for a whole line.
func matches(expr string) func(string) bool {
	return regexp.MustCompile("^(?:" + expr + ")$").MatchString
}

func wd(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// binaries is a directory with the programs.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rpctls-scripts-*")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		binaries = dir
		cmd := exec.Command("go", "build", "-o", dir, "rpctls/cmd/rpctlsctl", "rpctls/cmd/rpctlscd", "rpctls/cmd/rpctlssd")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v: %s", err, out)
			return 1
		}
		// The user rpctls has to reach them.
		if err := os.Chmod(dir, 0o755); err != nil {
			panic(err)
		}
		return m.Run()
	}())
}

func TestServer(t *testing.T) {
	run(t, "", step{
		do: "rpctls-server-setup --dry-run nfs.example.com",
		out: []string{
			`would make CN=rpctls CA of .*, until 20[0-9-]*: /etc/rpctls/ca`,
			`would issue a server's certificate for nfs.example.com, .*until 20[0-9-]*`,
			`would write /etc/rpctls/ca.pem`,
			`would write /etc/rpctls/rpctlssd.d/10-setup.toml`,
			`would enable rpctlssd.service`, `would start rpctlscd.service`,
			`would start rpctls-cert-renew.timer`,
		},
		not: []string{`.*/run/.*`, `(wrote|made|issued|started|enabled).*`},
	}, step{
		do: "rpctls-server-setup nfs.example.com",
		out: []string{
			`made CN=rpctls CA of .*`, `wrote /etc/rpctls/server.key`, `wrote /etc/rpctls/crl/ca-[0-9a-f]{16}.pem`,
			`wrote /etc/rpctls/rpctlssd.d/10-setup.toml`,
			`enabled rpctlssd.service`, `started rpctlssd.service`, `started rpctlscd.service`, `started rpctls-cert-renew.timer`,
			`    /export \*\(rw,sync,no_subtree_check,xprtsec=tls:mtls\)`,
			`    mount -o tls nfs.example.com:/export /mnt`,
			`    rpctls-client-setup ca.pem`,
		},
		changes: true,
	}, step{
		do: "rpctls-server-setup nfs.example.com",
		out: []string{
			`CN=rpctls CA of .* is there already, .*`, `a server's certificate for nfs.example.com.* is installed already, .*`,
			`everything was there already: nothing was changed`, `    mount -o tls nfs.example.com:/export /mnt`,
		},
		not: []string{`(wrote|made|issued|started|enabled|reloaded).*`},
	}, step{
		do:  "cat /etc/rpctls/rpctlssd.d/10-setup.toml",
		out: []string{`trust = "/etc/rpctls/ca.pem"`, `crl = \["/etc/rpctls/crl"\]`, `certificate = "/etc/rpctls/server.pem"`},
	}, step{
		do:  "stat -c '%a %U %G' /etc/rpctls/identity/server/current/key.pem /etc/rpctls/ca/ca.key; cat /run/fake/log",
		out: []string{`640 root rpctls`, `600 root root`, `start rpctlssd`},
	}, step{
		// Another certificate, and the daemons hear of it.
		do:      "rpctls-server-setup nfs.example.com nfs2.example.com --no-addresses",
		out:     []string{`issued a server's certificate for nfs.example.com, nfs2.example.com, until .*`, `reloaded rpctlssd.service`},
		err:     []string{`rpctls-server-setup: note: nfs2.example.com does not resolve on this host; .*`},
		changes: true,
	}, step{
		do: "rpctls-server-setup nfs.example.com nfs2.example.com --no-addresses --client client1.example.com --client=client2.example.com",
		out: []string{
			`issued a client's certificate for client1.example.com, .*`, `wrote ./client1.example.com.bundle`,
			`    rpctls-client-setup client2.example.com.bundle`,
		},
		err: []string{
			`rpctls-server-setup: note: nfs2.example.com does not resolve on this host; .*`,
			`rpctls-server-setup: note: ./client1.example.com.bundle holds a private key in clear: .*`,
			`rpctls-server-setup: note: ./client2.example.com.bundle holds a private key in clear: .*`,
		},
		changes: true,
	}, step{
		do:  "rpctls-server-setup nfs.example.com --elsewhere nfs2.example.com --no-addresses --client client1.example.com",
		out: []string{`./client1.example.com.bundle is there already, until 20[0-9-]*`, `everything was there already: nothing was changed`},
		err: []string{`rpctls-server-setup: note: nfs2.example.com does not resolve on this host; .*`},
	})
}

// What is wrong is said in a line, with a hint, and nothing is changed.
func TestServerRefuses(t *testing.T) {
	const setup = "rpctls-server-setup nfs.example.com"
	const mend = `hint: mend that, then do it again`
	refusal := func(do string, code int, err ...string) step { return step{do: do, code: code, err: err} }
	usage := func(args, err string) step {
		return refusal("rpctls-server-setup "+args, 2, err, `hint: rpctls-server-setup --help`)
	}
	run(t, `printf 'Junk\n' >junk; : >empty; mkdir dir`,
		usage("--bogus nfs.example.com", `rpctls-server-setup: unknown option --bogus`),
		usage("--dry-run=yes nfs.example.com", `rpctls-server-setup: unknown option --dry-run=yes`),
		usage("nfs.example.com --client", `rpctls-server-setup: --client needs a value`),
		usage("", `rpctls-server-setup: by which name do clients mount from this host\?`),
		usage("''", `rpctls-server-setup: an argument is empty, or has more than one line`),
		usage("--import", `rpctls-server-setup: which files shall be imported\?`),
		usage("--import --csr-only x", `rpctls-server-setup: --csr-only and --import exclude each other`),
		usage("--csr-only --client c nfs.example.com", `rpctls-server-setup: --client needs the CA of this host, .*`),
		usage("--trust none nfs.example.com", `rpctls-server-setup: --trust none is none of add, replace, keep`),
		usage("--key x nfs.example.com", `rpctls-server-setup: --key and --ca are for --import`),
		usage("--client a/b nfs.example.com", `rpctls-server-setup: a client's name has no slash`),
		usage("nfs..example.com", `rpctls-server-setup: "nfs..example.com" is not a host name: .*`),
		usage("'nfs example'", `rpctls-server-setup: "nfs example" is not a host name: .*`),
		refusal("rpctls-server-setup mistyped.example.com", 1,
			`rpctls-server-setup: mistyped.example.com leads to 192.0.2.77, and this host has none of these addresses`,
			`hint: is it mistyped\? .* say --elsewhere`),
		refusal("rpctls-server-setup --permit example.org nfs.example.com", 1,
			`rpctls-server-setup: nfs.example.com: this CA certifies only example.org`,
			`hint: rpctlsctl cert show shows what it may certify; .*`),
		refusal("rpctls-server-setup --import missing.pem", 1, `rpctls-server-setup: missing.pem: no such file`, `hint: is the path right\?`),
		refusal("rpctls-server-setup --import dir", 1, `rpctls-server-setup: dir: not a file`, `hint: .*`),
		refusal("rpctls-server-setup --import empty", 1, `rpctls-server-setup: empty is empty`, `hint: .*`),
		refusal("rpctls-server-setup --import junk", 1, `rpctls-server-setup: junk: neither PEM nor DER of a certificate or private key`, mend),
		refusal("rpctls-server-setup --crl missing.pem nfs.example.com", 1, `rpctls-server-setup: missing.pem: no such file`, `hint: is the path right\?`),
		refusal("rpctls-server-setup --crl junk nfs.example.com", 1, `rpctls-server-setup: as user rpctls: load CRL: /etc/rpctls/crl/junk.crl: .*`, mend),
		usage("nfs.example.com --client ''", `rpctls-server-setup: the value of --client is empty, or has more than one line`),
		usage("nfs.example.com --encrypt", `rpctls-server-setup: --encrypt is for --client`),
		usage("nfs.example.com --passphrase-file junk", `rpctls-server-setup: --passphrase-file is for --client and --import`),
		usage("--csr-only nfs.example.com --passphrase-file junk", `rpctls-server-setup: --passphrase-file is for --client and --import`),
		refusal("setpriv --reuid=65534 --regid=65534 --clear-groups "+setup, 1,
			`rpctls-server-setup: only root can do this`, `hint: run it with sudo, or as root`),
	)
	in := func(name, prepare string, err ...string) {
		t.Run(name, func(t *testing.T) {
			run(t, prepare, refusal(setup, 1, err...), refusal(setup+" --dry-run", 1, err...))
		})
	}
	in("1970", `fake date <<'END'
#!/bin/sh
exec /usr/bin/date -d @4711 "$@"
END`, `rpctls-server-setup: the clock is wrong: it says 1970-01-01 01:18:31 UTC`, `hint: set it .*`)
	in("full disk", `dd if=/dev/zero of=/etc/rpctls/ballast bs=4k 2>/dev/null`,
		`rpctls-server-setup: there is no room on the file system of /etc/rpctls: 0 KiB and .*`, `hint: make room .*`)
	in("full memory", `mount -o remount,size=64k /run`, `rpctls-server-setup: there is no room .*`, `hint: df /run.*`)
	in("read-only", `mount -o remount,ro /etc/rpctls`, `rpctls-server-setup: /etc/rpctls cannot be written to: .*`, `hint: mount -o remount,rw`)
	in("no systemd", `rmdir /run/systemd/system`, `rpctls-server-setup: this system does not run systemd`, `hint: .*`)
	in("no user", `sed -i /rpctls/d /etc/passwd 2>/dev/null || { grep -v rpctls /etc/passwd >p; cat p >/etc/passwd; rm p; }`,
		`rpctls-server-setup: there is no user rpctls, or no group of that name`, `hint: run systemd-sysusers`)
	in("no configuration", `rm /etc/rpctls/rpctlssd.toml`, `rpctls-server-setup: /etc/rpctls/rpctlssd.toml is missing`, `hint: .*`)
	in("bad configuration", `echo 'nonsense = 1' >/etc/rpctls/rpctlssd.d/99-local.toml`,
		`rpctls-server-setup: as user rpctls: /etc/rpctls/rpctlssd.d/99-local.toml:1:1: unknown key "nonsense"`, mend)
	in("old systemd", `echo 'systemd 253 (253.4)' >/run/fake/version`,
		`rpctls-server-setup: systemd is too old: it is version 253, and the units need 254 .*`, `hint: .*/usr/share/doc/rpctls/setup.md`)
	in("no kernel", `[ ! -s /proc/kallsyms ] && kallsyms '0 T vfs_read'`, `rpctls-server-setup: this kernel .* has no TLS handshakes .*`, `hint: .*`)
	in("no module", `fake modprobe <<'END'
#!/bin/sh
exit 1
END`, `rpctls-server-setup: the kernel module tls cannot be loaded`, `hint: modprobe tls says why; .*`)
	in("tlshd", `: >/run/fake/active.tlshd; : >/run/fake/enabled.tlshd`,
		`rpctls-server-setup: tlshd is running, and would take half of the kernel's requests`, `hint: --replace-tlshd stops and disables it; .*`)
	in("another setup", `exec 8</usr/local/sbin/rpctls-setup-lib.sh; flock 8`,
		`rpctls-server-setup: another setup is running on this host`, `hint: wait for it`)
	in("another CA's certificate", `(rpctlsctl cert init --ca-dir other; rpctlsctl cert server --ca-dir other nfs.example.com) >/dev/null; rm -r other`,
		`rpctls-server-setup: /etc/rpctls/server.pem was issued by CN=.*, not by the CA in /etc/rpctls/ca`, `hint: --force replaces it`)
	in("another CA's trust", `(rpctlsctl cert init --ca-dir other; rpctlsctl cert trust other/ca.pem) >/dev/null; rm -r other`,
		`rpctls-server-setup: /etc/rpctls/ca.pem: other CAs are trusted there, .*`, `hint: --trust add trusts it as well, .*`)
}

// Where the kernel shows no symbols, and where systemd is just new enough, the
// setup goes on.
func TestServerAccepts(t *testing.T) {
	for name, prepare := range map[string]string{
		"no symbols":  `mount --bind /dev/null /proc/kallsyms`,
		"systemd 254": `echo 'systemd 254 (254)' >/run/fake/version`,
		"a candidate": `echo 'systemd 258~rc1' >/run/fake/version`,
		"no version":  `: >/run/fake/version`,
	} {
		t.Run(name, func(t *testing.T) {
			run(t, prepare, step{do: "rpctls-server-setup --dry-run nfs.example.com", out: []string{`would make .*`}})
		})
	}
}

// An exportfs that does not know the option.
func TestOldExportfs(t *testing.T) {
	run(t, `fake exportfs </dev/null`, step{
		do: "rpctls-server-setup nfs.example.com", changes: true,
		err: []string{`rpctls-server-setup: note: exportfs here does not know xprtsec=, .*: nfs-utils 2.6.3 or later does`},
	})
}

// A bundle that is there is judged before it is offered.
func TestOldBundle(t *testing.T) {
	const setup = "rpctls-server-setup nfs.example.com --client client1.example.com"
	useless := func(why string) step {
		return step{
			do: setup, not: []string{`.*rpctls-client-setup client1.*`, `./client1.*there already, until.*`},
			err: []string{`rpctls-server-setup: note: ./client1.example.com.bundle is there already, and of no use: ` + why + `; remove it, and do this again`},
		}
	}
	run(t, setup+` >/dev/null 2>&1`,
		step{do: setup, out: []string{`./client1.example.com.bundle is there already, until 20[0-9-]*`, `    rpctls-client-setup client1.example.com.bundle`}},
		step{do: "rpctlsctl cert revoke client1.example.com && rpctlsctl cert client client1.example.com", changes: true},
		useless("it is revoked"),
		step{do: "mv client1.example.com.bundle old; (rpctlsctl cert init --dir other; rpctlsctl cert client --dir other client1.example.com; rpctlsctl cert bundle --dir other client1.example.com) >/dev/null 2>&1; rm -r other", changes: true},
		useless("it is none of the CA of this host"),
		step{do: "echo secret >pw; rpctlsctl cert bundle client1.example.com --force --passphrase-file pw >/dev/null", changes: true},
		step{do: setup, out: []string{`./client1.example.com.bundle is there already, encrypted, of 20[0-9-]*: until when .*`, `    rpctls-client-setup client1.example.com.bundle`}},
	)
}

// A tlshd that runs without systemd is found as well.
func TestStrayTlshd(t *testing.T) {
	run(t, `cp /bin/sleep tlshd; ./tlshd 60 & agent=$!`,
		step{
			do: "rpctls-client-setup --replace-tlshd /etc/hosts", code: 1,
			err: []string{`rpctls-client-setup: tlshd is running \(process [0-9]*, not as a service\), and would take half of the kernel's requests`, `hint: end it for good, .*`},
		},
		step{do: "kill $agent"},
	)
}

// What fails only when it is done in earnest is undone.
func TestServerUndoes(t *testing.T) {
	const setup = "rpctls-server-setup nfs.example.com"
	const undone = `rpctls-server-setup: nothing was changed: what had been done is undone`
	for _, tt := range []struct {
		name, prepare, do string
		err               []string
	}{
		{"does not start", `: >/run/fake/broken.rpctlscd`, setup,
			[]string{`rpctls-server-setup: rpctlscd.service does not start: what the journal says`, `hint: systemctl status rpctlscd.service`, undone}},
		{"cannot be enabled", `: >/run/fake/broken-enable.rpctlssd`, setup,
			[]string{`rpctls-server-setup: rpctlssd.service cannot be enabled`, `hint: .*`, undone}},
		{"does not reload", setup + ` >/dev/null; : >/run/fake/broken.rpctlssd`, setup + " 192.0.2.9 --client client1.example.com",
			[]string{`rpctls-server-setup: rpctlssd.service does not reload: what the journal says`, `hint: .*`,
				`rpctls-server-setup: note: ./client1.example.com.bundle holds .*`, undone}},
		{"no room after all", `fake df <<'END'
#!/bin/sh
printf 'Filesystem 1 2 available\ntmpfs 9999 1 9999\n'
END
dd if=/dev/zero of=/etc/rpctls/ballast bs=4k 2>/dev/null; truncate -s -24k /etc/rpctls/ballast`, setup,
			[]string{`rpctls-server-setup: .*no space left on device`, `hint: make room .*`, undone}},
		{"tlshd", `: >/run/fake/active.tlshd; : >/run/fake/enabled.tlshd; : >/run/fake/broken.rpctlssd`, setup + " --replace-tlshd",
			[]string{`rpctls-server-setup: rpctlssd.service does not start: .*`, `hint: .*`, undone}},
		// Nobody reads what is said: of rpctlsctl, and of the script itself.
		{"not read", `mkfifo pipe; exec 3<>pipe; exec 4>pipe; exec 3<&-`, setup + " >&4", []string{undone}},
		{"read to some line", `mkfifo pipe; cat <pipe >/dev/null & reader=$!; exec 4>pipe
fake systemctl2 </usr/local/sbin/systemctl; fake systemctl <<END
#!/bin/sh
case \$* in enable*) kill $reader; while [ -e /proc/$reader/fd/0 ]; do :; done ;; esac
exec systemctl2 "\$@"
END`, setup + " >&4", []string{undone}},
		{"interrupted", `fake systemctl2 </usr/local/sbin/systemctl; fake systemctl <<'END'
#!/bin/sh
case $* in start*) kill -TERM $PPID ;; esac
exec systemctl2 "$@"
END`, setup, []string{undone}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code := 1
			switch tt.name {
			case "interrupted":
				code = 143
			case "not read", "read to some line":
				code = 141
			}
			run(t, tt.prepare, step{do: tt.do, code: code, err: tt.err})
		})
	}
}

// Undoing a setup does not undo what somebody else has revoked meanwhile.
func TestUndoSparesRevocations(t *testing.T) {
	run(t, `rpctls-server-setup nfs.example.com --client client1.example.com >/dev/null 2>&1
fake systemctl2 </usr/local/sbin/systemctl; fake systemctl <<'END'
#!/bin/sh
case $1 in
reload)
	rpctlsctl cert revoke client1.example.com >/dev/null
	exit 1
	;;
esac
exec systemctl2 "$@"
END`, step{
		do: "rpctls-server-setup nfs.example.com 192.0.2.9", code: 1, changes: true,
		err: []string{`rpctls-server-setup: rpctlssd.service does not reload: .*`, `hint: .*`,
			`rpctls-server-setup: a certificate was revoked meanwhile: /etc/rpctls is left as it is`, `hint: do it again`},
	}, step{
		do:  "rpctlsctl cert list; cmp /etc/rpctls/ca/crl.pem /etc/rpctls/crl/*.pem",
		out: []string{`[0-9a-f]* +client +revoked +.*client1.example.com`},
	})
}

func TestReplaceTlshd(t *testing.T) {
	run(t, `: >/run/fake/active.tlshd; : >/run/fake/enabled.tlshd`,
		step{do: "rpctls-server-setup --replace-tlshd --dry-run nfs.example.com", out: []string{`would stop and disable tlshd`}},
		step{do: "rpctls-server-setup --replace-tlshd nfs.example.com", out: []string{`stopped and disabled tlshd`}, changes: true},
		step{do: "ls /run/fake", not: []string{`.*tlshd.*`}},
		step{do: "rpctls-server-setup --replace-tlshd nfs.example.com", out: []string{`everything was there already: nothing was changed`}},
	)
}

// authority is an existing CA, made by openssl, with an intermediate one that
// signs what "sign REQUEST ANSWER server|client" is given.
const authority = `mkdir pki && (
	cd pki
	printf 'subjectAltName=DNS:nfs.example.com\nextendedKeyUsage=serverAuth\n' >server.ext
	printf 'subjectAltName=DNS:client1.example.com\nextendedKeyUsage=clientAuth\n' >client.ext
	printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n' >ca.ext
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout root.key -subj /CN=root -days 3650 \
		-addext keyUsage=critical,keyCertSign,cRLSign -out root.pem
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout middle.key -subj /CN=middle -out middle.csr
	openssl x509 -req -in middle.csr -CA root.pem -CAkey root.key -CAcreateserial -days 1000 -extfile ca.ext -out middle.pem
) 2>/dev/null >&2
sign() {
	openssl x509 -req -in "$1" -CA pki/middle.pem -CAkey pki/middle.key -CAcreateserial -days 300 -extfile "pki/$3.ext" -out "$2" 2>/dev/null
}
`

func TestExistingCA(t *testing.T) {
	run(t, authority, step{
		do:  "rpctls-server-setup --dry-run --csr-only nfs.example.com --no-addresses",
		out: []string{`would write /etc/rpctls/request/server/request.csr`},
		not: []string{`would (start|enable).*`},
	}, step{
		do:      "rpctls-server-setup --csr-only nfs.example.com --no-addresses",
		out:     []string{`wrote /etc/rpctls/request/server/request.csr`, `then: rpctls-server-setup --import ANSWER CA`},
		not:     []string{`started.*`},
		changes: true,
	}, step{
		do:  "rpctls-server-setup --csr-only nfs.example.com --no-addresses",
		out: []string{`a request for it waits already: /etc/rpctls/request/server/request.csr`, `everything was there already: nothing was changed`},
	}, step{
		do:      "sign /etc/rpctls/request/server/request.csr nfs.pem server; sign /etc/rpctls/request/server/request.csr wrong.pem client",
		changes: true,
	}, step{
		do: "rpctls-server-setup --import nfs.pem pki/root.pem", code: 1,
		err: []string{`rpctls-server-setup: chain incomplete: nfs.pem: .*`, `hint: nothing was installed`},
	}, step{
		do: "rpctls-server-setup --import wrong.pem pki/middle.pem pki/root.pem", code: 1,
		err: []string{`rpctls-server-setup: name missing: .*`, `rpctls-server-setup: wrong extended key usage: .*`, `hint: nothing was installed`},
	}, step{
		do: "rpctls-server-setup --import nfs.pem pki/middle.pem pki/root.pem",
		out: []string{
			`installed a server's certificate for nfs.example.com, until .*`, `removed /etc/rpctls/request/server`, `started rpctlssd.service`,
			`    rpctls-client-setup --csr-only client1.example.com`, `    mount -o tls nfs.example.com:/export /mnt`,
		},
		changes: true,
	}, step{
		do:  "rpctls-server-setup --import nfs.pem pki/middle.pem pki/root.pem",
		out: []string{`everything was there already: nothing was changed`},
	}, step{
		do:  "cat /etc/rpctls/*.d/10-setup.toml; grep -c BEGIN /etc/rpctls/server.pem",
		out: []string{`2`},
		not: []string{`crl.*`},
	}, step{
		// The same host as a client of the same CA
		do:      "rpctls-client-setup --csr-only client1.example.com && sign /etc/rpctls/request/client/request.csr client1.pem client",
		out:     []string{`then: rpctls-client-setup --import ANSWER CA`},
		changes: true,
	}, step{
		do:      "rpctls-client-setup --import client1.pem pki/middle.pem pki/root.pem",
		out:     []string{`installed a client's certificate for client1.example.com, .*`, `reloaded rpctlscd.service`},
		changes: true,
	}, step{
		do:  "rpctls-client-setup --import client1.pem pki/middle.pem pki/root.pem",
		out: []string{`everything was there already: nothing was changed`},
	}, step{
		do:  "rpctls-server-setup --import nfs.pem pki/middle.pem pki/root.pem", // nor has the client's part changed the server's
		out: []string{`everything was there already: nothing was changed`},
	})
}

// bundles are made on another host.
const bundles = `ctl() { rpctlsctl cert "$@" --dir server >/dev/null 2>&1; }
ctl init
for name in client1 client2; do ctl client $name.example.com; ctl bundle $name.example.com -o $name.bundle; done
ctl server --install=false nfs2.example.com
ctl bundle nfs2.example.com -o nfs2.bundle
echo secret >passphrase
echo other >typo
ctl bundle client1.example.com --passphrase-file passphrase -o sealed.bundle
cp server/ca/ca.pem ca.pem
rpctlsctl cert init --dir other >/dev/null; cp other/ca/ca.pem other.pem
`

func TestClient(t *testing.T) {
	run(t, bundles, step{
		do:  "rpctls-client-setup --dry-run ca.pem",
		out: []string{`would trust CN=rpctls CA of .*`, `would write /etc/rpctls/rpctlscd.d/10-setup.toml`, `would start rpctlscd.service`},
		not: []string{`.*/run/.*`, `.*rpctlssd.*`, `.*timer.*`},
	}, step{
		do: "rpctls-client-setup ca.pem",
		out: []string{
			`wrote /etc/rpctls/ca.pem`, `trusted CN=rpctls CA of .*, until .*`, `enabled rpctlscd.service`, `started rpctlscd.service`,
			`    mount -o tls SERVER:/export /mnt`, `    SERVER:/export /mnt nfs tls,_netdev 0 0`,
		},
		not:     []string{`.*rpctlssd.*`, `.*timer.*`},
		changes: true,
	}, step{
		do:  "rpctls-client-setup ca.pem",
		out: []string{`/etc/rpctls/ca.pem: nothing to do`, `everything was there already: nothing was changed`},
		not: []string{`(wrote|started|reloaded).*`},
	}, step{
		do: "rpctls-client-setup other.pem", code: 1,
		err: []string{`rpctls-client-setup: /etc/rpctls/ca.pem: other CAs are trusted there, .*`, `hint: --trust add .*`},
	}, step{
		// To TLS without a certificate, one is added.
		do: "rpctls-client-setup client1.bundle",
		out: []string{
			`installed a client's certificate for client1.example.com, .*`, `wrote /etc/rpctls/rpctlscd.d/10-setup.toml`,
			`reloaded rpctlscd.service`, `enabled rpctls-cert-renew.timer`, `    mount -o tls SERVER:/export /mnt`,
		},
		not:     []string{`wrote /etc/rpctls/ca.pem`},
		changes: true,
	}, step{
		do:  "rpctls-client-setup client1.bundle; cat /etc/rpctls/rpctlscd.d/10-setup.toml; stat -L -c '%a %U %G' /etc/rpctls/client.key",
		out: []string{`everything was there already: nothing was changed`, `private_key = "/etc/rpctls/client.key"`, `640 root rpctls`},
	}, step{
		// A further identity is no part of the settings.
		do:      "rpctls-client-setup client2.bundle --as lab && ls /etc/rpctls/lab.key",
		out:     []string{`installed a client's certificate for client2.example.com, .*`, `reloaded rpctlscd.service`, `    mount -o tlscertname=lab SERVER:/export /mnt`},
		not:     []string{`wrote .*toml`},
		changes: true,
	}, step{
		do: "rpctls-client-setup --as Lab client2.bundle", code: 2,
		err: []string{`rpctls-client-setup: --as: "Lab" cannot be the name of an identity: .*`, `hint: rpctls-client-setup --help`},
	}, step{
		do: "rpctls-client-setup --as lab ca.pem", code: 1,
		err: []string{`rpctls-client-setup: ca.pem is no bundle, .*`, `hint: .*`},
	}, step{
		do: "rpctls-client-setup nfs2.bundle", code: 1,
		err: []string{`rpctls-client-setup: wrong extended key usage: .*`, `hint: nothing was installed`},
	}, step{
		do: "rpctls-client-setup /etc/rpctls/client.pem", code: 1,
		err: []string{`rpctls-client-setup: /etc/rpctls/client.pem: .*not.*CA.*`, `hint: want the certificate of a CA, not that of a host`},
	}, step{
		do: "rpctls-client-setup missing.bundle", code: 1,
		err: []string{`rpctls-client-setup: missing.bundle: no such file`, `hint: is the path right\?`},
	}, step{
		do: "rpctls-client-setup ca.pem client1.bundle", code: 2,
		err: []string{`rpctls-client-setup: one file, .*`, `hint: .*`},
	}, step{
		do: "rpctls-client-setup", code: 2,
		err: []string{`rpctls-client-setup: which file shall be installed\? .*`, `hint: .*`},
	}, step{
		do: "rpctls-client-setup --server x ca.pem", code: 2,
		err: []string{`rpctls-client-setup: unknown option --server`, `hint: .*`},
	}, step{
		do: "setpriv --reuid=65534 --regid=65534 --clear-groups rpctls-client-setup ca.pem", code: 1,
		err: []string{`rpctls-client-setup: only root can do this`, `hint: run it with sudo, or as root`},
	}, step{
		// What is revoked is known of one CA, and not of the other.
		do:      "rpctls-server-setup --no-addresses --force --trust add nfs.example.com --dry-run; rpctls-client-setup --trust add other.pem; mkdir /etc/rpctls/crl && cp server/ca/crl.pem /etc/rpctls/crl/ca.pem",
		out:     []string{`would make .*`, `trusted CN=rpctls CA of .*`},
		changes: true,
	}, step{
		do:      "rpctls-client-setup ca.pem",
		out:     []string{`wrote /etc/rpctls/rpctlscd.d/10-setup.toml`},
		err:     []string{`rpctls-client-setup: note: /etc/rpctls/ca.pem names 2 CAs, and /etc/rpctls/crl has the CRLs of 1: .*`},
		changes: true,
	}, step{
		// Another server takes its bundle.
		do:      "rpctls-server-setup --import nfs2.bundle --crl server/ca/crl.pem 2>/dev/null; ls /etc/rpctls/crl",
		out:     []string{`crl.pem`, `installed a server's certificate for nfs2.example.com, .*`, `    mount -o tls nfs2.example.com:/export /mnt`},
		changes: true,
	})
}

func TestEncryptedBundle(t *testing.T) {
	typed := func(text, command string) string {
		return "printf '" + text + "' | script -qec '" + command + "' /dev/null | tr -d '\\r'"
	}
	run(t, bundles, step{
		do: "setsid rpctls-client-setup sealed.bundle", code: 1,
		err: []string{`rpctls-client-setup: there is no terminal to ask for the passphrase`, `hint: --passphrase-file names a file with it`},
	}, step{
		do: "rpctls-client-setup --passphrase-file typo sealed.bundle", code: 1,
		err: []string{`rpctls-client-setup: sealed.bundle: decrypt bundle: wrong passphrase, or the bundle is damaged`, `hint: mend that, then do it again`},
	}, step{
		do: "rpctls-client-setup --passphrase-file missing sealed.bundle", code: 1,
		err: []string{`rpctls-client-setup: missing: no such file`, `hint: .*`},
	}, step{
		do:  typed(`\n`, "rpctls-client-setup sealed.bundle"),
		out: []string{`rpctls-client-setup: no passphrase was given`},
	}, step{
		do:      typed(`secret\n`, "rpctls-client-setup sealed.bundle"),
		out:     []string{`passphrase of sealed.bundle: `, `installed a client's certificate for client1.example.com, .*`},
		changes: true,
	})
	const client = "rpctls-server-setup nfs.example.com --client client1.example.com --encrypt"
	run(t, "",
		step{do: typed(`one\ntwo\n`, client), out: []string{`rpctls-server-setup: the passphrases differ`}},
		step{do: typed(`one\none\n`, client), out: []string{`wrote ./client1.example.com.bundle`}, not: []string{`.*in clear.*`}, changes: true},
		step{do: "head -1 client1.example.com.bundle", out: []string{`-----BEGIN AGE ENCRYPTED FILE-----`}},
	)
}

// Who names a passphrase does not want it in clear.
func TestPassphraseFileEncrypts(t *testing.T) {
	run(t, "echo secret >pw", step{
		do:      "rpctls-server-setup nfs.example.com --client client1.example.com --passphrase-file pw",
		out:     []string{`wrote ./client1.example.com.bundle`},
		changes: true,
	}, step{
		do:  "head -1 client1.example.com.bundle; rpctls-client-setup --dry-run --passphrase-file pw client1.example.com.bundle",
		out: []string{`-----BEGIN AGE ENCRYPTED FILE-----`, `would install a client's certificate for client1.example.com, .*`},
	})
}

// Identities with names are judged in the rehearsal, too: where the daemon will
// not be able to read them.
func TestNamedIdentityIsJudged(t *testing.T) {
	run(t, bundles+"mkdir -m 700 /etc/rpctls/identity", step{
		do: "rpctls-client-setup client1.bundle --as lab", code: 1,
		err: []string{`rpctls-client-setup: warning: identity_directory: .*/etc/rpctls/identity: permission denied; .*`, `hint: mend that, then do it again`},
	}, step{
		do: "chmod 755 /etc/rpctls/identity; mkdir -m 700 /etc/rpctls/identity/lab", changes: true,
	}, step{
		do: "rpctls-client-setup client1.bundle --as lab", code: 1,
		err: []string{`rpctls-client-setup: warning: identity lab: .*permission denied; mounts that name it are refused`, `hint: mend that, then do it again`},
	}, step{
		do:      "chmod 755 /etc/rpctls/identity/lab; rpctls-client-setup client1.bundle --as lab; ls /etc/rpctls/rpctlscd.d",
		out:     []string{`installed a client's certificate for client1.example.com, .*`, `    mount -o tlscertname=lab SERVER:/export /mnt`},
		not:     []string{`.*rehearsal.*`},
		changes: true,
	})
}

// The years after: renewal, revocation.
func TestRenew(t *testing.T) {
	run(t, "rpctls-server-setup nfs.example.com --client client1.example.com >/dev/null 2>&1", step{
		do: "setpriv --reuid=65534 --regid=65534 --clear-groups rpctls-cert-renew", code: 1,
		err: []string{`rpctls-cert-renew: only root can do this`, `hint: .*`},
	}, step{
		do: "rpctls-cert-renew now", code: 2,
		err: []string{`rpctls-cert-renew: unexpected argument now`, `hint: rpctls-cert-renew --help`},
	}, step{
		do:  "rpctls-cert-renew",
		out: []string{`server: until .*, due .*`, `CRL: number 1, until .*`},
	}, step{
		do:  "rpctlsctl cert revoke client1.example.com && cmp /etc/rpctls/ca/crl.pem /etc/rpctls/crl/*.pem",
		out: []string{`wrote /etc/rpctls/crl/ca-.*.pem`}, changes: true,
	}, step{
		// What was removed is published again.
		do: "rm /etc/rpctls/crl/*; rpctls-cert-renew && cmp /etc/rpctls/ca/crl.pem /etc/rpctls/crl/*.pem",
	}, step{
		// CRLs of others are looked at, too.
		do: "echo junk >/etc/rpctls/crl/far.pem; rpctls-cert-renew; status=$?; rm /etc/rpctls/crl/far.pem; exit $status", code: 1,
		err: []string{`note: /etc/rpctls/crl/far.pem: .*: bring a newer one there`, `rpctlsctl: what will expire and cannot be renewed here: 1`, `hint: .*`},
	}, step{
		// What a person has to do is a failure.
		do:      "rpctlsctl cert revoke nfs.example.com --all >/dev/null 2>&1; rpctls-cert-renew",
		code:    1,
		err:     []string{`note: server is revoked since .* and is not renewed`, `rpctlsctl: what will expire and cannot be renewed here: 1`, `hint: .*`},
		changes: true,
	})
}

func TestHelp(t *testing.T) {
	var steps []step
	for _, prog := range []string{"rpctls-server-setup", "rpctls-client-setup", "rpctls-cert-renew"} {
		steps = append(steps,
			step{do: prog + " --help", out: []string{prog + ": .*", "usage: " + prog + ".*"}},
			step{do: "setpriv --reuid=65534 --regid=65534 --clear-groups " + prog + " --version", out: []string{prog + ` \S+ \(go.*\)`}})
	}
	run(t, "", steps...)
}

// The linter has nothing to say.
func TestShellcheck(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("shellcheck is not installed")
	}
	files, err := filepath.Glob("rpctls-*")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	cmd := exec.Command("shellcheck", "--external-sources", "--source-path=../..", "--severity=style")
	cmd.Args = append(cmd.Args, files...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
