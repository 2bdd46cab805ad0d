// SPDX-License-Identifier: BSD-3-Clause

// Package uring is as much of Linux's io_uring (io_uring(7)) as a TCP client
// needs: connect, send, receive, receive with control messages, cancel. It is
// not a general library; it shows what one has to hold on to.
//
// # Invariants
//
//   - Memory belongs to the kernel from the moment an operation is submitted
//     until its completion has been read. Every method returns only then, also
//     when it was told to give up, and pins what it lends meanwhile: no buffer
//     is moved, freed or used again while the kernel can write to it.
//   - A descriptor is looked up by the kernel while it is submitted, and the
//     file is held from then on. Submission happens inside
//     [syscall.RawConn.Control], which keeps the number from being closed and
//     used again at just that time.
//   - One lock is around the submission queue. An entry is written, the tail
//     published and the kernel called under it, so the queue is empty again
//     when the lock is free, and there is always room.
//   - The completion queue has four places for each operation that may be in
//     flight: one for its completion, one for that of its cancellation, which is
//     asked for once, and one for that of the operation before it. It cannot
//     overflow.
//   - What both sides write, heads and tails, goes through sync/atomic, whose
//     loads and stores are at least the acquire and release that the kernel's
//     side is paired with (tools/include/io_uring in liburing, and
//     io_uring(7), "The submission queue"). Entries are plain memory: they are
//     written before the tail that publishes them, and read after it.
//   - The kernel's numbers (offsets, sizes, masks) are checked against what was
//     mapped before anything follows them.
//
// An operation is cancelled by the kernel when the thread that submitted it
// ends. Go ends a thread only when a goroutine locked to it returns: such a
// goroutine must not use a Ring.
package uring
