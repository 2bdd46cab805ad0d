// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package uring

// What follows is include/uapi/linux/io_uring.h.

// Operations.
const (
	opNop         = 0
	opRecvmsg     = 10
	opAsyncCancel = 14
	opConnect     = 16
	opSend        = 26
	opRecv        = 27
)

const enterGetEvents = 1 << 0 // of io_uring_enter

// Places in the ring's descriptor for mmap.
const (
	offRings = 0
	offSQEs  = 0x10000000
)

// Features of the kernel that the ring relies on: both queues in one mapping
// (5.4), completions that are never dropped (5.5), arguments that may be
// forgotten once submitted (5.5), and sockets that are polled instead of
// keeping a thread busy (5.7).
const (
	featSingleMmap   = 1 << 0
	featNoDrop       = 1 << 1
	featSubmitStable = 1 << 2
	featFastPoll     = 1 << 5

	needed = featSingleMmap | featNoDrop | featSubmitStable | featFastPoll
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries uint32
	flags                uint32
	threadCPU            uint32
	threadIdle           uint32
	features             uint32
	wqFD                 uint32
	_                    [3]uint32
	sq                   sqOffsets
	cq                   cqOffsets
}

// sqOffsets is struct io_sqring_offsets.
type sqOffsets struct {
	head, tail, mask, entries, flags, dropped, array uint32
	_                                                uint32
	_                                                uint64
}

// cqOffsets is struct io_cqring_offsets.
type cqOffsets struct {
	head, tail, mask, entries, overflow, cqes, flags uint32
	_                                                uint32
	_                                                uint64
}

// entry is struct io_uring_sqe.
type entry struct {
	op       uint8
	flags    uint8
	priority uint16
	fd       int32
	off      uint64 // or addr2
	addr     uint64
	len      uint32
	opFlags  uint32
	data     uint64
	_        [24]byte
}

// completion is struct io_uring_cqe.
type completion struct {
	data  uint64
	res   int32
	flags uint32
}

const (
	entrySize      = 64
	completionSize = 16
)
