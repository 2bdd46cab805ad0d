// SPDX-License-Identifier: BSD-3-Clause

package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrProtocol is matched by every error that says that what the peer sent
// breaks RFC 4506, RFC 5531 or RFC 9289.
var ErrProtocol = errors.New("protocol violation")

// unit is the size in bytes of which every XDR item is a multiple (RFC 4506
// section 3).
const unit = 4

// padding returns how many zero bytes follow n bytes of opaque data.
func padding(n int) int { return -n & (unit - 1) }

// A Decoder takes XDR items (RFC 4506) from the front of a byte slice.
//
// The first error sticks: from then on every method returns a zero value and
// Err and Finish return that error, so a whole structure can be decoded before
// it is looked at. All errors match ErrProtocol.
type Decoder struct {
	rest []byte
	err  error
}

// NewDecoder returns a Decoder of b, of which decoded opaque data is a part:
// b must not change while that data is in use.
func NewDecoder(b []byte) *Decoder { return &Decoder{rest: b} }

// fail records an error, unless one is recorded already.
func (d *Decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	}
}

// take returns the next n bytes, or nil when there are fewer. The capacity
// ends with them, so that an append cannot reach what follows.
func (d *Decoder) take(n int) []byte {
	if d.err == nil && n > len(d.rest) {
		d.fail("%d bytes missing", n-len(d.rest))
	}
	if d.err != nil || n == 0 {
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

// Uint32 decodes an unsigned integer (section 4.2).
func (d *Decoder) Uint32() uint32 {
	if b := d.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 decodes an unsigned hyper integer (section 4.5).
func (d *Decoder) Uint64() uint64 {
	if b := d.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// FixedOpaque decodes fixed-length opaque data of n bytes (section 4.9); its
// padding must be zero. The result is nil for n = 0.
func (d *Decoder) FixedOpaque(n int) []byte {
	b := d.take(n)
	for _, p := range d.take(padding(len(b))) {
		if p != 0 {
			d.fail("padding is not zero")
		}
	}
	if d.err != nil {
		return nil
	}
	return b
}

// Opaque decodes variable-length opaque data of at most limit bytes (section
// 4.10). The result is nil for length 0.
func (d *Decoder) Opaque(limit int) []byte {
	n := d.Uint32()
	// Compared in 64 bits: a length of 2 GiB or more is not negative, and
	// what passes fits an int because it is within the slice.
	switch {
	case uint64(n) > uint64(limit):
		d.fail("length %d exceeds %d", n, limit)
	case uint64(n) > uint64(len(d.rest)):
		d.fail("%d bytes missing", uint64(n)-uint64(len(d.rest)))
	default:
		return d.FixedOpaque(int(n))
	}
	return nil
}

// String decodes a string of at most limit bytes (section 4.11). What the
// bytes are is not looked at: names on NFS servers need not be ASCII.
func (d *Decoder) String(limit int) string { return string(d.Opaque(limit)) }

// Rest takes everything that is left, which must be whole XDR items. The
// result is nil when nothing is left.
func (d *Decoder) Rest() []byte {
	if len(d.rest)%unit != 0 {
		d.fail("%d bytes are no multiple of %d", len(d.rest), unit)
	}
	return d.take(len(d.rest))
}

// Err returns the first error so far.
func (d *Decoder) Err() error { return d.err }

// Finish returns the first error; bytes that are left are one.
func (d *Decoder) Finish() error {
	if len(d.rest) != 0 {
		d.fail("%d bytes behind the end", len(d.rest))
	}
	return d.err
}

// enum decodes an enum whose values are 0 to last.
func (d *Decoder) enum(what string, last uint32) uint32 {
	v := d.Uint32()
	if v > last {
		d.fail("unknown %s %d", what, v)
		return 0
	}
	return v
}

// An Encoder appends XDR items (RFC 4506) to a byte slice. The first error
// sticks and is returned by Bytes; it is the caller's mistake and matches
// nothing.
type Encoder struct {
	b   []byte
	err error
}

// NewEncoder returns an Encoder that appends to b, which may be nil.
func NewEncoder(b []byte) *Encoder { return &Encoder{b: b} }

// Uint32 encodes an unsigned integer (section 4.2).
func (e *Encoder) Uint32(v uint32) { e.b = binary.BigEndian.AppendUint32(e.b, v) }

// Uint64 encodes an unsigned hyper integer (section 4.5).
func (e *Encoder) Uint64(v uint64) { e.b = binary.BigEndian.AppendUint64(e.b, v) }

// FixedOpaque encodes fixed-length opaque data with its padding (section 4.9).
func (e *Encoder) FixedOpaque(p []byte) {
	e.b = append(e.b, p...)
	var zeros [unit - 1]byte
	e.b = append(e.b, zeros[:padding(len(p))]...)
}

// Opaque encodes variable-length opaque data of at most limit bytes (section
// 4.10).
func (e *Encoder) Opaque(p []byte, limit int) {
	if len(p) > limit {
		e.fail(fmt.Errorf("length %d exceeds %d", len(p), limit))
		return
	}
	e.Uint32(uint32(len(p)))
	e.FixedOpaque(p)
}

// String encodes a string of at most limit bytes (section 4.11).
func (e *Encoder) String(s string, limit int) { e.Opaque([]byte(s), limit) }

// Bytes returns the slice given to NewEncoder with all items appended, or the
// first error.
func (e *Encoder) Bytes() ([]byte, error) {
	if e.err != nil {
		return nil, e.err
	}
	return e.b, nil
}

func (e *Encoder) fail(err error) {
	if e.err == nil {
		e.err = err
	}
}

// items appends data that is XDR already.
func (e *Encoder) items(p []byte) {
	if len(p)%unit != 0 {
		e.fail(fmt.Errorf("%d bytes are no multiple of %d", len(p), unit))
		return
	}
	e.b = append(e.b, p...)
}

// enum encodes an enum whose values are 0 to last.
func (e *Encoder) enum(what string, v, last uint32) {
	if v > last {
		e.fail(fmt.Errorf("unknown %s %d", what, v))
	}
	e.Uint32(v)
}
