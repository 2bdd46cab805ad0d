// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// supported: this operating system may have kernel TLS.
const supported = true

// More of the kernel's numbers (include/uapi/linux/tls.h).
const (
	optZeroCopyRO = 3 // TLS_TX_ZEROCOPY_RO
	optNoPad      = 4 // TLS_RX_EXPECT_NO_PAD
	optMaxPayload = 5 // TLS_TX_MAX_PAYLOAD_LEN

	cmsgSetType = 1 // TLS_SET_RECORD_TYPE
	cmsgGetType = 2 // TLS_GET_RECORD_TYPE
)

// handOver gives p to the kernel: TCP_ULP "tls", TLS_TX, TLS_RX, in this order.
// Until TLS_TX has succeeded, nothing has changed for crypto/tls. rekey says
// whether keys can be replaced.
func handOver(conn *net.TCPConn, p *plan, opts connOptions) (s kernelSocket, o Offload, rekey bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, neither(err), false
	}
	cerr := raw.Control(func(fd uintptr) {
		if err = attach(int(fd)); err != nil {
			err = &InstallError{Op: "TCP_ULP", Cipher: p.suite.Cipher, Err: err}
		}
	})
	if err = cmp.Or(cerr, err); err != nil {
		return nil, neither(err), false
	}
	// What is known to fail is not tried on a connection that matters. Meanwhile
	// the connection can be closed.
	caps, perr := Probe()
	known := caps.Suites[p.suite]
	if known.TX != nil {
		return nil, neither(known.TX), false
	}
	cerr = raw.Control(func(fd uintptr) {
		if err = setKeys(int(fd), optTX, "TLS_TX", p.suite, p.tx.keys, p.tx.seq); err != nil {
			return
		}
		o.TX.Kernel = true
		if o.RX.Reason = known.RX; o.RX.Reason == nil {
			o.RX.Reason = setKeys(int(fd), optRX, "TLS_RX", p.suite, p.rx.keys, p.rx.seq)
		}
		o.RX.Kernel = o.RX.Reason == nil
		rekey = caps.Rekey == nil
		if perr != nil {
			// Nothing could be tried elsewhere. The same key once more, before it
			// is used, does no harm.
			rekey = p.suite.Version == versionTLS13 &&
				setKeys(int(fd), optTX, "TLS_TX", p.suite, p.tx.keys, p.tx.seq) == nil
		}
		// Hints: a kernel that does not know them does without.
		if opts.zeroCopySendfile {
			_ = setNumber(int(fd), optZeroCopyRO, 1)
		}
		if opts.expectNoPad && o.RX.Kernel {
			_ = setNumber(int(fd), optNoPad, 1)
		}
	})
	if cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, neither(err), false
	}
	return newTLSSocket(conn, raw, p.suite), o, rekey
}

// setKeys gives one direction's keys to the kernel.
func setKeys(fd, opt int, op string, suite Suite, keys trafficKeys, seq uint64) error {
	info := suite.info(keys, seq)
	defer clear(info)
	if err := setsockopt(fd, solTLS, opt, info); err != nil {
		return &InstallError{Op: op, Cipher: suite.Cipher, Err: err}
	}
	return nil
}

func setNumber(fd, opt int, n uint32) error {
	return setsockopt(fd, solTLS, opt, binary.NativeEndian.AppendUint32(nil, n))
}

// setPayloadLimit limits what a record that is sent holds (struct u16).
func setPayloadLimit(fd int, n uint16) error {
	return setsockopt(fd, solTLS, optMaxPayload, binary.NativeEndian.AppendUint16(nil, n))
}

// A tlsSocket is a TCP socket whose sending, at least, the kernel encrypts.
type tlsSocket struct {
	conn  *net.TCPConn
	raw   syscall.RawConn
	suite Suite

	// Of the one receive that there is at a time, so that it allocates nothing.
	p     []byte
	oob   [64]byte
	n     int
	oobn  int
	flags int
	err   error
	try   func(fd uintptr) (done bool)
}

