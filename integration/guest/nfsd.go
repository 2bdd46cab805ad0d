// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An Export is a directory that a host's NFS server offers.
type Export struct {
	Path    string // is made if it does not exist
	Clients string // as exports(5) has it; "" is "*"
	Options string // as exports(5) has them; "" is "rw,no_root_squash"
	XprtSec string // "none", "tls", "mtls" or several with colons; "" does not say
}

// An NFSDConfig says how a server runs.
type NFSDConfig struct {
	Threads int // 0 is 8
	Exports []Export
	NoV3    bool // then there is no rpcbind either
}

// LeaseSeconds is the lease and the grace period of servers that StartNFSD
// starts: the shortest that the kernel accepts. A server whose clients left
// nothing behind skips its grace period; nfsdcld lets it know that.
const LeaseSeconds = 10

// An NFSD is a host's NFS server.
type NFSD struct {
	Host    *Host
	threads int
	v3      bool
}

// serverMounts makes a fresh mount namespace what the server's tools expect.
const serverMounts = `set -e
mount -t tmpfs tmpfs /var/lib/nfs
mkdir /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcld /var/lib/nfs/sm /var/lib/nfs/sm.bak
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state
mount -t tmpfs tmpfs /run
mkdir /run/rpc_pipefs /run/lock
mount -t rpc_pipefs sunrpc /run/rpc_pipefs
mount -t nfsd nfsd /proc/fs/nfsd
`

// StartNFSD starts the host's NFS server: the kernel's threads with versions
// 3, 4.1 and 4.2 over TCP, and rpc.mountd, nfsdcld and (for version 3)
// rpcbind beside it. It ends with the test. A host has one.
func StartNFSD(t testing.TB, h *Host, cfg NFSDConfig) *NFSD {
	t.Helper()
	if h.nfsd {
		t.Fatalf("host %s has a server already", h.Name)
	}
	h.nfsd = true
	LoadModule(t, "nfsd")
	makeMountNamespace(t, h)
	s := &NFSD{Host: h, threads: cmp.Or(cfg.Threads, 8), v3: !cfg.NoV3}
	for i, e := range cfg.Exports {
		s.export(t, e, i+1)
	}
	ctx := context.Background()
	if s.v3 {
		StartCommand(t, h.Name+"-rpcbind", h.ServerCommand(ctx, "rpcbind", "-f"))
		Poll(t, CommandLimit, "rpcbind of "+h.Name, func() error {
			_, err := runCommand(h.ServerCommand(ctx, "rpcinfo", "-p"), CommandLimit)
			return err
		})
	}
	// nfsdcld must be watching when the threads start: the kernel asks once.
	cld := StartCommand(t, h.Name+"-nfsdcld", h.ServerCommand(ctx, "nfsdcld", "-F", "-d"))
	cld.WaitLine(t, regexp.MustCompile(`Starting event dispatch handler`), CommandLimit)
	mountd := StartCommand(t, h.Name+"-mountd", h.ServerCommand(ctx, "rpc.mountd", "-F"))
	mountd.WaitLine(t, regexp.MustCompile(`starting`), CommandLimit)
	t.Cleanup(func() {
		if _, err := s.setThreads(0); err != nil {
			t.Error(err)
		}
	})
	s.Up(t)
	return s
}

// makeMountNamespace makes the namespace for ServerCommand and keeps it in a
// file, as "ip netns" does with those of the network. It follows what is
// mounted outside, such as another file system to export, and not the other
// way round. The file must be on a private mount: a namespace that contained
// itself would never end.
func makeMountNamespace(t testing.TB, h *Host) {
	t.Helper()
	file := h.mountNamespace()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := privateMount(stateDir); err != nil {
		t.Fatalf("mount %s: %v", stateDir, err)
	}
	if err := os.WriteFile(file, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	h.Run(t, "unshare", "--mount="+file, "--propagation", "slave", "sh", "-c", serverMounts)
	t.Cleanup(func() {
		h.nfsd = false
		if err := unix.Unmount(file, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", file, err)
		}
		_ = os.Remove(file)
	})
}

// privateMount makes a directory a private mount, once.
func privateMount(dir string) error {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(table), " "+dir+" ") {
		return nil
	}
	return errors.Join(
		unix.Mount(dir, dir, "", unix.MS_BIND, ""),
		unix.Mount("", dir, "", unix.MS_PRIVATE, ""),
	)
}

// Export offers one more directory, or the same with other options.
func (s *NFSD) Export(t testing.TB, e Export) {
	t.Helper()
	// Any number that no other has: it follows from the path.
	id := 1000
	for _, c := range []byte(e.Path) {
		id = (id*31 + int(c)) % 1_000_000
	}
	s.export(t, e, 1000+id)
}

