// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// As calls f as the user that a daemon would be, if this process is root's and
// there is such a user: what f reads is what that user may read. It is for tools
// that need their rights afterwards; a daemon's -check gives them up for good.
//
// f runs on a thread of its own, which ends with it, and must start no
// goroutines. The error is about getting there; f has its own ways.
func As(name string, f func()) error {
	who, err := lookup(name)
	if err != nil {
		return fmt.Errorf("read as user %s: %w", name, err)
	}
	if who == nil {
		f()
		return nil
	}
	done := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine, and nothing else
		// ever runs with its rights. The raw calls are for this thread alone.
		runtime.LockOSThread()
		defer close(done) // also if f panics
		if err := unix.Setgroups(who.groups); err != nil {
			done <- os.NewSyscallError("setgroups", err)
			return
		}
		gid, uid := uintptr(who.gid), uintptr(who.uid)
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, gid, gid, gid); e != 0 {
			done <- os.NewSyscallError("setresgid", e)
			return
		}
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); e != 0 {
			done <- os.NewSyscallError("setresuid", e)
			return
		}
		f()
	}()
	return <-done
}
