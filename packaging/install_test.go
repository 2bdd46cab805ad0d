// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// unpack returns the directory with install.sh.
func unpack(t *testing.T) string {
	t.Helper()
	b := built(t)
	dir := t.TempDir()
	output(t, "tar", "-xzf", archive(b, runtime.GOARCH), "-C", dir)
	return filepath.Join(dir, "rpctls-"+b.Version+"-linux-"+runtime.GOARCH)
}

// snapshot describes all files below a directory.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var s strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		s.WriteString(info.Mode().String() + " " + name)
		switch info.Mode().Type() {
		case 0:
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s.WriteString(" " + string(text))
		case fs.ModeSymlink:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			s.WriteString(" -> " + target)
		}
		s.WriteString("\n")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.String()
}

func TestInstallScript(t *testing.T) {
	from := unpack(t)
	dest := t.TempDir()
	try := func(args ...string) (string, int) {
		cmd := exec.Command("sh", append([]string{filepath.Join(from, "install.sh")}, args...)...)
		cmd.Env = append(os.Environ(), "DESTDIR="+dest)
		out, err := cmd.CombinedOutput()
		if _, isExit := err.(*exec.ExitError); err != nil && !isExit {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	run := func(args ...string) string {
		t.Helper()
		out, code := try(args...)
		if code != 0 {
			t.Fatalf("install.sh %v: %d\n%s", args, code, out)
		}
		return out
	}
	empty := snapshot(t, dest)
	for _, bad := range [][]string{{"--prefix"}, {"--no-such"}, {"x"}} {
		if out, code := try(bad...); code != 2 || out == "" {
			t.Errorf("%v: %d, %q", bad, code, out)
		}
	}
	for _, bad := range [][]string{{"--prefix", "/"}, {"--prefix=here"}, {"--prefix=/a,b"}, {"--uninstall"}} {
		if out, code := try(bad...); code != 1 || !strings.HasPrefix(out, "install.sh: ") {
			t.Errorf("%v: %d, %q", bad, code, out)
		}
	}
	if out := run("--dry-run"); !strings.Contains(out, "would: install "+dest+"/usr/local/sbin/rpctlscd\n") {
		t.Errorf("a dry run says\n%s", out)
	}
	if got := snapshot(t, dest); got != empty {
		t.Fatalf("what was refused, or only tried, left\n%s", got)
	}

	run()
	first := snapshot(t, dest)
	for name, mode := range map[string]fs.FileMode{
		"usr/local/sbin/rpctlscd": 0o755, "usr/local/sbin/rpctls-server-setup": 0o755, "etc/rpctls/rpctlssd.toml": 0o644,
		"usr/local/lib/systemd/system/rpctlscd.service": 0o644, "usr/local/share/man/man8/rpctlscd.8.gz": 0o644,
		"etc/rpctls": fs.ModeDir | 0o755, "sbin/mount.nfstls": fs.ModeSymlink | 0o777,
	} {
		if st, err := os.Lstat(filepath.Join(dest, name)); err != nil || st.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", name, st, err, mode)
		}
	}
	unit, err := os.ReadFile(filepath.Join(dest, "usr/local/lib/systemd/system/rpctlscd.service"))
	if err != nil || !bytes.Contains(unit, []byte("\nExecStart=/usr/local/sbin/rpctlscd\n")) {
		t.Errorf("the unit starts another program (%v)", err)
	}
	for _, m := range strings.Split(first, "\n") {
		if strings.Contains(m, "=/usr/sbin/rpctls") || strings.Contains(m, " /usr/share/rpctls/") {
			t.Errorf("a path of the packages was left: %s", m)
		}
	}
	run()
	if got := snapshot(t, dest); got != first {
		t.Error("installing again changes something")
	}

	// An administrator's configuration, and a file of an earlier version.
	config := filepath.Join(dest, "etc/rpctls/rpctlscd.toml")
	write(t, config, "trust = \"/mine\"\n", 0o644)
	write(t, filepath.Join(dest, "etc/rpctls/server.key"), "key", 0o600)
	list := filepath.Join(dest, "usr/local/share/rpctls/installed-files")
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	write(t, list, string(text)+"/usr/local/sbin/rpctls-old\n", 0o644)
	write(t, filepath.Join(dest, "usr/local/sbin/rpctls-old"), "", 0o755)
	if out := run(); !strings.Contains(out, "kept: ") {
		t.Errorf("it does not say that the configuration was kept:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(dest, "usr/local/sbin/rpctls-old")); err == nil {
		t.Error("a file of an earlier version stays")
	}
	if text, err := os.ReadFile(config); err != nil || string(text) != "trust = \"/mine\"\n" {
		t.Errorf("the configuration is %q, %v", text, err)
	}
	run("--uninstall")
	var left []string
	for line := range strings.Lines(snapshot(t, dest)) {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[0], "d") {
			left = append(left, f[1])
		}
	}
	if want := []string{"etc/rpctls/rpctlscd.toml", "etc/rpctls/server.key"}; !slices.Equal(left, want) {
		t.Errorf("uninstalling leaves %v, want %v", left, want)
	}
	// Where nothing was edited nothing stays.
	dest = t.TempDir()
	run("--prefix", "/usr")
	run("--prefix", "/usr", "--uninstall")
	for line := range strings.Lines(snapshot(t, dest)) {
		if strings.Contains(line, "rpctls") {
			t.Errorf("uninstalling leaves %s", line)
		}
	}
}

// TestInstallForReal: with a user to be made, in a system that does not run
// systemd.
func TestInstallForReal(t *testing.T) {
	m := newMachine(t)
	b := built(t)
	copyFile(t, archive(b, runtime.GOARCH), filepath.Join(m.dir, "up/srv/rpctls.tar.gz"))
	m.run("cd /srv && tar -xzf rpctls.tar.gz && mv rpctls-*/ rpctls")
	out := m.run("/srv/rpctls/install.sh")
	for _, want := range []string{"no systemd runs here: start /usr/local/sbin/rpctlscd", "rpctls is installed at /usr/local\n", "next: rpctls-server-setup NAME"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	m.run("getent passwd rpctls && getent group rpctls && rpctlsctl -version && rpctls-server-setup --help && rpctls-cert-renew --help")
	m.run("/srv/rpctls/install.sh && /srv/rpctls/install.sh --uninstall")
	m.run("! [ -e /etc/rpctls ] && ! ls /usr/local/sbin/rpctls* 2>/dev/null")
	// Beside a package it does not install.
	m.addPackages()
	m.run("dpkg -i /srv/rpctls.deb")
	if out, err := m.try("/srv/rpctls/install.sh --prefix /usr"); err == nil || !strings.Contains(out, "rpctls is here as a package") {
		t.Errorf("over a package: %v: %s", err, out)
	}
}
