// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/internal/clientask"
	"rpctls/internal/control"
	"rpctls/internal/keyring"
	"rpctls/internal/mountinfo"
)

// A scene is a mount with a real helper that is a script, and a kernel's table of
// mounts that is a file: $TABLE, to which the script's add appends.
type scene struct {
	t          *testing.T
	dir, table string
	stderr     bytes.Buffer
	unmounted  []string
	heard      func(text string) // what is said
}

// Write implements io.Writer, for standard error.
func (s *scene) Write(p []byte) (int, error) {
	if s.heard != nil {
		s.heard(string(p))
	}
	return s.stderr.Write(p)
}

func newScene(t *testing.T, before string) *scene {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a mount with TLS is root's")
	}
	s := &scene{t: t, dir: t.TempDir()}
	s.table = filepath.Join(t.TempDir(), "mountinfo")
	if err := os.WriteFile(s.table, []byte(s.lines(before)), 0o600); err != nil {
		t.Fatal(err)
	}
	table, undo := mountTable, unmount
	mountTable = func() ([]mountinfo.Mount, error) { return mountinfo.File(s.table) }
	unmount = func(dir string, flags int) error { s.unmounted = append(s.unmounted, dir); return nil }
	t.Cleanup(func() { mountTable, unmount = table, undo })
	return s
}

func (s *scene) lines(text string) string { return strings.ReplaceAll(text, "DIR", s.dir) }

// mount mounts, and returns the exit code.
func (s *scene) mount(spec, options, script string) int {
	s.t.Helper()
	real := filepath.Join(s.t.TempDir(), "real")
	text := "#!/bin/sh\nadd() { echo \"$1\" >>" + s.table + "; }\n" + s.lines(script) + "\n"
	if err := os.WriteFile(real, []byte(text), 0o755); err != nil {
		s.t.Fatal(err)
	}
	// NFSv3 needs no UTS namespace.
	p := &program{argv: []string{"mount.nfs", spec, s.dir, "-o", options + ",vers=3"}, name: "mount.nfs", stdout: io.Discard, stderr: s, real: []string{real}}
	return p.run()
}

// Lines of the table.
const (
	clearOurs  = "50 22 0:50 / DIR rw - nfs server.test:/x rw,addr=192.0.2.1"
	tlsOurs    = "50 22 0:50 / DIR rw - nfs server.test:/x rw,xprtsec=tls,addr=192.0.2.1"
	clearOther = "51 22 0:51 / DIR rw - nfs other.test:/x rw,addr=192.0.2.2"
	cover      = "52 50 0:52 / DIR rw - tmpfs none rw"
)

// What counts is what is new, and the server's, whatever the helper says of it; and
// nothing else is unmounted.
func TestVerified(t *testing.T) {
	useRuntimeDirectory(t, t.TempDir())
	const weak = "was mounted with xprtsec=none, not tls, and has been unmounted again"
	for _, tt := range []struct {
		name, before, script string
		code                 int
		says                 string
		undone               bool
	}{
		{"in clear", "", "add '" + clearOurs + "'", 32, weak, true},
		{"in clear, and no mtab", "", "add '" + clearOurs + "'; exit 16", 32, weak, true},
		{"in clear, and a signal", "", "add '" + clearOurs + "'; kill -TERM $$", 32, weak, true},
		{"well, and no mtab", "", "add '" + tlsOurs + "'; echo no mtab >&2; exit 16", 16, "no mtab", false},
		{"well, and a signal", "", "add '" + tlsOurs + "'; kill -TERM $$", 8, "", false},
		{"well", "", "add '" + tlsOurs + "'", 0, "", false},
		{"nothing", "", "echo the real one >&2; exit 32", 32, "the real one", false},
		{"something else on top", "", "add '" + clearOurs + "'; add '" + cover + "'", 32, "and STILL IS: something else is mounted on top of it", false},
		{"of another server", "", "add '" + clearOther + "'", 32, "nothing new of that server is mounted", false},
		{"of another server, too", "", "add '" + tlsOurs + "'; add '" + clearOther + "'", 0, "", false},
		{"nothing but what was there", tlsOurs, ":", 32, "nothing new of that server is mounted", false},
		{"nothing but what was there in clear", clearOurs, ":", 32, "nothing new of that server is mounted", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, tt.before+"\n")
			if code := s.mount("server.test:/x", "xprtsec=tls,tls", tt.script); code != tt.code || !strings.Contains(s.stderr.String(), tt.says) {
				t.Errorf("exit code %d, want %d: %s", code, tt.code, s.stderr.String())
			}
			if undone := len(s.unmounted) == 1 && s.unmounted[0] == s.dir; undone != tt.undone || len(s.unmounted) > 1 {
				t.Errorf("unmounted: %q", s.unmounted)
			}
		})
	}
}

