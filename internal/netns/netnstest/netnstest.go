// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netnstest

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// Make makes a network namespace with its loopback up and gives it a name, which
// [Remove] takes away, or the end of the test. Without the right to do so the test
// is skipped, and says why.
func Make(tb testing.TB, path string) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	err := make(chan error)
	go func() {
		runtime.LockOSThread() // not unlocked: it ends with the goroutine
		err <- create(path)
	}()
	if err := <-err; errors.Is(err, unix.EPERM) {
		tb.Skipf("no right to make network namespaces: %v", err)
	} else if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = remove(path) })
}

// create is what "ip netns add" does, on a thread of its own.
func create(path string) error {
	if unix.Gettid() == unix.Getpid() {
		done := make(chan error)
		go func() { runtime.LockOSThread(); done <- create(path) }()
		defer runtime.UnlockOSThread()
		return <-done
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := upLoopback(); err != nil {
		return err
	}
	return Name(path, "/proc/thread-self/ns/net")
}

// Name gives the namespace of one name another.
func Name(path, of string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return os.NewSyscallError("mount", unix.Mount(of, path, "", unix.MS_BIND, ""))
}

func upLoopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	return os.NewSyscallError("ioctl SIOCSIFFLAGS", unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req))
}

// Remove takes a name away, as "ip netns del" does.
func Remove(tb testing.TB, path string) {
	tb.Helper()
	if err := remove(path); err != nil {
		tb.Fatal(err)
	}
}

func remove(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return os.NewSyscallError("umount", err)
	}
	return os.Remove(path)
}
