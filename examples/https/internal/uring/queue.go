// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package uring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"
)

// queues are the two rings that are shared with the kernel. The positions are
// counters that run over; an index is a position and the mask.
type queues struct {
	sqHead, sqTail *uint32 // the kernel's, ours
	sqMask         uint32
	array          []uint32
	entries        []entry

	cqHead, cqTail *uint32 // ours, the kernel's
	cqMask         uint32
	overflow       *uint32
	completions    []completion
}

var errLayout = errors.New("the kernel describes queues that do not fit into what it gave")

// view finds the queues in mapped memory.
func view(p *params, rings, sqes []byte) (*queues, error) {
	q := &queues{}
	var err error
	word := func(off uint32) *uint32 {
		if off%4 != 0 || uint64(off)+4 > uint64(len(rings)) {
			err = fmt.Errorf("%w: offset %d of %d bytes", errLayout, off, len(rings))
			return new(uint32)
		}
		return (*uint32)(unsafe.Pointer(&rings[off]))
	}
	q.sqHead, q.sqTail = word(p.sq.head), word(p.sq.tail)
	q.cqHead, q.cqTail, q.overflow = word(p.cq.head), word(p.cq.tail), word(p.cq.overflow)
	q.sqMask, q.cqMask = *word(p.sq.mask), *word(p.cq.mask)
	sq, cq := *word(p.sq.entries), *word(p.cq.entries)
	if err != nil {
		return nil, err
	}
	if !powerOf2(sq) || !powerOf2(cq) || q.sqMask != sq-1 || q.cqMask != cq-1 || sq != p.sqEntries || cq != p.cqEntries || cq < 2*sq {
		return nil, fmt.Errorf("%w: %d and %d entries, masks %#x and %#x", errLayout, sq, cq, q.sqMask, q.cqMask)
	}
	if p.sq.array%4 != 0 || p.cq.cqes%8 != 0 ||
		uint64(p.sq.array)+4*uint64(sq) > uint64(len(rings)) ||
		uint64(p.cq.cqes)+completionSize*uint64(cq) > uint64(len(rings)) ||
		entrySize*uint64(sq) > uint64(len(sqes)) {
		return nil, fmt.Errorf("%w: %d and %d entries in %d and %d bytes", errLayout, sq, cq, len(rings), len(sqes))
	}
	q.array = unsafe.Slice((*uint32)(unsafe.Pointer(&rings[p.sq.array])), sq)
	q.completions = unsafe.Slice((*completion)(unsafe.Pointer(&rings[p.cq.cqes])), cq)
	q.entries = unsafe.Slice((*entry)(unsafe.Pointer(&sqes[0])), sq)
	return q, nil
}

func powerOf2(n uint32) bool { return n != 0 && n&(n-1) == 0 }

// size returns how much to map for both rings; the entries are apart.
func (p *params) size() (rings, sqes int, err error) {
	// More than any kernel gives (IORING_MAX_CQ_ENTRIES is twice that).
	const most = 1 << 16
	if p.sqEntries == 0 || p.sqEntries > most || p.cqEntries > 2*most || p.sq.array > 1<<24 || p.cq.cqes > 1<<24 {
		return 0, 0, fmt.Errorf("%w: %d and %d entries", errLayout, p.sqEntries, p.cqEntries)
	}
	rings = max(int(p.sq.array)+4*int(p.sqEntries), int(p.cq.cqes)+completionSize*int(p.cqEntries))
	return rings, entrySize * int(p.sqEntries), nil
}

// push publishes e as the next entry, and reports whether there was room. It
// is called under the ring's lock.
func (q *queues) push(e entry) bool {
	tail := *q.sqTail // only we write it
	if tail-atomic.LoadUint32(q.sqHead) >= uint32(len(q.entries)) {
		return false
	}
	i := tail & q.sqMask
	q.entries[i] = e
	q.array[i] = i
	atomic.StoreUint32(q.sqTail, tail+1)
	return true
}

// retract takes the last entry back if the kernel has not taken it, which it
// does only inside io_uring_enter.
func (q *queues) retract() bool {
	tail := *q.sqTail
	if atomic.LoadUint32(q.sqHead) == tail {
		return false
	}
	atomic.StoreUint32(q.sqTail, tail-1)
	return true
}

// pop takes the next completion; only one goroutine calls it.
func (q *queues) pop() (completion, bool) {
	head := *q.cqHead // only we write it
	if head == atomic.LoadUint32(q.cqTail) {
		return completion{}, false
	}
	c := q.completions[head&q.cqMask]
	atomic.StoreUint32(q.cqHead, head+1)
	return c, true
}