// The kernel calls a mount by the name that the server was mounted by first.
func TestVerifiedByAddress(t *testing.T) {
	useRuntimeDirectory(t, t.TempDir())
	s := newScene(t, "")
	if code := s.mount("192.0.2.1:/x", "tls", "add '"+tlsOurs+"'"); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr.String())
	}
	s = newScene(t, "")
	if code := s.mount("192.0.2.1:/x", "tls", "add '"+clearOurs+"'"); code != 32 || len(s.unmounted) != 1 {
		t.Errorf("in clear: exit code %d, unmounted %q", code, s.unmounted)
	}
}

// The number of a mount that is gone is given to the next one.
func TestNumbersComeAgain(t *testing.T) {
	s := newScene(t, tlsOurs+"\n")
	where, err := look(s.dir, "server.test")
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		table string
		fresh bool
	}{{tlsOurs, false}, {"", false}, {clearOurs, true}} {
		if err := os.WriteFile(s.table, []byte(s.lines(step.table)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, fresh, err := where.top(); err != nil || fresh != step.fresh {
			t.Errorf("%q: %v, %v", step.table, fresh, err)
		}
	}
}

// A mount in the background over an older one is watched, here if nobody else can.
func TestWatchedHere(t *testing.T) {
	useRuntimeDirectory(t, t.TempDir())
	path := watcherPath
	watcherPath = "/nowhere/at/all"
	t.Cleanup(func() { watcherPath = path })
	// What the background does waits until it is known to be watched.
	const later = "read line <DIR/go; add '50 22 0:50 / DIR rw - nfs server.test:/y "
	for _, tt := range []struct {
		name, script, says string
		code, undone       int
	}{
		{"in clear", later + "rw'", "has been unmounted again", 32, 1},
		{"well", later + "rw,xprtsec=tls'", "cannot watch the mount in the background", 0, 0},
		{"never", "read line <DIR/go", "has given up in the background", 32, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t, "49 22 0:49 / DIR rw - nfs server.test:/x rw,xprtsec=tls\n")
			pipe := filepath.Join(s.dir, "go")
			if err := unix.Mkfifo(pipe, 0o600); err != nil {
				t.Fatal(err)
			}
			begin, err := os.OpenFile(pipe, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { begin.WriteString("\n"); begin.Close() })
			s.heard = func(text string) {
				if strings.Contains(text, "cannot watch") {
					begin.WriteString("\n")
				}
			}
			code := s.mount("server.test:/y", "tls,bg", "( "+tt.script+" ) </dev/null >/dev/null 2>&1 &")
			if code != tt.code || len(s.unmounted) != tt.undone || !strings.Contains(s.stderr.String(), tt.says) {
				t.Errorf("exit code %d, unmounted %q: %s", code, s.unmounted, s.stderr.String())
			}
		})
	}
}

// Half of root is not root.
func TestSetuid(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give up half of it")
	}
	real := copySelf(t)
	for _, argv := range [][]string{
		{"mount.nfs", "server.test:/x", "/mnt", "-o", "tls"},
		{"mount.nfstls", "server.test:/x", "/mnt"},
		{watcherName, "/mnt", "tls", "server.test:/x"},
	} {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: argv, Env: append(os.Environ(), asOurs+"="+real, asSetuid+"=1")}
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != exitUsage || !strings.Contains(string(out), "root") {
			t.Errorf("%q: exit code %d\n%s", argv, code, out)
		}
	}
}

// A value makes no other option of tls: mount.nfs would pass over it with -s.
func TestValueIsRefused(t *testing.T) {
	real := copySelf(t)
	for _, options := range []string{"tls=yes", "mtls=1", "rw,tls="} {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"mount.nfs", "server.test:/x", "/mnt", "-s", "-o", options}, Env: append(os.Environ(), asOurs+"="+real)}
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != exitUsage || !strings.Contains(string(out), "takes no value") {
			t.Errorf("%s: exit code %d\n%s", options, code, out)
		}
	}
}

