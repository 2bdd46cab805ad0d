// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/internal/protocol"
)

const (
	newRoot = "/root"
	unitDir = "/etc/systemd/system/"
)

// boot is what process 1 does.
func boot() error {
	for _, m := range []mount{
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, ""},
		{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(string(cmdline)), protocol.ProbeFlag) {
		say("%s", protocol.ProbeMarker)
		return nil
	}
	if err := loadModules(); err != nil {
		return err
	}
	manifest, err := unpackRoot()
	if err != nil {
		return err
	}
	if err := switchRoot(); err != nil {
		return err
	}
	if manifest.Systemd || manifest.Serve {
		return becomeSystemd(manifest.Serve)
	}
	if err := setUp(); err != nil {
		return err
	}
	return superviseRun()
}

// loadModules loads what the host put into the initramfs.
func loadModules() error {
	entries, err := os.ReadDir(protocol.ModuleDir) // sorted
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(protocol.ModuleDir, e.Name()))
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s: %w", e.Name(), err)
		}
	}
	return nil
}

// unpackRoot mounts the root disk and unpacks the payload over it.
func unpackRoot() (*protocol.Manifest, error) {
	root, err := findDisk(protocol.RootDisk)
	if err != nil {
		return nil, err
	}
	if err := (mount{root, newRoot, "ext4", unix.MS_NOATIME, "noinit_itable"}).mount(); err != nil {
		return nil, err
	}
	payload, err := findDisk(protocol.PayloadDisk)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(payload)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := unpack(tar.NewReader(bufio.NewReaderSize(f, 1<<20)), newRoot); err != nil {
		return nil, fmt.Errorf("unpack payload: %w", err)
	}
	text, err := os.ReadFile(newRoot + protocol.ManifestFile)
	if err != nil {
		return nil, err
	}
	manifest := new(protocol.Manifest)
	if err := json.Unmarshal(text, manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	for _, unit := range manifest.Unmask {
		if err := os.Remove(newRoot + unitDir + unit); err != nil {
			return nil, fmt.Errorf("unmask: %w", err)
		}
	}
	self, err := os.ReadFile("/init")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(newRoot+protocol.InitPath, self, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(newRoot+protocol.MarkerFile, []byte(manifest.Kernel+"\n"), 0o644); err != nil {
		return nil, err
	}
	for _, dir := range []string{protocol.ResultsDir, protocol.BinDir} {
		if err := os.MkdirAll(newRoot+dir, 0o755); err != nil {
			return nil, err
		}
	}
	return manifest, nil
}

// findDisk waits for the disk with that serial number: drivers find theirs
// while we run.
func findDisk(serial string) (string, error) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, err := filepath.Glob("/sys/block/*/serial")
		if err != nil {
			return "", err
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("no disk %s", serial)
		}
	}
}

// unpack writes the archive's entries below dir. They follow links of the
// root, such as /bin, on purpose.
func unpack(t *tar.Reader, dir string) error {
	for {
		header, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name, err := resolve(dir, header.Name)
		if err != nil {
			return err
		}
		mode := os.FileMode(header.Mode).Perm()
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, mode)
		case tar.TypeSymlink:
			_ = os.Remove(name)
			err = os.Symlink(header.Linkname, name)
		case tar.TypeReg:
			err = writeFile(name, mode, t)
		}
		if err != nil {
			return err
		}
	}
}

// resolve makes the parent of a file of the new root and returns its path. A
// link on the way that is absolute means the new root, not ours.
func resolve(root, name string) (string, error) {
	dir := root
	for part := range strings.SplitSeq(filepath.Dir(name), "/") {
		if part == "." || part == "" {
			continue
		}
		next := filepath.Join(dir, part)
		if link, err := os.Readlink(next); err == nil {
			if filepath.IsAbs(link) {
				next = filepath.Join(root, link)
			} else {
				next = filepath.Join(dir, link)
			}
		}
		dir = next
	}
	return filepath.Join(dir, filepath.Base(name)), os.MkdirAll(dir, 0o755)
}

