// SPDX-License-Identifier: BSD-3-Clause

//go:build linux && faults

package ktls

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// faultEnv makes key installation fail, for tests of what then happens:
// "ENOMEM/7" is that error at every seventh call that puts TLS or keys on a
// socket. This file is in no build without the tag "faults"; a test of the
// repository sees to that.
const faultEnv = "RPCTLS_FAULT_SETSOCKOPT"

func init() {
	text, ok := os.LookupEnv(faultEnv)
	if !ok {
		return
	}
	errno, every, err := parseFault(text)
	if err != nil {
		panic(fmt.Sprintf("ktls: %s: %v", faultEnv, err))
	}
	setsockopt = failing(setsockopt, errno, every)
}

// failing fails every so many calls of set that concern TLS. Loopback is left
// alone: there the daemon probes the kernel, and would not start.
func failing(set func(fd, level, opt int, value []byte) error, errno unix.Errno, every uint64) func(fd, level, opt int, value []byte) error {
	var calls atomic.Uint64
	return func(fd, level, opt int, value []byte) error {
		concerned := level == unix.IPPROTO_TCP && opt == unix.TCP_ULP || level == solTLS && (opt == optTX || opt == optRX)
		if concerned && !loopback(fd) && calls.Add(1)%every == 0 {
			return errno
		}
		return set(fd, level, opt, value)
	}
}

func loopback(fd int) bool {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return false
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return sa.Addr[0] == 127
	case *unix.SockaddrInet6:
		return sa.Addr == [16]byte{15: 1}
	}
	return false
}

// parseFault reads "ERRNO/N".
func parseFault(s string) (errno unix.Errno, every uint64, err error) {
	name, n, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, fmt.Errorf("%q is not ERRNO/N", s)
	}
	if every, err = strconv.ParseUint(n, 10, 32); err != nil || every == 0 {
		return 0, 0, fmt.Errorf("%q is not a number of calls", n)
	}
	const most = 133 // include/uapi/asm-generic/errno.h
	for errno = 1; errno <= most; errno++ {
		if unix.ErrnoName(errno) == name {
			return errno, every, nil
		}
	}
	return 0, 0, fmt.Errorf("no error is called %q", name)
}
