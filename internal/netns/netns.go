// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// ErrGone: the namespace is not, or no longer, one that is served.
var ErrGone = errors.New("this network namespace is not served")

// A Namespace is held: it exists until Close. Make one with [Open].
type Namespace struct {
	id     ID
	cookie uint64
	paths  atomic.Pointer[[]string]

	mu sync.Mutex // guards fd
	fd int
}

// Open holds a namespace that was found. It fails if its first name stands for
// another one by now.
func Open(f Found) (*Namespace, error) {
	fd, id, err := open(f.Paths[0])
	if err != nil {
		return nil, err
	}
	n := &Namespace{id: id, fd: fd}
	n.Rename(f.Paths)
	if id != f.ID {
		n.Close()
		return nil, fmt.Errorf("%s: %w", f.Paths[0], ErrGone)
	}
	err = n.Do(func() (err error) { n.cookie, err = Own(); return err })
	if err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// ID is that of its file.
func (n *Namespace) ID() ID { return n.id }

// Cookie is the kernel's number of it, which no other has until the host restarts.
func (n *Namespace) Cookie() uint64 { return n.cookie }

// Paths are its names.
func (n *Namespace) Paths() []string { return *n.paths.Load() }

// String is its first name.
func (n *Namespace) String() string { return n.Paths()[0] }

// Rename says what names it has by now, at least one.
func (n *Namespace) Rename(paths []string) {
	paths = slices.Clone(paths)
	n.paths.Store(&paths)
}

// Close lets go of the namespace. What runs inside by Do does to its end.
func (n *Namespace) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd >= 0 {
		unix.Close(n.fd)
		n.fd = -1
	}
}

// Do calls f in the namespace, on a thread that ends with it, and returns its
// error. Sockets that f makes stay in the namespace wherever they are used. f must
// start no goroutines that count on it.
func (n *Namespace) Do(f func() error) error {
	n.mu.Lock()
	fd, err := -1, ErrGone
	if n.fd >= 0 {
		// Of its own, whatever Close does meanwhile.
		fd, err = unix.FcntlInt(uintptr(n.fd), unix.F_DUPFD_CLOEXEC, 3)
	}
	n.mu.Unlock()
	if err != nil {
		return fmt.Errorf("%s: %w", n, err)
	}
	defer unix.Close(fd)
	err = errors.New("internal error: it did not come back")
	done := make(chan struct{})
	go func() {
		defer close(done)
		onThread(func() {
			if e := setns(fd); e != nil {
				err = fmt.Errorf("enter %s: %w", n, e)
				return
			}
			err = f() // unless f never returns
		})
	}()
	<-done
	return err
}

// onThread calls f on a thread to which nothing else ever comes back. That is not
// the process's first, which would not end, and of which /proc/self tells.
func onThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return // not unlocked: the thread ends with the goroutine
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() { // cannot get the first, which is held here
		defer close(done)
		onThread(f)
	}()
	<-done
}

// setns takes the calling thread into a namespace.
func setns(fd int) error {
	return withRight(func() error {
		// With the type: RestrictNamespaces= of systemd refuses it without.
		return os.NewSyscallError("setns", unix.Setns(fd, unix.CLONE_NEWNET))
	})
}

// Own returns the cookie of the calling thread's namespace.
func Own() (uint64, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err != nil {
		return 0, os.NewSyscallError("getsockopt SO_NETNS_COOKIE", err)
	}
	return cookie, nil
}
