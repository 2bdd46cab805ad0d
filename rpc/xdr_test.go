// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"bytes"
	"errors"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/rpc"
)

// items is a value of every kind of item.
type items struct {
	U32    uint32
	U64    uint64
	Fixed  []byte
	Opaque []byte
	String string
}

func decodeItems(b []byte) (items, error) {
	d := rpc.NewDecoder(b)
	v := items{d.Uint32(), d.Uint64(), d.FixedOpaque(5), d.Opaque(8), d.String(6)}
	return v, d.Finish()
}

func (v items) encode() ([]byte, error) {
	e := rpc.NewEncoder(nil)
	e.Uint32(v.U32)
	e.Uint64(v.U64)
	e.FixedOpaque(v.Fixed)
	e.Opaque(v.Opaque, 8)
	e.String(v.String, 6)
	return e.Bytes()
}

const itemsWire = `
	01020304
	0102030405060708
	68656c6c 6f000000
	00000003 61626300
	00000004 6e616d65`

func TestXDR(t *testing.T) {
	want := items{0x01020304, 0x0102030405060708, []byte("hello"), []byte("abc"), "name"}
	got, err := decodeItems(wire(t, itemsWire))
	wantErr(t, err, nil)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	b, err := want.encode()
	wantErr(t, err, nil)
	if diff := cmp.Diff(wire(t, itemsWire), b); diff != "" {
		t.Errorf("encoded (-want +got):\n%s", diff)
	}
}

func TestXDRTruncated(t *testing.T) {
	whole := wire(t, itemsWire)
	for n := range whole {
		if v, err := decodeItems(whole[:n]); !errors.Is(err, rpc.ErrProtocol) {
			t.Errorf("%d bytes: got %v, %v", n, v, err)
		}
	}
}

func TestXDROpaque(t *testing.T) {
	tests := []struct {
		name  string
		limit int
		wire  string
		want  []byte
		bad   bool
	}{
		{name: "empty", limit: 0, wire: "00000000"},
		{name: "one byte", limit: 5, wire: "00000001 aa000000", want: []byte{0xaa}},
		{name: "no padding", limit: 5, wire: "00000004 aabbccdd", want: []byte{0xaa, 0xbb, 0xcc, 0xdd}},
		{name: "at the limit", limit: 5, wire: "00000005 aabbccdd ee000000", want: []byte{0xaa, 0xbb, 0xcc, 0xdd, 0xee}},
		{name: "above the limit", limit: 4, wire: "00000005 aabbccdd ee000000", bad: true},
		{name: "length missing", limit: 5, wire: "000000", bad: true},
		{name: "data missing", limit: 5, wire: "00000005 aabbccdd", bad: true},
		{name: "padding missing", limit: 5, wire: "00000005 aabbccdd ee0000", bad: true},
		{name: "first padding byte", limit: 5, wire: "00000005 aabbccdd ee010000", bad: true},
		{name: "last padding byte", limit: 5, wire: "00000005 aabbccdd ee000001", bad: true},
		{name: "trailing item", limit: 5, wire: "00000000 00000000", bad: true},
		{name: "trailing byte", limit: 5, wire: "00000000 00", bad: true},
		{name: "length of 2 GiB", limit: math.MaxInt, wire: "80000000 00000000", bad: true},
		{name: "largest length", limit: math.MaxInt, wire: "ffffffff 00000000", bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := rpc.NewDecoder(wire(t, tt.wire))
			got := d.Opaque(tt.limit)
			err := d.Finish()
			if tt.bad {
				wantErr(t, err, rpc.ErrProtocol)
				return
			}
			wantErr(t, err, nil)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			e := rpc.NewEncoder(nil)
			e.Opaque(got, tt.limit)
			b, err := e.Bytes()
			wantErr(t, err, nil)
			if diff := cmp.Diff(wire(t, tt.wire), b); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
		})
	}
}

func TestXDRErrorSticks(t *testing.T) {
	d := rpc.NewDecoder(wire(t, "00000009 00000001 00000002"))
	d.Opaque(8)
	first := d.Err()
	wantErr(t, first, rpc.ErrProtocol)
	if v := d.Uint32(); v != 0 {
		t.Errorf("Uint32 after an error: %d", v)
	}
	if v := d.Rest(); v != nil {
		t.Errorf("Rest after an error: %x", v)
	}
	if err := d.Finish(); err != first {
		t.Errorf("Finish: %v, want %v", err, first)
	}
}

func TestXDRRest(t *testing.T) {
	d := rpc.NewDecoder(wire(t, "00000001 0000000200000003"))
	d.Uint32()
	if got, want := d.Rest(), wire(t, "0000000200000003"); !bytes.Equal(got, want) {
		t.Errorf("Rest: %x, want %x", got, want)
	}
	wantErr(t, d.Finish(), nil)

	d = rpc.NewDecoder([]byte{1, 2, 3})
	d.Rest()
	wantErr(t, d.Finish(), rpc.ErrProtocol)
}

// Opaque data is part of the input; appending to it must not change what
// follows.
func TestXDRAppendToOpaque(t *testing.T) {
	b := wire(t, "00000004 aabbccdd 00000007")
	d := rpc.NewDecoder(b)
	_ = append(d.Opaque(4), 0xff)
	if v := d.Uint32(); v != 7 {
		t.Errorf("item behind is %#x, want 7", v)
	}
}

func TestXDREncoderBounds(t *testing.T) {
	e := rpc.NewEncoder([]byte{9})
	e.String("toolong", 6)
	e.Uint32(1)
	if b, err := e.Bytes(); err == nil || errors.Is(err, rpc.ErrProtocol) {
		t.Errorf("got %x, %v", b, err)
	}
}

func FuzzXDR(f *testing.F) {
	f.Add(wire(f, itemsWire))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := decodeItems(b)
		if err != nil {
			wantErr(t, err, rpc.ErrProtocol)
			return
		}
		again, err := v.encode()
		wantErr(t, err, nil)
		if diff := cmp.Diff(b, again); diff != "" {
			t.Errorf("re-encoded (-want +got):\n%s", diff)
		}
	})
}