func newTLSSocket(conn *net.TCPConn, raw syscall.RawConn, suite Suite) *tlsSocket {
	s := &tlsSocket{conn: conn, raw: raw, suite: suite}
	s.try = func(fd uintptr) bool {
		for {
			s.n, s.oobn, s.flags, _, s.err = unix.Recvmsg(int(fd), s.p, s.oob[:], 0)
			if s.err != unix.EINTR {
				return s.err != unix.EAGAIN
			}
		}
	}
	return s
}

func (s *tlsSocket) receive(p []byte) (n int, typ byte, whole bool, err error) {
	s.p = p
	perr := s.raw.Read(s.try)
	n, err, s.p = s.n, s.err, nil
	if perr != nil {
		return 0, 0, false, s.opError("read", perr)
	}
	if err != nil {
		return 0, 0, false, s.receiveError(err)
	}
	for b := s.oob[:s.oobn]; len(b) > 0; {
		h, data, rest, err := unix.ParseOneSocketControlMessage(b)
		if err != nil {
			return 0, 0, false, s.opError("read", err)
		}
		if h.Level == solTLS && h.Type == cmsgGetType && len(data) >= 1 {
			typ = data[0]
		}
		b = rest
	}
	if typ == 0 && n > 0 {
		return 0, 0, false, s.opError("read", errNoType)
	}
	return n, typ, s.flags&unix.MSG_EOR != 0, nil
}

var errNoType = errors.New("kernel did not say what kind of record it is")

// receiveError says what an errno of recvmsg(2) means (net/tls/tls_sw.c,
// tls_rx_msg_size and tls_rx_one_record).
func (s *tlsSocket) receiveError(err error) error {
	var a Alert
	switch err {
	case unix.EKEYEXPIRED:
		return errStopped
	case unix.EBADMSG:
		a = alertBadRecordMAC
	case unix.EMSGSIZE:
		a = AlertRecordOverflow
	case unix.EINVAL:
		a = AlertProtocolVersion
	default:
		return s.opError("read", os.NewSyscallError("recvmsg", err))
	}
	// The kernel keeps it as the socket's error, with which sending fails, too.
	_ = s.raw.Control(func(fd uintptr) { _, _ = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR) })
	return &AlertError{Alert: a, Err: s.opError("read", os.NewSyscallError("recvmsg", err))}
}

func (s *tlsSocket) send(p []byte) (int, error) { return s.conn.Write(p) }

