// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// latePeek bounds how much of the receive queue LateAlert copies: an alert is
// 24 bytes; session tickets, which may stand before it, are a few hundred
// each.
const latePeek = 4 << 10

// LateAlert looks for an alert that the server sends after the client has
// finished: in TLS 1.3 a server judges the client's certificate only then
// (RFC 8446 section 4.4.2.4), so a refusal arrives when the client's handshake
// has already succeeded.
//
// It waits up to wait for something to arrive and decrypts a copy of it
// (MSG_PEEK): the queue itself is left as it is. Session tickets in front are
// looked past. The result is nil when nothing arrived or what arrived is not
// an alert, an *[AlertError] with Remote set when it is one, io.EOF or a
// system call error when the connection ended.
func (s *Session) LateAlert(t Transport, wait time.Duration) error {
	raw, err := t.SyscallConn()
	if err != nil {
		return fmt.Errorf("look for a late alert: %w", err)
	}
	keys, err := s.keys(false)
	if err != nil {
		return fmt.Errorf("look for a late alert: %w", err)
	}
	defer keys.wipe()
	deadline := time.Now().Add(wait)
	defer t.SetReadDeadline(time.Time{})
	buf := make([]byte, latePeek)
	seen := -1
	for {
		n, err := peek(raw, buf)
		switch {
		case err == unix.EAGAIN:
			n = 0
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		case n == 0:
			return io.EOF
		}
		if n != seen {
			seen = n
			verdict, done := s.judge(keys, buf[:n])
			if done || n == len(buf) {
				return verdict
			}
		}
		if !time.Now().Before(deadline) {
			return nil
		}
		if err := waitMore(t, raw, deadline, n); err != nil {
			return err
		}
	}
}

// judge reads the records at the head of queue. done is false while the first
// record that could decide is incomplete.
func (s *Session) judge(keys trafficKeys, queue []byte) (verdict error, done bool) {
	for seq := uint64(0); len(queue) >= recordHeaderLen; seq++ {
		size := recordHeaderLen + int(binary.BigEndian.Uint16(queue[3:]))
		if size > len(queue) {
			return nil, false
		}
		typ, content, err := keys.open(s.Cipher, seq, queue[:size])
		if err != nil {
			// Not what the peer should send; the kernel will judge it.
			return nil, true
		}
		switch {
		case typ == recordAlert && len(content) == 2:
			return &AlertError{Alert: Alert(content[1]), Remote: true}, true
		case typ == recordApplicationData:
			// It talks to us: it has accepted us.
			return nil, true
		}
		queue = queue[size:]
	}
	return nil, false
}

// peek copies the head of the receive queue into buf without taking it.
func peek(raw syscall.RawConn, buf []byte) (n int, err error) {
	cerr := raw.Control(func(fd uintptr) {
		for {
			if n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// waitMore waits until more than have bytes are queued, the connection ends
// or deadline passes.
func waitMore(t Transport, raw syscall.RawConn, deadline time.Time, have int) error {
	until := time.Now().Add(recheck)
	if deadline.Before(until) {
		until = deadline
	}
	if err := t.SetReadDeadline(until); err != nil {
		return err
	}
	err := raw.Read(func(fd uintptr) bool {
		var b [latePeek]byte
		n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return err != unix.EAGAIN && err != unix.EINTR && (n != have || n == 0)
	})
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// RTT returns the kernel's smoothed estimate of the connection's round-trip
// time (TCP_INFO, tcpi_rtt).
func RTT(t syscall.Conn) (time.Duration, error) {
	raw, err := t.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	cerr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	if cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, os.NewSyscallError("getsockopt TCP_INFO", err)
	}
	return time.Duration(info.Rtt) * time.Microsecond, nil
}
