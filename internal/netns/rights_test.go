// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netns_test

import (
	"os"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

type caps [2]unix.CapUserData

func of(thread string) (c caps, err error) {
	tid, err := strconv.Atoi(thread)
	if err != nil {
		return c, err
	}
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(tid)}
	return c, os.NewSyscallError("capget", unix.Capget(&h, &c[0]))
}

func rights(t *testing.T) caps {
	t.Helper()
	c, err := of("0")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// restore gives every thread what this one had, so that clean-up can unmount.
func restore(c caps) error {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_, _, e := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&h)), uintptr(unsafe.Pointer(&c[0])), 0)
	if e != 0 {
		return e
	}
	return nil
}
