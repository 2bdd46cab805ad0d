// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package fdstore

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// manager is the service manager's end of NOTIFY_SOCKET.
func manager(t *testing.T) *net.UnixConn {
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func receive(t *testing.T, c *net.UnixConn) (string, []int) {
	t.Helper()
	buf, oob := make([]byte, 4096), make([]byte, 4096)
	n, oobn, _, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	var fds []int
	for _, m := range messages {
		more, err := unix.ParseUnixRights(&m)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, more...)
	}
	return string(buf[:n]), fds
}

func TestKeep(t *testing.T) {
	m := manager(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := Keep("pipe", int(w.Fd())); err != nil {
		t.Fatal(err)
	}
	w.Close()
	said, fds := receive(t, m)
	if said != "FDSTORE=1\nFDPOLL=0\nFDNAME=pipe" || len(fds) != 1 {
		t.Fatalf("%q with %d descriptors", said, len(fds))
	}
	if _, err := unix.Write(fds[0], []byte("x")); err != nil {
		t.Errorf("what was kept is not what was given: %v", err)
	}
	unix.Close(fds[0])
	if err := Forget("pipe"); err != nil {
		t.Fatal(err)
	}
	if said, fds := receive(t, m); said != "FDSTOREREMOVE=1\nFDNAME=pipe" || len(fds) != 0 {
		t.Errorf("%q with %d descriptors", said, len(fds))
	}
}

func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Keep("x", 0); !errors.Is(err, ErrNoStore) {
		t.Errorf("without a manager: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "relative")
	if err := Keep("x", 0); err == nil || errors.Is(err, ErrNoStore) {
		t.Errorf("with a bad address: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	if err := Forget("x"); err == nil {
		t.Error("with nobody there: no error")
	}
}

// TestTake runs itself as a service that is started with two pipes under one
// name and a file under another.
func TestTake(t *testing.T) {
	if os.Getenv("FDSTORE_CHILD") != "" {
		child(t)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// LISTEN_PID is the service's own; the shell knows it before it becomes it.
	cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run '^TestTake$' -test.v`, self)
	cmd.Env = append(os.Environ(), "FDSTORE_CHILD=1", "LISTEN_FDS=3", "LISTEN_FDNAMES=a:b:a")
	for _, text := range []string{"first", "second", "third"} {
		f, err := os.Create(filepath.Join(t.TempDir(), text))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "PASS: TestTake") {
		t.Errorf("%v\n%s", err, out)
	}
}

func child(t *testing.T) {
	kept := Take()
	if len(kept) != 2 {
		t.Fatalf("took %v", kept)
	}
	for name, want := range map[string]string{"a": "first", "b": "second"} {
		buf := make([]byte, 16)
		n, err := unix.Pread(kept[name], buf, 0)
		if err != nil || string(buf[:n]) != want {
			t.Errorf("%s has %q (%v), want %q", name, buf[:max(n, 0)], err, want)
		}
		flags, err := unix.FcntlInt(uintptr(kept[name]), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s would be inherited (%#x, %v)", name, flags, err)
		}
	}
	for fd := 3; fd < 6; fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && fd != kept["a"] && fd != kept["b"] {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG {
				t.Errorf("descriptor %d was not closed", fd)
			}
		}
	}
	if again := Take(); len(again) != 0 {
		t.Errorf("took %v a second time", again)
	}
}