func (s *NFSD) export(t testing.TB, e Export, id int) {
	t.Helper()
	if err := os.MkdirAll(e.Path, 0o777); err != nil {
		t.Fatal(err)
	}
	options := cmp.Or(e.Options, "rw,no_root_squash") + ",fsid=" + strconv.Itoa(id)
	if e.XprtSec != "" {
		options += ",xprtsec=" + e.XprtSec
	}
	s.Run(t, "exportfs", "-i", "-o", options, cmp.Or(e.Clients, "*")+":"+e.Path)
}

// Unexport withdraws a directory.
func (s *NFSD) Unexport(t testing.TB, e Export) {
	t.Helper()
	s.Run(t, "exportfs", "-u", cmp.Or(e.Clients, "*")+":"+e.Path)
}

// Up starts the kernel's threads. StartNFSD has done so, but Down may have
// ended them.
func (s *NFSD) Up(t testing.TB) {
	t.Helper()
	lease := strconv.Itoa(LeaseSeconds)
	args := []string{"-N", "4.0", "-G", lease, "-L", lease}
	if s.v3 {
		args = append(args, "-V", "3")
	} else {
		args = append(args, "-N", "3")
	}
	s.Run(t, "rpc.nfsd", append(args, strconv.Itoa(s.threads))...)
	// rpc.nfsd is not always told when the kernel starts none.
	if n := strings.TrimSpace(s.Read(t, "threads")); n != strconv.Itoa(s.threads) {
		t.Fatalf("host %s: %s threads of nfsd, want %d", s.Host.Name, n, s.threads)
	}
}

// Down ends the kernel's threads, and with them all connections. Clients hang
// until Up.
func (s *NFSD) Down(t testing.TB) {
	t.Helper()
	if _, err := s.setThreads(0); err != nil {
		t.Fatal(err)
	}
}

func (s *NFSD) setThreads(n int) (string, error) {
	return runCommand(s.Host.ServerCommand(context.Background(), "rpc.nfsd", strconv.Itoa(n)), CommandLimit)
}

// Run runs a program where the server's files are.
func (s *NFSD) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	text, err := runCommand(s.Host.ServerCommand(context.Background(), name, args...), CommandLimit)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Read returns a file of the host's /proc/fs/nfsd.
func (s *NFSD) Read(t testing.TB, file string) string {
	t.Helper()
	return s.Run(t, "cat", filepath.Join("/proc/fs/nfsd", file))
}

// ErrHung says that something did not end in time and was killed.
var ErrHung = errHung

// MountLimit is how long Mount waits: longer than the kernel's own attempts.
const MountLimit = 2 * time.Minute

// Mount mounts an NFS file system in a host, and unmounts it when the test
// ends. The directory, which is made if need be, shows it to the whole guest.
func Mount(t testing.TB, h *Host, source, dir, options string) {
	t.Helper()
	if err := TryMount(t, h, source, dir, options, MountLimit); err != nil {
		t.Fatal(err)
	}
}

// MountErr mounts what must not be mountable, and returns why it was not, with
// what mount(8) said. The error is ErrHung if it was killed after limit.
func MountErr(t testing.TB, h *Host, source, dir, options string, limit time.Duration) error {
	t.Helper()
	err := TryMount(t, h, source, dir, options, limit)
	if err == nil {
		t.Fatalf("%s mounted %s with %s, which had to fail", h.Name, source, options)
	}
	return err
}

// TryMount is Mount for what may fail.
func TryMount(t testing.TB, h *Host, source, dir, options string, limit time.Duration) error {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(context.Background(), "mount", "-t", "nfs", "-o", options, source, dir)
	if _, err := runCommand(cmd, limit); err != nil {
		return err
	}
	t.Cleanup(func() { unmountAtEnd(t, h, dir) })
	return nil
}

// Unmount unmounts a file system that is in good health.
func Unmount(t testing.TB, h *Host, dir string) {
	t.Helper()
	mustRun(t, h, "umount", dir)
}

// unmountAtEnd gets rid of a mount in whatever state it is, unless it is
// gone already.
func unmountAtEnd(t testing.TB, h *Host, dir string) {
	t.Helper()
	if !mounted(t, dir) {
		return
	}
	_, err := runCommand(exec.Command("umount", dir), 10*time.Second)
	if err != nil {
		// Force ends requests that wait for a server, lazy what is left.
		_, err = runCommand(h.Command(context.Background(), "umount", "-f", "-l", dir), 10*time.Second)
	}
	if err != nil {
		t.Errorf("unmount %s: %v", dir, err)
	}
}

// mounted looks at the table only: touching the directory might hang.
func mounted(t testing.TB, dir string) bool {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	return strings.Contains(string(table), " "+filepath.Clean(dir)+" ")
}
