// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// streamPair is a pair of connected stream sockets that holds 64 KiB without
// a reader.
func streamPair(t testing.TB) (ours, peer *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		nc, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		c[i] = nc.(*net.UnixConn)
	}
	t.Cleanup(func() { c[0].Close(); c[1].Close() })
	return c[0], c[1]
}

// FuzzRecordConn feeds any bytes through reads of any size: what is returned
// is what was sent, in order, and no read crosses the end of a record.
func FuzzRecordConn(f *testing.F) {
	record := func(n int) []byte { return append([]byte{22, 3, 3, byte(n >> 8), byte(n)}, make([]byte, n)...) }
	f.Add(append(record(3), record(0)...), uint16(512))
	f.Add(append(record(600), record(1)...), uint16(1))
	f.Add([]byte{22, 3, 3, 0xff, 0xff, 1, 2, 3}, uint16(700))
	f.Add([]byte{22, 3}, uint16(5))
	f.Fuzz(func(t *testing.T, stream []byte, size uint16) {
		if len(stream) > 32<<10 || size == 0 {
			t.Skip()
		}
		ours, peer := streamPair(t)
		if _, err := peer.Write(stream); err != nil {
			t.Fatal(err)
		}
		peer.Close()
		c, err := newRecordConn(ours, Options{Deadline: time.Now().Add(10 * time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		end := 0 // of the record that the next byte is in
		buf := make([]byte, size)
		for {
			n, err := c.Read(buf)
			if err != nil {
				break
			}
			got = append(got, buf[:n]...)
			for end < len(got)-n+1 {
				// The record's header says where it ends, once it is there.
				if len(stream) < end+recordHeaderLen {
					end = len(stream) + recordHeaderLen
					break
				}
				end += recordHeaderLen + int(binary.BigEndian.Uint16(stream[end+3:]))
			}
			if len(got) > end {
				t.Fatalf("a read ended at %d, beyond the record's end at %d", len(got), end)
			}
			if c.atBoundary() != (len(got) == end) {
				t.Fatalf("at %d of a record that ends at %d: atBoundary is %v", len(got), end, c.atBoundary())
			}
		}
		if !bytes.HasPrefix(stream, got) {
			t.Fatal("bytes were changed")
		}
	})
}

func TestRecordConnStopsBeforeAnImpossibleRecord(t *testing.T) {
	ours, peer := streamPair(t)
	peer.Write([]byte{22, 3, 3, 0xff, 0xff, 1})
	c, err := newRecordConn(ours, Options{Deadline: time.Now().Add(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := c.Read(b); n != recordHeaderLen || err != nil {
		t.Fatalf("header: %d, %v", n, err)
	}
	if _, err := c.Read(b); err != errRecordTooLong {
		t.Errorf("body: %v", err)
	}
}
