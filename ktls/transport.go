// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Transport is the socket under a handshake: *net.TCPConn is one, and so is
// *socket.Conn of github.com/mdlayher/socket. The handshake uses its
// descriptor and its deadlines, changes no option of it and never closes it.
type Transport interface {
	syscall.Conn
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// recheck is how often a blocked read or write is tried again. The kernel's
// NFS client replaces the socket's state-change callback while a handshake
// runs, so that neither a RST nor its own shutdown wakes a waiting poller
// (net/sunrpc/xprtsock.c): only a new system call notices them.
const recheck = 100 * time.Millisecond

// recordConn is the net.Conn that crypto/tls sees. A Read never returns, and
// never takes from the socket, a byte beyond the record it is in: first the
// header alone, whose length field then bounds the rest.
type recordConn struct {
	t       Transport
	raw     syscall.RawConn
	opts    Options
	hurried time.Time // when a wait first saw that the caller is in a hurry

	header  [recordHeaderLen]byte
	got     int // bytes of header read
	body    int // bytes of the record's body not yet read
	records int // whole records read

	sentAlert  Alert // the last alert that left in clear
	alertSent  bool
	substitute func(record []byte) []byte // replaces an encrypted alert; may be nil
	// substituted is what substitute puts in its place.
	substituted Alert
	blocked     time.Duration // time spent waiting for the peer
	queued      time.Duration // time spent waiting for the gate
	waiting     time.Time     // when the first wait began
	inside      bool          // of opts.Gate
}

func newRecordConn(t Transport, opts Options) (*recordConn, error) {
	raw, err := t.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &recordConn{t: t, raw: raw, opts: opts}, nil
}

// enter waits for a place inside the gate. Nobody waits for the result of a
// handshake whose deadline has passed, so it does not wait any longer either.
func (c *recordConn) enter() error {
	if c.opts.Gate == nil || c.inside {
		return nil
	}
	began := time.Now()
	ok := c.opts.Gate.Enter(c.opts.Deadline)
	c.queued += time.Since(began)
	if !ok {
		return ErrNoTurn
	}
	c.inside = true
	return nil
}

// times says where the time since began went.
func (c *recordConn) times(began time.Time) Times {
	return Times{Queued: c.queued, Network: c.blocked, Computing: time.Since(began) - c.queued - c.blocked}
}

func (c *recordConn) leave() {
	if c.inside {
		c.inside = false
		c.opts.Gate.Leave()
	}
}

// atBoundary reports whether every record that was begun has been read whole.
func (c *recordConn) atBoundary() bool { return c.got == 0 && c.body == 0 }

// Read implements net.Conn.
func (c *recordConn) Read(p []byte) (int, error) {
	limit := c.body
	if limit == 0 {
		limit = recordHeaderLen - c.got
	}
	if limit > maxCiphertext {
		return 0, errRecordTooLong
	}
	n, err := c.readSome(p[:min(len(p), limit)])
	if err != nil {
		return 0, err
	}
	if c.body > 0 {
		c.body -= n
	} else {
		c.got += copy(c.header[c.got:], p[:n])
		if c.got < recordHeaderLen {
			return n, nil
		}
		c.body = int(binary.BigEndian.Uint16(c.header[3:]))
	}
	if c.body == 0 {
		c.got = 0
		c.records++
		c.heard()
	}
	return n, nil
}

func (c *recordConn) heard() {
	if c.opts.Heard == nil {
		return
	}
	waited := time.Duration(0)
	if !c.waiting.IsZero() {
		waited = time.Since(c.waiting)
	}
	c.opts.Heard(waited)
	c.opts.Heard = nil
}

// readSome reads at least one byte into p. It tries the socket before it
// waits, so a socket with data is never given up on, and it is outside
// opts.Gate exactly while it waits.
func (c *recordConn) readSome(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.over(time.Now()) {
		// Nobody waits for the result any more: leave the processor to a
		// handshake that can still make it.
		return 0, os.ErrDeadlineExceeded
	}
	read := func(fd int) (int, error) { return unix.Read(fd, p) }
	n, err := c.try(read)
	if err == unix.EAGAIN {
		n, err = c.wait(c.t.SetReadDeadline, c.raw.Read, read)
	}
	if err != nil {
		return 0, os.NewSyscallError("read", err)
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// over reports whether the handshake's time is over at now.
func (c *recordConn) over(now time.Time) bool {
	return !c.opts.Deadline.IsZero() && !now.Before(c.opts.Deadline)
}

// waitEnd returns when a wait for the peer ends, at the latest; zero: never. It
// is less than the handshake's time when the caller is in a hurry.
func (c *recordConn) waitEnd(now time.Time) time.Time {
	if c.hurried.IsZero() {
		select {
		case <-c.opts.Hurry:
			c.hurried = now
		default:
			return c.opts.Deadline
		}
	}
	left := hurry
	if c.records > 0 && c.opts.Grace != nil {
		left = max(left, c.opts.Grace())
	}
	end := c.hurried.Add(left)
	if d := c.opts.Deadline; !d.IsZero() && d.Before(end) {
		return d
	}
	return end
}

// Write implements net.Conn.
func (c *recordConn) Write(p []byte) (int, error) {
	out := c.observe(p)
	for done := 0; done < len(out); {
		send := func(fd int) (int, error) {
			return unix.SendmsgN(fd, out[done:], nil, nil, unix.MSG_NOSIGNAL)
		}
		n, err := c.try(send)
		if err == unix.EAGAIN {
			n, err = c.wait(c.t.SetWriteDeadline, c.raw.Write, send)
		}
		if err != nil {
			return 0, os.NewSyscallError("sendmsg", err)
		}
		done += n
	}
	return len(p), nil
}

// observe notes an alert that is about to leave and lets substitute replace
// an encrypted one. crypto/tls writes an alert in a Write of its own or, when
// it was buffering a flight, as the last record of it.
func (c *recordConn) observe(p []byte) []byte {
	last := p
	for len(last) >= recordHeaderLen {
		n := recordHeaderLen + int(binary.BigEndian.Uint16(last[3:]))
		if n >= len(last) {
			break
		}
		last = last[n:]
	}
	switch {
	case len(last) == recordHeaderLen+2 && last[0] == recordAlert:
		c.sentAlert, c.alertSent = Alert(last[recordHeaderLen+1]), true
	case c.substitute != nil && len(last) == recordHeaderLen+encryptedAlertLen && last[0] == recordApplicationData:
		if r := c.substitute(last); r != nil {
			c.sentAlert, c.alertSent = c.substituted, true
			return append(p[:len(p)-len(last):len(p)-len(last)], r...)
		}
	}
	return p
}

// encryptedAlertLen is the body of an alert record in TLS 1.3: level,
// description, content type and a 16-byte tag.
const encryptedAlertLen = 2 + 1 + 16

// wait blocks until call does not return EAGAIN, the deadline passes, or the
// caller's patience for a first record ends.
func (c *recordConn) wait(setDeadline func(time.Time) error, poll func(func(uintptr) bool) error, call func(fd int) (int, error)) (n int, err error) {
	began := time.Now()
	if c.waiting.IsZero() {
		c.waiting = began
	}
	c.leave()
	defer func() {
		c.blocked += time.Since(began) // before the wait for the gate
		if eerr := c.enter(); err == nil && eerr != nil {
			n, err = 0, eerr
		}
	}()
	for {
		now := time.Now()
		until := now.Add(recheck)
		if end := c.waitEnd(now); !end.IsZero() {
			if !now.Before(end) {
				return 0, os.ErrDeadlineExceeded
			}
			if end.Before(until) {
				until = end
			}
		}
		if c.records == 0 && c.opts.Patience != nil {
			left := c.opts.Patience(now.Sub(c.waiting))
			if left <= 0 {
				return 0, ErrNoFirstRecord
			}
			if p := now.Add(left); p.Before(until) {
				until = p
			}
		}
		if err := setDeadline(until); err != nil {
			return 0, err
		}
		var cerr error
		perr := poll(func(fd uintptr) bool {
			for {
				if n, cerr = call(int(fd)); cerr != unix.EINTR {
					return cerr != unix.EAGAIN
				}
			}
		})
		switch {
		case perr == nil:
			return n, cerr
		case !errors.Is(perr, os.ErrDeadlineExceeded):
			return 0, perr
		}
		// The deadline ended the poll without a system call: ask the socket
		// itself before giving up on it, or going round.
		if n, cerr = c.try(call); cerr != unix.EAGAIN {
			return n, cerr
		}
	}
}

// try runs one system call that does not block, outside the poller and its
// deadlines.
func (c *recordConn) try(call func(fd int) (int, error)) (n int, err error) {
	cerr := c.raw.Control(func(fd uintptr) {
		for {
			if n, err = call(int(fd)); err != unix.EINTR {
				return
			}
		}
	})
	if cerr != nil {
		return 0, cerr
	}
	return n, err
}

// Close implements net.Conn and does nothing: the socket has an owner.
func (c *recordConn) Close() error { return nil }

// LocalAddr implements net.Conn. crypto/tls only shows it to callbacks.
func (c *recordConn) LocalAddr() net.Addr { return noAddr{} }

// RemoteAddr implements net.Conn, like LocalAddr.
func (c *recordConn) RemoteAddr() net.Addr { return noAddr{} }

// SetDeadline implements net.Conn and does nothing: Options.Deadline holds.
func (c *recordConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn, like SetDeadline.
func (c *recordConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn, like SetDeadline.
func (c *recordConn) SetWriteDeadline(time.Time) error { return nil }

type noAddr struct{}

func (noAddr) Network() string { return "tcp" }
func (noAddr) String() string  { return "" }
