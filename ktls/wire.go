// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// A wire is the connection that crypto/tls sees under a [Conn].
//
// During the handshake a Read never takes a byte beyond the record it is in,
// so that whatever follows the handshake is still in the socket when the
// kernel takes over. And it watches: the hellos, for TLS 1.2's keys, and how
// many records have passed under the keys that the kernel will have.
//
// Afterwards it is transparent, where crypto/tls carries the session; or it
// hands crypto/tls what the kernel has received for it (see feed), and gives
// what crypto/tls sends to translate.
//
// crypto/tls reads and writes with one goroutine each; the handshake is made
// by one.
type wire struct {
	net.Conn
	client bool

	// Reading.
	watch  bool // until the handshake is over
	header [recordHeaderLen]byte
	got    int // bytes of header read
	body   int // bytes of the record's body not yet read
	eof    atomic.Bool
	// dry makes Read end with errDry where it would ask the socket: what
	// crypto/tls has already can be had without waiting.
	dry bool
	fed []byte // records that Read returns first

	helloIn, helloOut helloTap
	in, out           passed
	countTX           func(record []byte) // of TLS 1.3, see sentCounter
	odd               error               // why the counts cannot be trusted
	oddNonce          bool                // an explicit nonce was not the record's number

	// translate, if not nil, takes what crypto/tls would send.
	translate func(p []byte) error
}

// passed counts one direction's records behind its ChangeCipherSpec: those
// under TLS 1.2's keys.
type passed struct {
	changed bool
	count   uint64
}

func newWire(c net.Conn, client, watch bool) *wire {
	return &wire{Conn: c, client: client, watch: watch}
}

// errDry is the error of a Read that would have to wait. crypto/tls does not
// keep an error that says it is temporary.
var errDry net.Error = dryError{}

type dryError struct{}

func (dryError) Error() string   { return "nothing left to read" }
func (dryError) Timeout() bool   { return false }
func (dryError) Temporary() bool { return true }

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if len(w.fed) > 0 {
		n := copy(p, w.fed)
		w.fed = w.fed[n:]
		return n, nil
	}
	if w.dry {
		return 0, errDry
	}
	if !w.watch {
		n, err := w.Conn.Read(p)
		w.ended(n, err)
		return n, err
	}
	limit := w.body
	if limit == 0 {
		limit = recordHeaderLen - w.got
	}
	if limit > maxCiphertext {
		return 0, errRecordTooLong
	}
	n, err := w.Conn.Read(p[:min(len(p), limit)])
	w.ended(n, err)
	w.read(p[:n])
	return n, err
}

// ended notes the end, but not one that comes along with bytes: they may hold the
// close_notify, behind which nobody reads on; who needs more asks once more.
func (w *wire) ended(n int, err error) {
	if n == 0 && err == io.EOF {
		w.eof.Store(true)
	}
}

// read follows what has been read through the records that it belongs to.
func (w *wire) read(p []byte) {
	if len(p) == 0 {
		return
	}
	if w.body > 0 {
		if w.header[0] == recordHandshake && !w.in.changed {
			w.helloIn.add(p)
		}
		w.body -= len(p)
	} else {
		w.got += copy(w.header[w.got:], p)
		if w.got < recordHeaderLen {
			return
		}
		w.body = int(binary.BigEndian.Uint16(w.header[3:]))
	}
	if w.body == 0 {
		w.got = 0
		w.in.record(w.header[0])
	}
}

func (d *passed) record(typ byte) {
	if d.changed {
		d.count++
	}
	if typ == recordChangeCipherSpec {
		// TLS 1.3 has it without a meaning; its counts are not used.
		d.changed = true
	}
}

// atBoundary reports whether every record that was begun has been read whole.
func (w *wire) atBoundary() bool { return w.got == 0 && w.body == 0 && len(w.fed) == 0 }

var errOddWrite = errors.New("crypto/tls wrote something other than whole records")

// Write implements net.Conn.
func (w *wire) Write(p []byte) (int, error) {
	if w.translate != nil {
		if err := w.translate(p); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	if w.watch {
		w.wrote(p)
	}
	return w.Conn.Write(p)
}

// wrote counts the records in p.
func (w *wire) wrote(p []byte) {
	for len(p) > 0 {
		record := firstRecord(p)
		if record == nil {
			w.odd = errOddWrite
			return
		}
		p = p[len(record):]
		if w.out.changed && len(record) >= recordHeaderLen+explicitNonceLen {
			// AES-GCM of TLS 1.2: the kernel goes on with the number as nonce,
			// which repeats none only if crypto/tls did the same.
			w.oddNonce = w.oddNonce || binary.BigEndian.Uint64(record[recordHeaderLen:]) != w.out.count
		}
		if record[0] == recordHandshake && !w.out.changed {
			w.helloOut.add(record[recordHeaderLen:])
		}
		w.out.record(record[0])
		if w.countTX != nil {
			w.countTX(record)
		}
	}
}

// firstRecord returns the whole record that p begins with, or nil.
func firstRecord(p []byte) []byte {
	if len(p) < recordHeaderLen {
		return nil
	}
	n := recordHeaderLen + int(binary.BigEndian.Uint16(p[3:]))
	if n > len(p) {
		return nil
	}
	return p[:n]
}

// hellos returns both sides' hellos.
func (w *wire) hellos() (client, server hello, err error) {
	c, s := w.helloIn, w.helloOut
	if w.client {
		c, s = s, c
	}
	if client, err = parseHello(messageClientHello, c); err != nil {
		return
	}
	server, err = parseHello(messageServerHello, s)
	return
}

// feed lets read take crypto/tls through one record that the socket did not
// give it, and returns read's error; errDry when it went well. What crypto/tls
// would send meanwhile is thrown away.
func (w *wire) feed(record []byte, read func() error) error {
	translate := w.translate
	w.fed, w.dry, w.translate = record, true, func([]byte) error { return nil }
	err := read()
	w.fed, w.dry, w.translate = nil, false, translate
	return err
}
