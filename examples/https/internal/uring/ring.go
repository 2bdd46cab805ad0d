// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package uring

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnavailable is why there is no ring: the kernel has none, is too old, or
// does not let this process have one.
var ErrUnavailable = errors.New("io_uring is not available")

// ErrAborted is what an operation ends with that was told to give up.
var ErrAborted = errors.New("operation given up")

// A Ring is one instance of io_uring. Its methods may be called from many
// goroutines.
type Ring struct {
	fd          int
	rings, sqes []byte
	places      chan struct{} // one in it for each operation in flight

	mu      sync.Mutex // around q's submission side and what follows
	q       *queues
	flying  map[uint64]*operation
	last    uint64
	closing bool

	done      chan struct{} // closed when nothing is reaped any more
	completed atomic.Uint64
}

// An operation is one that the kernel has.
type operation struct {
	data      uint64
	cancelled bool // that has been asked for; under the ring's lock
	res       int32
	done      chan struct{} // closed when res is there and the memory is ours
}

// User data that no operation has.
const (
	stop  = 0          // the entry that ends the reaper
	noted = ^uint64(0) // entries whose completion nobody waits for
)

// New returns a ring on which so many operations may be in flight, 1 to 4096.
// The error is an [ErrUnavailable] where io_uring cannot be had.
func New(operations int) (*Ring, error) {
	if operations < 1 || operations > 4096 {
		return nil, fmt.Errorf("uring: %d operations: want 1 to 4096", operations)
	}
	var p params
	fd, _, e := unix.Syscall(unix.SYS_IO_URING_SETUP, uintptr(2*operations), uintptr(unsafe.Pointer(&p)), 0)
	if e != 0 {
		return nil, fmt.Errorf("%w: %s", ErrUnavailable, why(e))
	}
	if p.features&needed != needed {
		unix.Close(int(fd))
		return nil, fmt.Errorf("%w: the kernel is too old for it (features %#x)", ErrUnavailable, p.features)
	}
	r := &Ring{fd: int(fd), flying: make(map[uint64]*operation), done: make(chan struct{})}
	if err := r.mmap(&p); err != nil {
		r.unmap()
		return nil, fmt.Errorf("uring: %w", err)
	}
	r.places = make(chan struct{}, operations)
	go r.reap()
	return r, nil
}

// why says what the errno of io_uring_setup(2) means.
func why(e syscall.Errno) string {
	switch e {
	case unix.ENOSYS:
		return "the kernel is built without it, or a filter of system calls hides it"
	case unix.EPERM:
		text, err := os.ReadFile("/proc/sys/kernel/io_uring_disabled")
		if v := strings.TrimSpace(string(text)); err == nil && v != "0" {
			return "sysctl kernel.io_uring_disabled is " + v
		}
		return "a filter of system calls forbids it"
	case unix.ENOMEM:
		return "there is no memory for it (before Linux 5.12: RLIMIT_MEMLOCK)"
	}
	return e.Error()
}

func (r *Ring) mmap(p *params) (err error) {
	rings, sqes, err := p.size()
	if err != nil {
		return err
	}
	const prot, flags = unix.PROT_READ | unix.PROT_WRITE, unix.MAP_SHARED | unix.MAP_POPULATE
	if r.rings, err = unix.Mmap(r.fd, offRings, rings, prot, flags); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	if r.sqes, err = unix.Mmap(r.fd, offSQEs, sqes, prot, flags); err != nil {
		return os.NewSyscallError("mmap", err)
	}
	r.q, err = view(p, r.rings, r.sqes)
	return err
}

func (r *Ring) unmap() {
	for _, m := range [][]byte{r.rings, r.sqes} {
		if m != nil {
			_ = unix.Munmap(m)
		}
	}
	unix.Close(r.fd)
}

