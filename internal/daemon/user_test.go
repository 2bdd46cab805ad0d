// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon_test

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"rpctls/certs/certstest"
	"rpctls/internal/daemon"
	"rpctls/rpctlssd"
)

// asDaemon makes this binary rpctlssd.
const asDaemon = "RPCTLS_TEST_AS_DAEMON"

func TestMain(m *testing.M) {
	if os.Getenv(asDaemon) != "" {
		os.Exit(rpctlssd.Program().Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// Root checks as the daemon's user: what that may read and no more.
func TestCheckAsUser(t *testing.T) {
	nobody, err := user.Lookup("nobody")
	if os.Geteuid() != 0 || err != nil {
		t.Skip("only root can check as somebody else")
	}
	uid, uidErr := strconv.Atoi(nobody.Uid)
	gid, gidErr := strconv.Atoi(nobody.Gid)
	if uidErr != nil || gidErr != nil {
		t.Fatal(uidErr, gidErr)
	}
	// Directories of the test framework are root's alone.
	dir, err := os.MkdirTemp("", "rpctls-check-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	ca := certstest.MustCA(t, certstest.CAOptions{})
	ca.MustIssue(t, certstest.Options{DNS: []string{"nfs.example.com"}}).MustWriteFiles(t, dir)
	key, config := filepath.Join(dir, "key.pem"), filepath.Join(dir, "rpctlssd.toml")
	text := fmt.Sprintf("certificate = %q\nprivate_key = %q\n", filepath.Join(dir, "cert.pem"), key)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	const other = 12345 // a group that is none of nobody's
	for _, tt := range []struct {
		mode     os.FileMode
		uid, gid int
		user     string
		want     string // in the error, or else it is well
	}{
		{0o640, 0, gid, "nobody", ""},
		{0o400, uid, 0, "nobody", ""},
		{0o600, 0, 0, "nobody", "as user nobody: load private key: open " + key + ": permission denied"},
		{0o640, 0, other, "nobody", "as user nobody: load private key: open " + key + ": permission denied"},
		{0o660, 0, gid, "nobody", "private key file is not private: mode 0660 lets the group write"},
		{0o644, 0, gid, "nobody", "private key file is not private: mode 0644 gives access to others"},
		{0o600, 0, 0, "root", ""},
		// Nothing is loosened for root itself, nor for who runs as root.
		{0o640, 0, gid, "root", "which is not a group of this process"},
		{0o600, 0, 0, "no-such-user", "check as user no-such-user: user: unknown user no-such-user"},
	} {
		t.Run(fmt.Sprintf("%04o %d:%d %s", tt.mode, tt.uid, tt.gid, tt.user), func(t *testing.T) {
			if err := os.Chown(key, tt.uid, tt.gid); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(key, tt.mode); err != nil {
				t.Fatal(err)
			}
			out, err := daemonCommand(t, "-check", "-config", config, "-user", tt.user)
			if tt.want == "" {
				want := "rpctlssd: " + config + ": ok\n"
				if tt.user != "root" {
					want = "rpctlssd: " + config + ": as user " + tt.user + ": ok\n"
				}
				if err != nil || !strings.HasSuffix(out, want) { // after warnings
					t.Errorf("%v: %s", err, out)
				}
				return
			}
			if err == nil || !strings.Contains(out, tt.want) {
				t.Errorf("%v: %s, want %q", err, out, tt.want)
			}
		})
	}
	// The units' user is the default; where there is none, it is root who checks.
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(key, 0, 0); err != nil {
		t.Fatal(err)
	}
	out, err := daemonCommand(t, "-check", "-config", config)
	if _, missing := user.Lookup(daemon.User); (missing != nil) != (err == nil) {
		t.Errorf("%v: %s", err, out)
	}
}

func daemonCommand(t *testing.T, args ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asDaemon+"=1", "GORACE=atexit_sleep_ms=0")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
