// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// raiseScheduling gives the calling thread the best scheduling it may have and
// returns its name. The kernel queues as few as three requests and drops the
// rest (net/handshake/request.c), so the thread that takes them must not wait
// behind those that compute.
func raiseScheduling() string {
	attr := unix.SchedAttr{
		Size:     uint32(unsafe.Sizeof(unix.SchedAttr{})),
		Policy:   unix.SCHED_FIFO,
		Priority: 1,
		Flags:    unix.SCHED_FLAG_RESET_ON_FORK, // not for threads begun from here
	}
	if unix.SchedSetAttr(0, &attr, 0) == nil {
		return "SCHED_FIFO 1"
	}
	if unix.Setpriority(unix.PRIO_PROCESS, 0, -20) == nil {
		return "nice -20"
	}
	return "normal"
}