// Close gives up what is in flight, waits until the kernel has let go of it and
// frees the ring. What is begun afterwards fails with [net.ErrClosed].
func (r *Ring) Close() error {
	r.mu.Lock()
	if r.closing {
		r.mu.Unlock()
		return net.ErrClosed
	}
	r.closing = true
	var err error
	for _, o := range r.flying {
		err = errors.Join(err, r.cancel(o))
	}
	r.mu.Unlock()
	for range cap(r.places) { // all have come back when all places are ours
		r.places <- struct{}{}
	}
	r.mu.Lock()
	serr := r.submit(entry{op: opNop, fd: -1, data: stop})
	r.mu.Unlock()
	if serr != nil {
		// The reaper goes on, and needs the memory.
		for range cap(r.places) {
			<-r.places
		}
		return fmt.Errorf("uring: close: %w", errors.Join(err, serr))
	}
	<-r.done
	r.unmap()
	return err
}

// Completed returns how many operations have come to an end.
func (r *Ring) Completed() uint64 { return r.completed.Load() }

// submit hands one entry to the kernel, under the lock. On an error the kernel
// has nothing.
func (r *Ring) submit(e entry) error {
	if !r.q.push(e) {
		return errors.New("submission queue is full") // see the invariants: a bug
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 1, 0, 0, 0, 0)
		switch {
		case errno == 0 && n == 1:
			return nil
		case errno == unix.EINTR:
			continue
		case !r.q.retract():
			return nil // it has it all the same
		case errno == 0:
			return errors.New("the kernel took nothing")
		}
		return os.NewSyscallError("io_uring_enter", errno)
	}
}

// reap reads completions until stop comes.
func (r *Ring) reap() {
	defer close(r.done)
	for {
		_, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(r.fd), 0, 1, enterGetEvents, 0, 0)
		switch errno {
		case 0, unix.EINTR, unix.EAGAIN, unix.EBUSY:
		default:
			// Others wait for memory that the kernel has: none of them can
			// be told anything true.
			panic(fmt.Sprintf("uring: io_uring_enter: %v", errno))
		}
		for {
			c, ok := r.q.pop()
			if !ok {
				break
			}
			if c.data == stop {
				return
			}
			if c.data == noted {
				continue
			}
			r.mu.Lock()
			o := r.flying[c.data]
			delete(r.flying, c.data)
			r.mu.Unlock()
			if o != nil {
				r.completed.Add(1)
				o.res = c.res
				close(o.done)
			}
		}
	}
}

// do runs one operation on the descriptor of c to its end. An abort that is
// closed gives it up; nil never does. What e points to is pinned in memory.
func (r *Ring) do(c syscall.RawConn, e entry, memory *runtime.Pinner, abort <-chan struct{}) (int, error) {
	defer memory.Unpin()
	select {
	case <-abort: // before it begins, whatever else is ready
		return 0, ErrAborted
	default:
	}
	select {
	case r.places <- struct{}{}:
	case <-abort:
		return 0, ErrAborted
	case <-r.done:
		return 0, net.ErrClosed
	}
	defer func() { <-r.places }()
	o := &operation{done: make(chan struct{})}
	var err error
	cerr := c.Control(func(fd uintptr) { err = r.begin(o, e, int32(fd)) })
	if err = errors.Join(cerr, err); err != nil {
		return 0, err
	}
	aborted := false
	select {
	case <-o.done:
	case <-abort:
		aborted = true
		r.mu.Lock()
		// Should the kernel have no room for it, the operation ends by itself.
		_ = r.cancel(o)
		r.mu.Unlock()
		<-o.done
	}
	switch {
	case o.res >= 0:
		return int(o.res), nil // also when it was just in time
	case unix.Errno(-o.res) != unix.ECANCELED:
		return 0, unix.Errno(-o.res)
	case aborted:
		return 0, ErrAborted
	}
	return 0, net.ErrClosed
}

// begin submits e as o.
func (r *Ring) begin(o *operation, e entry, fd int32) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return net.ErrClosed
	}
	r.last++ // not stop, and not noted in anybody's lifetime
	o.data = r.last
	e.fd, e.data = fd, o.data
	r.flying[o.data] = o
	if err := r.submit(e); err != nil {
		delete(r.flying, o.data)
		return err
	}
	return nil
}

// cancel asks, once and under the lock, for the end of an operation, which may
// or may not heed it.
func (r *Ring) cancel(o *operation) error {
	if o.cancelled || r.flying[o.data] != o {
		return nil
	}
	o.cancelled = true
	return r.submit(entry{op: opAsyncCancel, fd: -1, addr: o.data, data: noted})
}
