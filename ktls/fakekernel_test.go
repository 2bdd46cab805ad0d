// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A fakeKernel is a kernelSocket in user space. It does what net/tls/tls_sw.c
// does, as far as this package sees it: one record at a time, a stop at a
// record that begins with KeyUpdate, an end that does not say which.
type fakeKernel struct {
	conn  *net.TCPConn
	suite Suite
	rekey bool

	rx      flow
	in      []byte // of the record that is being read
	typ     byte   // of what is pending
	pending []byte
	stopped bool

	wmu  sync.Mutex
	tx   flow
	full bool // there is no room for who does not wait
}

// A fakeKind is a kernel.
type fakeKind struct {
	noRekey bool
	noRX    bool
	got     func(*fakeKernel) // may be nil
}

func (k fakeKind) handOver(conn *net.TCPConn, p *plan, _ connOptions) (kernelSocket, Offload, bool) {
	f := &fakeKernel{conn: conn, suite: p.suite, rekey: !k.noRekey,
		rx: flow{keys: cloneKeys(p.rx.keys), seq: p.rx.seq}, tx: flow{keys: cloneKeys(p.tx.keys), seq: p.tx.seq}}
	if k.got != nil {
		k.got(f)
	}
	o := Offload{TX: Direction{Kernel: true}, RX: Direction{Kernel: true}}
	if k.noRX {
		o.RX = Direction{Reason: &InstallError{Op: "TLS_RX", Cipher: p.suite.Cipher, Err: unix.ENOMEM}}
	}
	return f, o, !k.noRekey && p.suite.Version == tls.VersionTLS13
}

func cloneKeys(k trafficKeys) trafficKeys { return trafficKeys{bytes.Clone(k.key), bytes.Clone(k.iv)} }

func (f *fakeKernel) receive(p []byte) (int, byte, bool, error) {
	for len(f.pending) == 0 {
		if f.stopped {
			return 0, 0, false, errStopped
		}
		size := recordHeaderLen
		if len(f.in) >= recordHeaderLen {
			size += int(binary.BigEndian.Uint16(f.in[3:]))
		}
		if len(f.in) < size || len(f.in) == recordHeaderLen {
			buf := make([]byte, size-len(f.in))
			n, err := f.conn.Read(buf)
			f.in = append(f.in, buf[:n]...)
			if err == io.EOF {
				return 0, 0, false, nil
			}
			if err != nil {
				return 0, 0, false, err
			}
			continue
		}
		typ, content, err := f.rx.openAs(f.suite, f.in)
		f.in = nil
		if err != nil {
			return 0, 0, false, &AlertError{Alert: alertBadRecordMAC, Err: &net.OpError{Op: "read", Err: unix.EBADMSG}}
		}
		f.rx.seq++
		if len(content) == 0 && typ != recordApplicationData {
			return 0, typ, true, nil
		}
		f.typ, f.pending = typ, content
		f.stopped = f.rekey && f.suite.Version == tls.VersionTLS13 && typ == recordHandshake && content[0] == messageKeyUpdate
	}
	n := copy(p, f.pending)
	f.pending = f.pending[n:]
	return n, f.typ, len(f.pending) == 0, nil
}

func (f *fakeKernel) seal(typ byte, p []byte) (record []byte, err error) {
	if f.suite.Version == tls.VersionTLS13 {
		record, err = f.tx.keys.seal(f.suite.Cipher, f.tx.seq, typ, p)
	} else {
		record, err = f.tx.keys.seal12(f.suite.Cipher, f.tx.seq, typ, p)
	}
	f.tx.seq++
	return record, err
}

// seal12 is open12's opposite.
func (k trafficKeys) seal12(c Cipher, seq uint64, typ byte, content []byte) ([]byte, error) {
	a, err := c.aead(k.key)
	if err != nil {
		return nil, err
	}
	record := []byte{typ, 3, 3, 0, 0}
	if cipherSpecs[c].saltLen > 0 {
		record = binary.BigEndian.AppendUint64(record, seq)
	}
	record = a.Seal(record, k.nonce12(c, seq), content, additional12(seq, typ, len(content)))
	binary.BigEndian.PutUint16(record[3:], uint16(len(record)-recordHeaderLen))
	return record, nil
}

func (f *fakeKernel) send(p []byte) (done int, err error) {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	for len(p) > 0 {
		part := p[:min(len(p), maxPlaintext)]
		record, err := f.seal(recordApplicationData, part)
		if err != nil {
			return done, err
		}
		if _, err := f.conn.Write(record); err != nil {
			return done, err
		}
		done += len(part)
		p = p[len(part):]
	}
	return done, nil
}

func (f *fakeKernel) sendControl(typ byte, p []byte, wait bool) error {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	if f.full && !wait {
		return errFull
	}
	record, err := f.seal(typ, p)
	if err != nil {
		return err
	}
	_, err = f.conn.Write(record)
	return err
}

func (f *fakeKernel) setTX(keys trafficKeys) error {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	if !f.rekey {
		return fmt.Errorf("%w: %w", ErrRekey, unix.EBUSY)
	}
	f.tx = flow{keys: cloneKeys(keys)}
	return nil
}

func (f *fakeKernel) setRX(keys trafficKeys) error {
	if !f.rekey {
		return fmt.Errorf("%w: %w", ErrRekey, unix.EBUSY)
	}
	f.rx, f.stopped = flow{keys: cloneKeys(keys)}, false
	return nil
}

func (f *fakeKernel) resumeRX() error { f.stopped = false; return nil }

func (f *fakeKernel) sent() (uint64, error) {
	f.wmu.Lock()
	defer f.wmu.Unlock()
	return f.tx.seq, nil
}

func (f *fakeKernel) from(r io.Reader) (int64, error)    { return io.Copy(writerFunc(f.send), r) }
func (f *fakeKernel) flush() error                       { return nil }
func (f *fakeKernel) setWriteDeadline(t time.Time) error { return f.conn.SetWriteDeadline(t) }
func (f *fakeKernel) close() error                       { return f.conn.Close() }
