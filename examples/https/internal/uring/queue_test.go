// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package uring

import (
	"errors"
	"math"
	"net/netip"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestLayout(t *testing.T) {
	if n := unsafe.Sizeof(params{}); n != 120 {
		t.Errorf("params have %d bytes", n)
	}
	if n := unsafe.Sizeof(entry{}); n != entrySize {
		t.Errorf("an entry has %d bytes", n)
	}
	if n := unsafe.Sizeof(completion{}); n != completionSize {
		t.Errorf("a completion has %d bytes", n)
	}
	var e entry
	for name, got := range map[string][2]uintptr{
		"fd": {unsafe.Offsetof(e.fd), 4}, "off": {unsafe.Offsetof(e.off), 8}, "addr": {unsafe.Offsetof(e.addr), 16},
		"len": {unsafe.Offsetof(e.len), 24}, "flags": {unsafe.Offsetof(e.opFlags), 28}, "data": {unsafe.Offsetof(e.data), 32},
	} {
		if got[0] != got[1] {
			t.Errorf("%s is at %d, want %d", name, got[0], got[1])
		}
	}
}

// rings is what a kernel gives for 4 entries.
func rings() (p params, mapped, entries []byte) {
	p.sqEntries, p.cqEntries = 4, 8
	p.sq = sqOffsets{head: 0, tail: 4, mask: 16, entries: 24, flags: 36, dropped: 32, array: 64 + 8*completionSize}
	p.cq = cqOffsets{head: 8, tail: 12, mask: 20, entries: 28, overflow: 44, cqes: 64, flags: 40}
	// Words, because both sides want them aligned.
	words := make([]uint64, (64+8*completionSize+4*4)/8)
	mapped = unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), 8*len(words))
	more := make([]uint64, 4*entrySize/8)
	entries = unsafe.Slice((*byte)(unsafe.Pointer(&more[0])), 8*len(more))
	for off, v := range map[uint32]uint32{16: 3, 24: 4, 20: 7, 28: 8} {
		*(*uint32)(unsafe.Pointer(&mapped[off])) = v
	}
	return p, mapped, entries
}

func TestSize(t *testing.T) {
	p, mapped, entries := rings()
	r, s, err := p.size()
	if err != nil || r != len(mapped) || s != len(entries) {
		t.Errorf("%d and %d bytes, %v; want %d and %d", r, s, err, len(mapped), len(entries))
	}
	for name, spoil := range map[string]func(*params){
		"none": func(p *params) { p.sqEntries = 0 }, "many": func(p *params) { p.sqEntries = 1 << 20 },
		"many completions": func(p *params) { p.cqEntries = 1 << 30 }, "far": func(p *params) { p.cq.cqes = math.MaxUint32 },
	} {
		p := p
		spoil(&p)
		if _, _, err := p.size(); !errors.Is(err, errLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The kernel's side of the rings, whose positions run over.
func TestQueuesRunOver(t *testing.T) {
	p, mapped, entries := rings()
	q, err := view(&p, mapped, entries)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []*uint32{q.sqHead, q.sqTail, q.cqHead, q.cqTail} {
		*at = math.MaxUint32 - 5
	}
	for i := range uint64(100) {
		if !q.push(entry{op: opRecv, data: i}) {
			t.Fatalf("%d: no room", i)
		}
		// The kernel takes it, and completes it.
		head := *q.sqHead
		e := q.entries[q.array[head&q.sqMask]]
		atomic.StoreUint32(q.sqHead, head+1)
		tail := *q.cqTail
		q.completions[tail&q.cqMask] = completion{data: e.data, res: int32(i)}
		atomic.StoreUint32(q.cqTail, tail+1)
		c, ok := q.pop()
		if !ok || c.data != i || c.res != int32(i) {
			t.Fatalf("%d: %+v %t", i, c, ok)
		}
		if _, ok := q.pop(); ok {
			t.Fatalf("%d: one more", i)
		}
	}
}

func TestQueueIsFullAndGivesBack(t *testing.T) {
	p, mapped, entries := rings()
	q, err := view(&p, mapped, entries)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if !q.push(entry{data: uint64(i)}) {
			t.Fatalf("%d: no room", i)
		}
	}
	if q.push(entry{}) {
		t.Error("a fifth entry of four")
	}
	if !q.retract() {
		t.Error("the kernel has taken nothing, and yet it is gone")
	}
	if !q.push(entry{data: 9}) || q.entries[3].data != 9 {
		t.Error("what was taken back is not the next")
	}
	atomic.StoreUint32(q.sqHead, *q.sqTail)
	if q.retract() {
		t.Error("taken back from the kernel")
	}
}

// A kernel that says nonsense is not followed.
func TestViewRefuses(t *testing.T) {
	word := func(mapped []byte, off, v uint32) { *(*uint32)(unsafe.Pointer(&mapped[off])) = v }
	for name, spoil := range map[string]func(p *params, mapped []byte){
		"mask":              func(_ *params, m []byte) { word(m, 16, 7) },
		"completion mask":   func(_ *params, m []byte) { word(m, 20, 15) },
		"no power of two":   func(p *params, m []byte) { p.sqEntries = 3; word(m, 24, 3); word(m, 16, 2) },
		"other entries":     func(p *params, _ []byte) { p.sqEntries = 2 },
		"few completions":   func(p *params, m []byte) { p.cqEntries = 4; word(m, 28, 4); word(m, 20, 3) },
		"head outside":      func(p *params, _ []byte) { p.sq.head = 1 << 20 },
		"tail at the end":   func(p *params, m []byte) { p.cq.tail = uint32(len(m)) - 3 },
		"head not aligned":  func(p *params, _ []byte) { p.cq.head = 2 },
		"array outside":     func(p *params, m []byte) { p.sq.array = uint32(len(m)) - 12 },
		"completions there": func(p *params, _ []byte) { p.cq.cqes = math.MaxUint32 - 7 },
		"entries outside": func(p *params, m []byte) {
			p.sqEntries, p.cqEntries = 8, 16
			word(m, 24, 8)
			word(m, 16, 7)
			word(m, 28, 16)
			word(m, 20, 15)
			p.sq.array, p.cq.cqes = 64, 64
		},
	} {
		p, mapped, entries := rings()
		spoil(&p, mapped)
		if _, err := view(&p, mapped, entries); !errors.Is(err, errLayout) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSockaddr(t *testing.T) {
	for _, tt := range []struct {
		to   string
		want []byte
	}{
		{"192.0.2.1:443", []byte{unix.AF_INET, 0, 1, 187, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"[::ffff:192.0.2.1]:443", []byte{unix.AF_INET, 0, 1, 187, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0}},
		{"[2001:db8::1]:8443", []byte{unix.AF_INET6, 0, 0x20, 0xfb, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0}},
		{"[fe80::1%7]:1", []byte{unix.AF_INET6, 0, 0, 1, 0, 0, 0, 0, 0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7, 0, 0, 0}},
	} {
		got, err := sockaddr(netip.MustParseAddrPort(tt.to))
		if err != nil {
			t.Errorf("%s: %v", tt.to, err)
		}
		// Families and zones are in the machine's order.
		if *(*uint16)(unsafe.Pointer(&[]byte{1, 0}[0])) == 1 {
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("%s: (-want +got):\n%s", tt.to, diff)
			}
		}
	}
	for _, bad := range []netip.AddrPort{{}, netip.MustParseAddrPort("[fe80::1%nosuchinterface]:1")} {
		if _, err := sockaddr(bad); err == nil {
			t.Errorf("%v: no error", bad)
		}
	}
}
