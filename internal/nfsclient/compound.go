// SPDX-License-Identifier: BSD-3-Clause

package nfsclient

import (
	"fmt"

	"rpctls/rpc"
)

// Operations (RFC 8881 section 16.2.3).
const (
	opLookup          = 15
	opPutRootFH       = 24
	opReadDir         = 26
	opExchangeID      = 42
	opCreateSession   = 43
	opDestroySession  = 44
	opSequence        = 53
	opDestroyClientID = 57
)

var opNames = map[uint32]string{
	opLookup: "LOOKUP", opPutRootFH: "PUTROOTFH", opReadDir: "READDIR", opExchangeID: "EXCHANGE_ID",
	opCreateSession: "CREATE_SESSION", opDestroySession: "DESTROY_SESSION", opSequence: "SEQUENCE", opDestroyClientID: "DESTROY_CLIENTID",
}

// Limits on what a server may answer.
const (
	maxTag     = 1024
	maxOwner   = 1024 // RFC 8881: NFS4_OPAQUE_LIMIT
	maxImpl    = 1024
	maxName    = 255
	maxAttrs   = 64 << 10
	maxBitmap  = 8
	maxEntries = 4096
	sessionID  = 16
)

// An op is one operation of a COMPOUND.
type op struct {
	number uint32
	encode func(*rpc.Encoder)       // nil: no arguments
	decode func(*rpc.Decoder) error // of a result that is NFS4_OK; nil: nothing
	path   string                   // for errors
}

// encode returns the arguments of COMPOUND (RFC 8881 section 16.2).
func encode(minor uint32, ops []op) ([]byte, error) {
	e := rpc.NewEncoder(nil)
	e.String("", maxTag)
	e.Uint32(minor)
	e.Uint32(uint32(len(ops)))
	for _, o := range ops {
		e.Uint32(o.number)
		if o.encode != nil {
			o.encode(e)
		}
	}
	return e.Bytes()
}

// decode reads the results of COMPOUND. They end with the first operation that
// did not succeed, whose status is that of the whole.
func decode(b []byte, ops []op) error {
	d := rpc.NewDecoder(b)
	status := Status(d.Uint32())
	d.Opaque(maxTag)
	n := d.Uint32()
	if err := d.Err(); err != nil {
		return fmt.Errorf("compound: %w", err)
	}
	if n > uint32(len(ops)) {
		return fmt.Errorf("compound: %w: %d results to %d operations", rpc.ErrProtocol, n, len(ops))
	}
	for i, o := range ops[:n] {
		number, got := d.Uint32(), Status(d.Uint32())
		if err := d.Err(); err != nil {
			return fmt.Errorf("compound: %w", err)
		}
		if number != o.number {
			return fmt.Errorf("compound: %w: result %d is of operation %d, not %d", rpc.ErrProtocol, i, number, o.number)
		}
		if got != OK {
			// What some statuses carry with them is of no interest.
			if got != status || uint32(i) != n-1 {
				return fmt.Errorf("compound: %w: it goes on after a failure", rpc.ErrProtocol)
			}
			return &StatusError{Op: opNames[o.number], Path: o.path, Status: got}
		}
		if o.decode != nil {
			if err := o.decode(d); err != nil {
				return fmt.Errorf("%s: %w", opNames[o.number], err)
			}
		}
		if err := d.Err(); err != nil {
			return fmt.Errorf("%s: %w", opNames[o.number], err)
		}
	}
	switch {
	case status != OK && n == 0:
		return &StatusError{Op: "COMPOUND", Path: "/", Status: status}
	case status != OK || n != uint32(len(ops)):
		return fmt.Errorf("compound: %w: %v after %d of %d operations", rpc.ErrProtocol, status, n, len(ops))
	}
	if err := d.Finish(); err != nil {
		return fmt.Errorf("compound: %w", err)
	}
	return nil
}

// skipBitmap reads a bitmap4.
func skipBitmap(d *rpc.Decoder) error {
	n := d.Uint32()
	if d.Err() == nil && n > maxBitmap {
		return fmt.Errorf("%w: bitmap of %d words", rpc.ErrProtocol, n)
	}
	for range n {
		d.Uint32()
	}
	return nil
}

// boolean reads a bool of XDR, which is 0 or 1.
func boolean(d *rpc.Decoder) (bool, error) {
	v := d.Uint32()
	if v > 1 {
		return false, fmt.Errorf("%w: boolean is %d", rpc.ErrProtocol, v)
	}
	return v == 1, nil
}