func writeFile(name string, mode os.FileMode, r io.Reader) error {
	_ = os.Remove(name) // may be a link, such as that of a masked unit
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// switchRoot makes the root disk the root. An initramfs cannot be left with
// pivot_root(2): the new root is moved over it instead.
func switchRoot() error {
	// Only what has no other name is kept open; the memory is given back.
	for _, name := range []string{"/init", protocol.ModuleDir} {
		_ = os.RemoveAll(name)
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := (mount{dir, newRoot + dir, "", unix.MS_MOVE, ""}).mount(); err != nil {
			return err
		}
	}
	if err := os.Chdir(newRoot); err != nil {
		return err
	}
	if err := (mount{".", "/", "", unix.MS_MOVE, ""}).mount(); err != nil {
		return err
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

// systemd's part: a target to boot to, and a service that is us again. The
// service counts as started when its program runs, so that the boot ends and
// the command sees a system that is up.
const (
	systemdTarget = `[Unit]
Description=Boot to the payload
Requires=basic.target
Wants=` + protocol.SystemdUnit + `.service
After=basic.target
AllowIsolate=yes
`
	systemdService = `[Unit]
Description=Payload
After=basic.target dbus.socket
Wants=dbus.socket
IgnoreOnIsolate=yes

[Service]
Type=exec
ExecStart=` + protocol.InitPath + ` %s
StandardOutput=journal+console
TimeoutStopSec=1
`
)

// becomeSystemd boots to the payload's target; if it serves, to whatever the
// disk says, of which the service becomes a part.
func becomeSystemd(serve bool) error {
	const service = protocol.SystemdUnit + ".service"
	files := map[string]string{service: fmt.Sprintf(systemdService, "serve")}
	if !serve {
		files[service] = fmt.Sprintf(systemdService, "run")
		files[protocol.SystemdUnit+".target"] = systemdTarget
	}
	for name, text := range files {
		if err := os.WriteFile(unitDir+name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	if serve {
		const wants = unitDir + "multi-user.target.wants"
		if err := os.MkdirAll(wants, 0o755); err != nil {
			return err
		}
		if err := os.Symlink("../"+service, wants+"/"+service); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	const init = "/sbin/init"
	return fmt.Errorf("%s: %w", init, unix.Exec(init, []string{init}, baseEnv()))
}

// A mount is one call of mount(2), and the directory for it.
type mount struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func (m mount) mount() error {
	if m.flags&unix.MS_MOVE == 0 {
		if err := os.MkdirAll(m.target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
	if err != nil && !errors.Is(err, unix.EBUSY) { // EBUSY: it is there already
		return fmt.Errorf("mount %s: %w", m.target, err)
	}
	return nil
}

// setUp does what systemd would do for a command.
func setUp() error {
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	for _, m := range []mount{
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", safe, "mode=755"},
		{"tmpfs", "/tmp", "tmpfs", safe, "mode=1777"},
		{"debugfs", "/sys/kernel/debug", "debugfs", safe | unix.MS_NOEXEC, ""},
		{"tracefs", "/sys/kernel/tracing", "tracefs", safe | unix.MS_NOEXEC, ""},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", safe | unix.MS_NOEXEC, ""},
	} {
		if err := m.mount(); err != nil {
			return err
		}
	}
	// As systemd has it. A mount namespace may then follow what is mounted
	// here later.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for name, to := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return fmt.Errorf("set host name: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req)
}

// superviseRun starts "guestinit run" and buries every process that dies, as
// process 1 must: nobody here may use os.Process.Wait, which would fight
// about the dead.
func superviseRun() error {
	child, err := os.StartProcess(protocol.InitPath, []string{protocol.InitPath, "run"}, &os.ProcAttr{
		Env:   baseEnv(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case pid == child.Pid:
			// It turns the guest off itself, if it can.
			return fmt.Errorf("guestinit run ended: %#x", uint32(status))
		}
	}
}

// baseEnv is the environment of everything.
func baseEnv() []string {
	return []string{
		"PATH=" + protocol.BinDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "USER=root",
	}
}
