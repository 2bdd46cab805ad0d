// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"rpctls/rpc"
)

// sample returns n bytes that differ from their neighbours.
func sample(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

func TestRecordVectors(t *testing.T) {
	tests := []struct {
		name     string
		payload  []byte
		fragment int
		wire     string
	}{
		{name: "empty", wire: "80000000"},
		{name: "one fragment", payload: []byte("abcde"), wire: "80000005 6162636465"},
		{name: "two fragments", payload: []byte("abcde"), fragment: 3, wire: "00000003 616263 80000002 6465"},
		{name: "fragments fill", payload: []byte("abcd"), fragment: 2, wire: "00000002 6162 80000002 6364"},
		{name: "fragment as large as the record", payload: []byte("abc"), fragment: 3, wire: "80000003 616263"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := rpc.AppendRecord([]byte{0xee}, tt.payload, tt.fragment)
			if diff := cmp.Diff(wire(t, "ee"+tt.wire), b); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestRecordSizes(t *testing.T) {
	const limit = 37
	readers := map[string]func(io.Reader) io.Reader{
		"whole":    func(r io.Reader) io.Reader { return r },
		"one byte": iotest.OneByteReader,
		"half":     iotest.HalfReader,
	}
	for name, split := range readers {
		for _, size := range []int{0, 1, 2, limit - 1, limit, limit + 1, 2 * limit} {
			for fragment := range limit + 3 {
				t.Run(fmt.Sprintf("%s/%d bytes/fragments of %d", name, size, fragment), func(t *testing.T) {
					payload := sample(size)
					stream := bytes.NewBuffer(append(rpc.AppendRecord(nil, payload, fragment), "next"...))
					got, err := rpc.ReadRecord(split(stream), limit)
					if size > limit {
						wantErr(t, err, rpc.ErrRecordTooLarge)
						wantErr(t, err, rpc.ErrProtocol)
						return
					}
					wantErr(t, err, nil)
					if diff := cmp.Diff(payload, got); diff != "" {
						t.Errorf("(-want +got):\n%s", diff)
					}
					if stream.String() != "next" {
						t.Errorf("left in the stream: %q", stream)
					}
				})
			}
		}
	}
}

// Larger than what the buffer is grown by at once.
func TestRecordLarge(t *testing.T) {
	for _, size := range []int{64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20} {
		payload := sample(size)
		got, err := rpc.ReadRecord(bytes.NewReader(rpc.AppendRecord(nil, payload, 100_000)), size)
		wantErr(t, err, nil)
		if !bytes.Equal(payload, got) {
			t.Errorf("%d bytes came back different", size)
		}
	}
}

func TestRecordTruncated(t *testing.T) {
	whole := rpc.AppendRecord(nil, sample(7), 3)
	for n := range whole {
		want := io.ErrUnexpectedEOF
		if n == 0 {
			want = io.EOF
		}
		if got, err := rpc.ReadRecord(bytes.NewReader(whole[:n]), 100); err != want {
			t.Errorf("%d of %d bytes: got %x, %v, want %v", n, len(whole), got, err, want)
		}
	}
	broken := errors.New("broken")
	_, err := rpc.ReadRecord(io.MultiReader(bytes.NewReader(whole[:5]), iotest.ErrReader(broken)), 100)
	wantErr(t, err, broken)
}

func TestRecordFragmentCount(t *testing.T) {
	empty := make([]byte, 4)
	last := wire(t, "80000000")
	most := append(bytes.Repeat(empty, rpc.MaxFragments-1), last...)
	got, err := rpc.ReadRecord(bytes.NewReader(most), 0)
	wantErr(t, err, nil)
	if len(got) != 0 {
		t.Errorf("got %d bytes", len(got))
	}
	_, err = rpc.ReadRecord(bytes.NewReader(append(empty, most...)), 0)
	wantErr(t, err, rpc.ErrRecordTooLarge)
	_, err = rpc.ReadRecord(bytes.NewReader(rpc.AppendRecord(nil, sample(rpc.MaxFragments+1), 1)), 1<<20)
	wantErr(t, err, rpc.ErrRecordTooLarge)
}

// A header alone must not cost memory.
func TestRecordHeaderIsCheap(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := rpc.ReadRecord(bytes.NewReader(wire(t, "ffffffff 00")), rpc.MaxFragmentSize)
	runtime.ReadMemStats(&after)
	wantErr(t, err, io.ErrUnexpectedEOF)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
		t.Errorf("%d bytes allocated", grown)
	}
}

type countingWriter struct {
	bytes.Buffer
	writes int
}

func (w *countingWriter) Write(b []byte) (int, error) {
	w.writes++
	return w.Buffer.Write(b)
}

func TestWriteRecord(t *testing.T) {
	var w countingWriter
	wantErr(t, rpc.WriteRecord(&w, []byte("abc")), nil)
	if diff := cmp.Diff(wire(t, "80000003 616263"), w.Bytes()); diff != "" || w.writes != 1 {
		t.Errorf("%d writes (-want +got):\n%s", w.writes, diff)
	}
	r, closed := io.Pipe()
	r.Close()
	wantErr(t, rpc.WriteRecord(closed, nil), io.ErrClosedPipe)
}

// What is read is exactly the record, and its fragments written again are the
// same bytes.
func FuzzReadRecord(f *testing.F) {
	f.Add(rpc.AppendRecord(nil, []byte("payload"), 3))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		r := bytes.NewReader(b)
		got, err := rpc.ReadRecord(r, limit)
		if err != nil {
			if !errors.Is(err, rpc.ErrProtocol) && err != io.EOF && err != io.ErrUnexpectedEOF {
				t.Errorf("unknown error: %v", err)
			}
			if (err == io.EOF) != (len(b) == 0) {
				t.Errorf("%d bytes give %v", len(b), err)
			}
			return
		}
		if len(got) > limit {
			t.Fatalf("%d bytes, above the limit", len(got))
		}
		consumed := b[:len(b)-r.Len()]
		var again []byte
		for rest, more := got, true; more; {
			header := consumed[len(again):][:4]
			n := binary.BigEndian.Uint32(header) &^ (1 << 31)
			more = header[0]&0x80 == 0
			fragment := rpc.AppendRecord(nil, rest[:n], 0)
			if more {
				fragment[0] &^= 0x80
			}
			again, rest = append(again, fragment...), rest[n:]
		}
		if diff := cmp.Diff(consumed, again); diff != "" {
			t.Errorf("written again (-want +got):\n%s", diff)
		}
	})
}

func FuzzAppendRecord(f *testing.F) {
	f.Add([]byte("payload"), 3)
	f.Fuzz(func(t *testing.T, payload []byte, fragment int) {
		if fragment > 0 && len(payload)/fragment >= rpc.MaxFragments {
			t.Skip("more fragments than a reader takes")
		}
		got, err := rpc.ReadRecord(bytes.NewReader(rpc.AppendRecord(nil, payload, fragment)), len(payload))
		wantErr(t, err, nil)
		if !bytes.Equal(payload, got) {
			t.Errorf("%x came back as %x", payload, got)
		}
	})
}
