// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What [CanEnter] finds missing.
var (
	ErrNoRight   = errors.New("CAP_SYS_ADMIN is missing, which entering a network namespace needs")
	ErrForbidden = errors.New("setns(2) is forbidden by the sandbox (RestrictNamespaces=net and SystemCallFilter=setns capset allow it)")
)

const right = 1 << unix.CAP_SYS_ADMIN

type caps [2]unix.CapUserData // 64 capabilities, the lower half first

func header() unix.CapUserHeader {
	return unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
}

// current returns the calling thread's.
func current() (c caps, err error) {
	h := header()
	return c, os.NewSyscallError("capget", unix.Capget(&h, &c[0]))
}

// withRight calls f with CAP_SYS_ADMIN in the effective set of this thread, to
// which the goroutine is locked, if it may have it.
func withRight(f func() error) error {
	c, err := current()
	if err != nil {
		return err
	}
	if c[0].Effective&right != 0 || c[0].Permitted&right == 0 {
		return f()
	}
	raised, h := c, header()
	raised[0].Effective |= right
	if err := unix.Capset(&h, &raised[0]); err != nil {
		return os.NewSyscallError("capset", err)
	}
	err = f()
	// Giving up cannot be refused where taking was not.
	return errors.Join(err, os.NewSyscallError("capset", unix.Capset(&h, &c[0])))
}

// Rest takes CAP_SYS_ADMIN out of the effective, inheritable and ambient sets of
// all threads, those to come included. It stays permitted, for [Namespace.Do]
// alone.
func Rest() error {
	c, err := current()
	if err != nil || c[0].Permitted&right == 0 {
		return err
	}
	c[0].Effective &^= right
	c[0].Inheritable &^= right // with which ambient goes, too (capabilities(7))
	h := header()
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&c[0])), 0)
	runtime.KeepAlive(&h)
	runtime.KeepAlive(&c)
	if e != 0 {
		return os.NewSyscallError("capset", e)
	}
	return nil
}

// CanEnter says what this process lacks to enter namespaces: an error that wraps
// [ErrNoRight] or [ErrForbidden]. It tries with the namespace where it is.
func CanEnter() (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(func() { err = tryEnter() })
	}()
	<-done
	return err
}

func tryEnter() error {
	c, err := current()
	if err != nil {
		return err
	}
	if c[0].Permitted&right == 0 {
		return ErrNoRight
	}
	fd, _, err := open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := setns(fd); errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("%w: %w", ErrForbidden, err)
	} else if err != nil {
		return err
	}
	return nil
}