func (s *tlsSocket) sendControl(typ byte, p []byte, wait bool) (err error) {
	oob := controlMessage(typ)
	call := func(fd uintptr) bool {
		for {
			_, err = unix.SendmsgN(int(fd), p, oob, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}
	var perr error
	if wait {
		perr = s.raw.Write(call)
	} else {
		perr = s.raw.Control(func(fd uintptr) { call(fd) })
	}
	switch {
	case perr != nil:
		return s.opError("write", perr)
	case err == unix.EAGAIN:
		return errFull
	case err != nil:
		return s.opError("write", os.NewSyscallError("sendmsg", err))
	}
	return nil
}

// controlMessage is the struct cmsghdr that makes sendmsg(2) send a record of
// the given type.
func controlMessage(typ byte) []byte {
	b := make([]byte, unix.CmsgSpace(1))
	n := uint64(unix.CmsgLen(1))
	header := unix.CmsgLen(0)
	if size := header - 8; size == 8 { // size_t, then two ints
		binary.NativeEndian.PutUint64(b, n)
	} else {
		binary.NativeEndian.PutUint32(b, uint32(n))
	}
	binary.NativeEndian.PutUint32(b[header-8:], solTLS)
	binary.NativeEndian.PutUint32(b[header-4:], cmsgSetType)
	b[header] = typ
	return b
}

func (s *tlsSocket) setTX(keys trafficKeys) error { return s.replace(optTX, "TLS_TX", keys) }
func (s *tlsSocket) setRX(keys trafficKeys) error { return s.replace(optRX, "TLS_RX", keys) }

func (s *tlsSocket) replace(opt int, op string, keys trafficKeys) error {
	err := s.control(func(fd int) error { return setKeys(fd, opt, op, s.suite, keys, 0) })
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%w: %w", ErrRekey, err)
	}
	return err
}

func (s *tlsSocket) resumeRX() error {
	return s.control(func(fd int) error {
		info, err := s.info(fd, optRX)
		defer clear(info)
		if err == nil {
			err = setsockopt(fd, solTLS, optRX, info)
		}
		return os.NewSyscallError("TLS_RX", err)
	})
}

func (s *tlsSocket) sent() (seq uint64, err error) {
	err = s.control(func(fd int) error {
		info, err := s.info(fd, optTX)
		defer clear(info)
		if err != nil {
			return os.NewSyscallError("TLS_TX", err)
		}
		seq = binary.BigEndian.Uint64(info[len(info)-recSeqLen:])
		return nil
	})
	return seq, err
}

// info asks for one direction's keys and sequence number.
func (s *tlsSocket) info(fd, opt int) ([]byte, error) {
	info := make([]byte, cipherSpecs[s.suite.Cipher].infoLen())
	binary.NativeEndian.PutUint16(info, s.suite.Version)
	binary.NativeEndian.PutUint16(info[2:], uint16(s.suite.Cipher))
	n, err := getsockopt(fd, solTLS, opt, info)
	if err == nil && n != len(info) {
		err = errReadBack
	}
	return info, err
}

func (s *tlsSocket) control(f func(fd int) error) (err error) {
	if cerr := s.raw.Control(func(fd uintptr) { err = f(int(fd)) }); cerr != nil {
		return s.opError("set", cerr)
	}
	return err
}

// from: net.TCPConn takes sendfile(2) and splice(2) by itself, which end in the
// kernel's TLS like every other way of sending (net/tls/tls_sw.c,
// MSG_SPLICE_PAGES; before Linux 6.5, sendpage).
func (s *tlsSocket) from(r io.Reader) (int64, error) { return s.conn.ReadFrom(r) }

// waitInput waits until src has something to read, or has ended, and returns how
// many bytes it has.
func waitInput(src syscall.Conn) (queued int, err error) {
	raw, err := src.SyscallConn()
	if err != nil {
		return 0, err
	}
	var perr error
	err = raw.Read(func(fd uintptr) bool {
		var n int
		if n, perr = poll(fd, unix.POLLIN); perr != nil || n == 0 {
			return perr != nil
		}
		// Without an answer there is one byte at least, or the end.
		queued, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ)
		return true
	})
	if err == nil {
		err = os.NewSyscallError("poll", perr)
	}
	return queued, err
}

// poll asks for events on fd, without waiting.
func poll(fd uintptr, events int16) (n int, err error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: events}}
	for {
		if n, err = unix.Poll(p, 0); err != unix.EINTR {
			return n, err
		}
	}
}

func (s *tlsSocket) flush() (err error) {
	perr := s.raw.Write(func(fd uintptr) bool {
		var n int
		n, err = poll(fd, unix.POLLOUT)
		return err != nil || n > 0
	})
	if perr != nil {
		return s.opError("write", perr)
	}
	return os.NewSyscallError("poll", err)
}

func (s *tlsSocket) setWriteDeadline(t time.Time) error { return s.conn.SetWriteDeadline(t) }
func (s *tlsSocket) close() error                       { return s.conn.Close() }

// opError is how package net says it.
func (s *tlsSocket) opError(op string, err error) error {
	if e, ok := err.(*net.OpError); ok {
		err = e.Err // a raw-read's or raw-write's
	}
	return &net.OpError{Op: op, Net: s.conn.LocalAddr().Network(), Source: s.conn.LocalAddr(), Addr: s.conn.RemoteAddr(), Err: err}
}
