// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/examples/https/internal/uring"
	"rpctls/ktls"
)

// A Conn is a TLS connection whose handshake has been made. It is a net.Conn.
type Conn struct {
	tls  *ktls.Conn
	ring *uring.Ring
	raw  syscall.RawConn

	// Which way each direction goes now.
	reads  bool
	writes atomic.Bool
	used   Used

	closed atomic.Bool
	flying sync.RWMutex // held for reading around each operation of the ring
	rmu    sync.Mutex   // one Read at a time
	wmu    sync.Mutex   // one Write at a time
	rd, wd *deadline
	peeked []byte // of control records; under rmu
}

// Used counts what went by io_uring.
type Used struct {
	Sent, Received atomic.Int64 // bytes
	Control        atomic.Int64 // records that were not data
}

// New carries a connection, whose handshake has been made, by a ring, if the
// kernel has both directions of its TLS. The connection belongs to the Conn from
// then on.
func New(c *ktls.Conn, ring *uring.Ring) (*Conn, error) {
	rc := &Conn{tls: c, ring: ring, rd: newDeadline(), wd: newDeadline()}
	raw, err := c.SyscallConn()
	if errors.Is(err, ktls.ErrOffload) {
		return rc, nil
	}
	if err != nil {
		return nil, fmt.Errorf("socket of the connection: %w", err)
	}
	rc.raw, rc.reads = raw, true
	rc.writes.Store(true)
	return rc, nil
}

// Carried reports whether the ring carries data, or has only connected.
func (c *Conn) Carried() bool { return c.reads }

// TLS returns the connection underneath.
func (c *Conn) TLS() *ktls.Conn { return c.tls }

// Used returns what went by io_uring until now.
func (c *Conn) Used() *Used { return &c.used }

// operate runs an operation of the ring, which does not outlive the Conn.
func (c *Conn) operate(f func() (int, error)) (int, error) {
	c.flying.RLock()
	defer c.flying.RUnlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	return f()
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if !c.reads || len(p) == 0 {
		return c.tls.Read(p)
	}
	n, err := c.operate(func() (int, error) { return c.ring.Recv(c.raw, p, c.rd.wait()) })
	switch {
	case n > 0:
		c.used.Received.Add(int64(n))
		return n, nil
	case err == nil:
		// The end, and whether the peer meant it is not for us to say.
		return c.tls.Read(p)
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EKEYEXPIRED):
		return c.control(p)
	}
	return 0, c.opError("read", err)
}

// maxContent is the longest content of a record (RFC 8446 section 5.1).
const maxContent = 1 << 14

// control has the record that is next, which is not data, and what follows it
// read by package ktls.
func (c *Conn) control(p []byte) (int, error) {
	c.used.Control.Add(1)
	if c.peeked == nil {
		c.peeked = make([]byte, maxContent)
	}
	oob := make([]byte, unix.CmsgSpace(1))
	var oobn, flags int
	n, err := c.operate(func() (n int, err error) {
		n, oobn, flags, err = c.ring.RecvMsg(c.raw, c.peeked, oob, unix.MSG_PEEK, c.rd.wait())
		return n, err
	})
	if err != nil || flags&unix.MSG_CTRUNC != 0 || !harmless(recordType(oob[:oobn]), c.peeked[:n]) {
		c.retire()
	}
	return c.tls.Read(p)
}

// TLS_GET_RECORD_TYPE at level SOL_TLS (Documentation/networking/tls.rst).
const (
	solTLS        = 282
	getRecordType = 2
)

// recordType returns what the kernel says of a record; 0 is nothing.
func recordType(oob []byte) byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if m.Header.Level == solTLS && m.Header.Type == getRecordType && len(m.Data) == 1 {
			return m.Data[0]
		}
	}
	return 0
}

// retire ends sending by io_uring, also what is in flight, for good.
func (c *Conn) retire() {
	c.writes.Store(false)
	c.wd.expire()
	// A Write that does not know yet is over when this can be had; one that
	// does is package ktls's business, which lets Read and Write be.
	c.flying.Lock()
	c.flying.Unlock() //lint:ignore SA2001 nothing to do but to have waited
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	done := 0
	for done < len(p) && c.writes.Load() {
		n, err := c.operate(func() (int, error) {
			if !c.writes.Load() {
				return 0, uring.ErrAborted
			}
			return c.ring.Send(c.raw, p[done:], c.wd.wait())
		})
		done += n
		c.used.Sent.Add(int64(n))
		if errors.Is(err, uring.ErrAborted) && !c.writes.Load() && !c.closed.Load() {
			break
		}
		if err != nil {
			return done, c.opError("write", err)
		}
	}
	if done < len(p) || len(p) == 0 {
		n, err := c.tls.Write(p[done:])
		return done + n, err
	}
	return done, nil
}

// opError returns what a net.Conn says.
func (c *Conn) opError(op string, err error) error {
	switch {
	case c.closed.Load():
		err = net.ErrClosed
	case errors.Is(err, uring.ErrAborted):
		err = os.ErrDeadlineExceeded
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close implements net.Conn. It waits for the ring: nothing is sent beside the
// close_notify of package ktls.
func (c *Conn) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	c.rd.expire()
	c.wd.expire()
	c.flying.Lock()
	defer c.flying.Unlock()
	return c.tls.Close()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return c.tls.LocalAddr() }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return c.tls.RemoteAddr() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.rd.set(t)
	return c.tls.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.wd.set(t)
	return c.tls.SetWriteDeadline(t)
}

var _ interface {
	net.Conn
	io.Closer
} = (*Conn)(nil)
