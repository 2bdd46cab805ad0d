// SPDX-License-Identifier: BSD-3-Clause

package rpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

const (
	headerSize   = 4
	lastFragment = 1 << 31 // bit of the header: no fragment follows in this record

	// MaxFragmentSize is the largest fragment that a header can announce
	// (RFC 5531 section 11), in bytes.
	MaxFragmentSize = lastFragment - 1

	// MaxFragments bounds the fragments of one record, empty ones included,
	// so that a peer cannot keep a reader busy with headers alone.
	MaxFragments = 1024

	// growStep is how much memory a header is worth before its bytes have
	// arrived; after that, a buffer at most doubles.
	growStep = 64 << 10
)

// ErrRecordTooLarge says that a record exceeds the size that the reader allows
// or MaxFragments. It matches ErrProtocol.
var ErrRecordTooLarge = fmt.Errorf("%w: record too large", ErrProtocol)

// ReadRecord reads one record of at most limit bytes (headers not counted) and
// joins its fragments (RFC 5531 section 11). The result is the caller's.
//
// Not a byte behind the record is read, so r may be handed to another
// protocol, TLS for one, right after it.
//
// A stream that ends before the first byte gives io.EOF, one that ends later
// io.ErrUnexpectedEOF. After any error the position in the stream is unknown,
// and the stream is of no use any more.
func ReadRecord(r io.Reader, limit int) ([]byte, error) {
	record := []byte{}
	header := make([]byte, headerSize)
	for i := range MaxFragments {
		if _, err := io.ReadFull(r, header); err != nil {
			if i > 0 {
				err = noEOF(err)
			}
			return nil, err
		}
		h := binary.BigEndian.Uint32(header)
		n := int(h &^ lastFragment)
		if n > limit-len(record) {
			return nil, fmt.Errorf("%w: %d bytes, %d allowed", ErrRecordTooLarge, uint64(len(record))+uint64(n), limit)
		}
		for n > 0 {
			have, step := len(record), min(n, max(len(record), growStep))
			record = slices.Grow(record, step)[:have+step]
			if _, err := io.ReadFull(r, record[have:]); err != nil {
				return nil, noEOF(err)
			}
			n -= step
		}
		if h&lastFragment != 0 {
			return record, nil
		}
	}
	return nil, fmt.Errorf("%w: more than %d fragments", ErrRecordTooLarge, MaxFragments)
}

// noEOF turns an end between items into an end within a record.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// WriteRecord writes payload as one record of one fragment, in one Write: TCP
// then need not hold back a header, and TLS makes one record of it when it is
// small enough. A payload larger than MaxFragmentSize is split.
func WriteRecord(w io.Writer, payload []byte) error {
	_, err := w.Write(AppendRecord(make([]byte, 0, headerSize+len(payload)), payload, 0))
	return err
}

// AppendRecord appends payload to b as one record and returns the longer
// slice. The record is split into fragments of the given size in bytes, or
// into as few as possible when that is 0; a reader may refuse more than
// MaxFragments.
func AppendRecord(b, payload []byte, fragment int) []byte {
	if fragment <= 0 || fragment > MaxFragmentSize {
		fragment = MaxFragmentSize
	}
	for len(payload) > fragment {
		b = binary.BigEndian.AppendUint32(b, uint32(fragment))
		b = append(b, payload[:fragment]...)
		payload = payload[fragment:]
	}
	b = binary.BigEndian.AppendUint32(b, lastFragment|uint32(len(payload)))
	return append(b, payload...)
}

// sealRecord makes a record of b in place: its first headerSize bytes, which
// were left free, become the header.
func sealRecord(b []byte) error {
	n := len(b) - headerSize
	if n > MaxFragmentSize {
		return fmt.Errorf("message of %d bytes exceeds %d", n, MaxFragmentSize)
	}
	binary.BigEndian.PutUint32(b, lastFragment|uint32(n))
	return nil
}