// Not knowing whether there is a certificate is no reason to do without; that
// nobody can be asked is, and is said.
func TestUnanswered(t *testing.T) {
	const script = "echo \"$4\" >>DIR/told; add '50 22 0:50 / DIR rw - nfs server.test:/x rw,xprtsec=tls'"
	told := func(s *scene) string {
		b, _ := os.ReadFile(filepath.Join(s.dir, "told"))
		return string(b)
	}
	t.Run("not running", func(t *testing.T) {
		useRuntimeDirectory(t, t.TempDir())
		s := newScene(t, "")
		code := s.mount("server.test:/x", "tls", script)
		if code != 0 || told(s) != "xprtsec=tls,vers=3\n" || !strings.Contains(s.stderr.String(), "without a certificate of this host: rpctlscd is not running") {
			t.Errorf("%d, %q: %s", code, told(s), s.stderr.String())
		}
	})
	t.Run("an error", func(t *testing.T) {
		fakeDaemon(t, map[string]control.Handler{clientask.OpIdentity: func(context.Context, *control.Call) (any, error) {
			return nil, &control.Error{Text: "cannot say"}
		}})
		s := newScene(t, "")
		if code := s.mount("server.test:/x", "tls", script); code != 32 || told(s) != "" || !strings.Contains(s.stderr.String(), "for that server: cannot say\nhint: ") {
			t.Errorf("tls: %d, %q: %s", code, told(s), s.stderr.String())
		}
		s = newScene(t, "")
		if code := s.mount("server.test:/x", "xprtsec=tls,tls", script); code != 0 || told(s) != "xprtsec=tls,vers=3\n" {
			t.Errorf("xprtsec=tls: %d, %q: %s", code, told(s), s.stderr.String())
		}
	})
}

// A daemon that was restarted is asked again.
func TestAskedAgain(t *testing.T) {
	restart := fakeDaemon(t, nil)
	a := ask(context.Background(), "192.0.2.1:/x")
	defer a.close()
	restart()
	if _, err := a.identities(); err != nil {
		t.Error(err)
	}
}

func TestPresent(t *testing.T) {
	if keyring.Supported() {
		t.Skip("this kernel does without choices")
	}
	var asked []clientask.Choose
	fakeDaemon(t, map[string]control.Handler{clientask.OpChoose: control.Typed(func(_ context.Context, _ *control.Call, c clientask.Choose) (clientask.Chosen, error) {
		asked = append(asked, c)
		return clientask.Chosen{}, nil
	})})
	a := ask(context.Background(), "192.0.2.1:/x")
	defer a.close()
	if serial, err := a.present("alice"); err != nil || serial != 0 || len(asked) != 1 || asked[0].Identity != "alice" {
		t.Errorf("%d, %v: %v", serial, err, asked)
	}
	// Blind for other names of the same server.
	a.server.Addresses = nil
	_, err := a.present("alice")
	if e, ok := errors.AsType[*control.Error](err); !ok || e.Hint == "" || !strings.Contains(e.Text, "the addresses of 192.0.2.1 are not known") || len(asked) != 1 {
		t.Errorf("without addresses: %v", err)
	}
	if _, err := a.present(""); err != nil {
		t.Errorf("no identity of its own: %v", err)
	}
	lost := &agent{dir: filepath.Join(t.TempDir(), strings.Repeat("too long for a socket", 10)), err: errors.New("lost")}
	if _, err := lost.present(""); err == nil {
		t.Error("the choice was skipped, though the daemon may be there")
	}
	lost.err = fmt.Errorf("rpctlscd %w", control.ErrNotRunning)
	if _, err := lost.present(""); err != nil {
		t.Errorf("another daemon: %v", err)
	}
	if _, err := lost.present("alice"); !errors.Is(err, control.ErrNotRunning) {
		t.Errorf("an identity, and another daemon: %v", err)
	}
}

// A signal that is ignored, by nohup say, ends neither us nor the helper.
func TestIgnoredSignals(t *testing.T) {
	signal.Ignore(unix.SIGHUP)
	t.Cleanup(func() { signal.Reset(unix.SIGHUP) })
	real := filepath.Join(t.TempDir(), "real")
	if err := os.WriteFile(real, []byte("#!/bin/sh\nkill -HUP $$\nexit 5\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	o, err := runHelper(real, []string{"mount.nfs"}, func(start func() error) error { return start() }, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	o.alive.Close()
	if o.code != 5 || o.interrupted {
		t.Errorf("%+v", o)
	}
}
