// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An InstallError says which step of the hand-over to the kernel failed.
type InstallError struct {
	Op     string // "TCP_ULP", "TLS_TX", "TLS_RX", or one of them with " read back"
	Cipher Cipher
	Err    error // usually a syscall.Errno
}

func (e *InstallError) Error() string {
	text := fmt.Sprintf("install kernel tls: %s (%v): %v", e.Op, e.Cipher, e.Err)
	if hint := e.hint(); hint != "" {
		text += " (" + hint + ")"
	}
	return text
}

// Unwrap returns the cause.
func (e *InstallError) Unwrap() error { return e.Err }

// hint names the usual cause of an errno (net/tls/tls_main.c, tcp_ulp.c).
func (e *InstallError) hint() string {
	switch {
	case e.Op == "TCP_ULP" && errors.Is(e.Err, unix.ENOENT):
		return "the kernel module tls is not loaded: modprobe tls"
	case e.Op == "TCP_ULP" && errors.Is(e.Err, unix.ENOTCONN):
		return "the peer has closed the connection"
	case errors.Is(e.Err, unix.ENOENT):
		return "the kernel has no such cipher"
	}
	return ""
}

// errReadBack: the kernel says it uses something else than it was given.
var errReadBack = errors.New("kernel reports other parameters than were set")

// setsockopt is unix.SetsockoptString but for bytes; a variable so that tests
// can make it fail.
var setsockopt = func(fd, level, opt int, value []byte) error {
	_, _, e := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0)
	if e != 0 {
		return e
	}
	return nil
}

func getsockopt(fd, level, opt int, value []byte) (int, error) {
	size := uint32(len(value))
	_, _, e := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(unsafe.Pointer(&size)), 0)
	if e != 0 {
		return 0, e
	}
	return int(size), nil
}

// Install hands the session to the kernel: TCP_ULP "tls", TLS_TX, TLS_RX, and
// both read back, because nobody after us checks (net/handshake takes our
// word). Any error is an *[InstallError] and leaves a socket that can only be
// closed: one direction may already be encrypted.
func (s *Session) Install(t syscall.Conn) error {
	tx, err := s.keys(true)
	if err != nil {
		return &InstallError{Op: "TLS_TX", Cipher: s.Cipher, Err: err}
	}
	defer tx.wipe()
	rx, err := s.keys(false)
	if err != nil {
		return &InstallError{Op: "TLS_RX", Cipher: s.Cipher, Err: err}
	}
	defer rx.wipe()
	raw, err := t.SyscallConn()
	if err != nil {
		return &InstallError{Op: "TCP_ULP", Cipher: s.Cipher, Err: err}
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = attach(int(fd)); err != nil {
			err = &InstallError{Op: "TCP_ULP", Cipher: s.Cipher, Err: err}
			return
		}
		suite := Suite{versionTLS13, s.Cipher}
		// Both sequence numbers are 0: see the package comment.
		if err = installKeys(int(fd), optTX, "TLS_TX", suite, tx); err == nil {
			err = installKeys(int(fd), optRX, "TLS_RX", suite, rx)
		}
	})
	if cerr != nil {
		return &InstallError{Op: "TCP_ULP", Cipher: s.Cipher, Err: cerr}
	}
	return err
}

// attach puts the kernel's TLS layer on a TCP socket.
func attach(fd int) error {
	return setsockopt(fd, unix.IPPROTO_TCP, unix.TCP_ULP, []byte("tls"))
}

// installKeys sets one direction's keys and reads them back.
func installKeys(fd, opt int, op string, s Suite, keys trafficKeys) error {
	info := s.info(keys, 0)
	defer clear(info)
	if err := setsockopt(fd, solTLS, opt, info); err != nil {
		return &InstallError{Op: op, Cipher: s.Cipher, Err: err}
	}
	got := make([]byte, len(info))
	defer clear(got)
	n, err := getsockopt(fd, solTLS, opt, got)
	if err != nil {
		return &InstallError{Op: op + " read back", Cipher: s.Cipher, Err: err}
	}
	// The sequence number is left out of the comparison for what is received:
	// the kernel may have begun to decrypt what was queued.
	if opt == optRX && n == len(info) {
		binary.BigEndian.PutUint64(got[len(got)-recSeqLen:], 0)
	}
	if n != len(info) || subtle.ConstantTimeCompare(info, got) != 1 {
		return &InstallError{Op: op + " read back", Cipher: s.Cipher, Err: errReadBack}
	}
	return nil
}
