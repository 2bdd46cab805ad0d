// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// A Config is what a [Listener] needs to know.
type Config struct {
	// Limit is the most requests that may be accepted and not ended. At the
	// limit nothing is accepted: further requests wait in the kernel, which
	// loses none until its own queue is full. It must be positive, and
	// descriptors for that many must be free.
	Limit int

	// Report is told, from one goroutine, what no request can carry: a
	// *[RefusedError], a *[LostError] or another error that the listener
	// survived. It may be slow: the listener does not wait for it, and drops
	// reports rather than requests. Nil discards.
	Report func(error)
}

// A RefusedError reports a request that was ended at once because nobody
// could serve it.
type RefusedError struct {
	Attributes Attributes
	Status     unix.Errno
	Why        string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused a %v request (%v): %s", e.Attributes.Role, e.Status, e.Why)
}

// A LostError reports that the kernel dropped a request while handing it
// over: its consumer has been told EIO (net/handshake/netlink.c).
type LostError struct{ Err error }

func (e *LostError) Error() string { return fmt.Sprintf("lost a request: %v", e.Err) }

// Unwrap returns the kernel's reason.
func (e *LostError) Unwrap() error { return e.Err }

// ErrOverflow is reported when notifications did not fit into the receive
// buffer. The kernel ends those requests itself (ESRCH); any that are queued
// are asked for.
var ErrOverflow = errors.New("notifications of the kernel were lost: receive buffer overflow")

// ErrNoDescriptors is reported, once each time, when nothing is accepted
// because this process, or the system, has no descriptor left. Requests wait in
// the kernel meanwhile.
var ErrNoDescriptors = errors.New("no descriptor for another request")

// Stats count what happened to requests since the listener was made. Accepted
// plus Adopted is Ended plus HandedOver plus those in progress.
type Stats struct {
	Accepted   uint64 // taken from the kernel
	Adopted    uint64 // taken over from a sibling
	Ended      uint64 // DONE sent, as far as the kernel took it
	HandedOver uint64 // given to a sibling
	Refused    uint64 // of those ended, at once, as nobody serves them
	Lost       uint64 // dropped by the kernel during ACCEPT
	Overflows  uint64 // times notifications were lost (ENOBUFS)
	Unreported uint64 // reports dropped because Config.Report was slow
	// Announced counts the kernel's notifications. What is not accepted of
	// them was taken by another member of the group, or its consumer gave up.
	// What the kernel refuses because its queue is full (EAGAIN for the
	// consumer, net/handshake/request.c) is announced to nobody.
	Announced  uint64
	InProgress int
}

type stats struct {
	accepted, adopted, ended, handedOver, refused, lost, overflows, unreported, announced atomic.Uint64
}

// A Listener takes requests from the kernel. Make one with [NewListener].
type Listener struct {
	link     *Link
	config   Config
	slots    chan struct{} // one element for each request in progress
	handlers sync.WaitGroup
	closing  sync.RWMutex // guards open, and Adopt's handlers.Add against Run's Wait
	open     bool         // Run has begun and not ended
	stats    stats
	ready    chan struct{}
	level    atomic.Pointer[string]
	handler  func(*Request) // set before open
	reports  chan error

	wake        int           // eventfd that ends the accepting thread's wait; valid while open
	pinged      chan struct{} // for when it waits at the limit instead
	ponged      chan struct{}
	pingLimited sync.Mutex // one Ping at a time
}

// NewListener makes a listener on link, which stays the caller's to close
// after Run has returned. It panics if cfg.Limit is not positive.
func NewListener(link *Link, cfg Config) *Listener {
	if cfg.Limit <= 0 {
		panic("upcall: Config.Limit must be positive")
	}
	if cfg.Report == nil {
		cfg.Report = func(error) {}
	}
	return &Listener{
		link: link, config: cfg, slots: make(chan struct{}, cfg.Limit),
		ready: make(chan struct{}), reports: make(chan error, maxReports),
		pinged: make(chan struct{}, 1), ponged: make(chan struct{}, 1),
	}
}

// maxReports is how many reports may wait to be heard.
const maxReports = 64

// report passes err on without waiting: the accepting thread comes by here.
func (l *Listener) report(err error) {
	select {
	case l.reports <- err:
	default:
		l.stats.unreported.Add(1)
	}
}

// Ready is closed when everything that was queued at the start has been
// accepted.
func (l *Listener) Ready() <-chan struct{} { return l.ready }

// Scheduling names the scheduling of the accepting thread, for example
// "SCHED_FIFO 1". It is empty before Ready.
func (l *Listener) Scheduling() string {
	if s := l.level.Load(); s != nil {
		return *s
	}
	return ""
}

// Limit returns the most requests that may be in progress.
func (l *Listener) Limit() int { return l.config.Limit }

// Stats returns the counts.
func (l *Listener) Stats() Stats {
	return Stats{
		Accepted:   l.stats.accepted.Load(),
		Adopted:    l.stats.adopted.Load(),
		Ended:      l.stats.ended.Load(),
		HandedOver: l.stats.handedOver.Load(),
		Refused:    l.stats.refused.Load(),
		Lost:       l.stats.lost.Load(),
		Overflows:  l.stats.overflows.Load(),
		Unreported: l.stats.unreported.Load(),
		Announced:  l.stats.announced.Load(),
		InProgress: len(l.slots),
	}
}

// Run accepts requests until ctx ends and calls handle for each in a goroutine
// of its own. What has been accepted by then is finished: Run returns when the
// last handler has. It may be called once. The error is nil after an ordinary
// end.
func (l *Listener) Run(ctx context.Context, handle func(*Request)) error {
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("eventfd", err)
	}
	defer unix.Close(wake)
	l.closing.Lock()
	l.handler, l.wake, l.open = handle, wake, true
	l.closing.Unlock()
	heard, reporting := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(reporting)
		l.tell(heard)
	}()
	result := make(chan error, 1)
	go func() {
		// The thread is not unlocked: it ends with the goroutine, since its
		// scheduling is nobody else's.
		runtime.LockOSThread()
		level := raiseScheduling()
		l.level.Store(&level)
		result <- l.accept(ctx, wake)
	}()
	var acceptErr error
	select {
	case <-ctx.Done():
		if err := raise(wake); err != nil {
			return err // cannot happen: it is nowhere near its end
		}
		acceptErr = <-result
	case acceptErr = <-result:
	}
	l.closing.Lock()
	l.open = false
	l.closing.Unlock()
	l.handlers.Wait()
	close(heard)
	<-reporting
	return acceptErr
}

// raise makes an eventfd readable.
func raise(fd int) error {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	_, err := unix.Write(fd, one)
	return os.NewSyscallError("write eventfd", err)
}

// errNotRunning is returned by Ping before Run and after it.
var errNotRunning = errors.New("the listener does not run")

// Ping reports whether the accepting thread comes round: nil once it has, or
// an error when ctx ends before.
func (l *Listener) Ping(ctx context.Context) error {
	l.pingLimited.Lock()
	defer l.pingLimited.Unlock()
	// A pong that came too late for an earlier ping.
	select {
	case <-l.ponged:
	default:
	}
	if err := l.ping(); err != nil {
		return err
	}
	select {
	case <-l.ponged:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the accepting thread does not come round: %w", context.Cause(ctx))
	}
}

func (l *Listener) ping() error {
	l.closing.RLock() // so that wake stays what it is
	defer l.closing.RUnlock()
	if !l.open {
		return errNotRunning
	}
	select {
	case l.pinged <- struct{}{}:
	default:
	}
	return raise(l.wake)
}

func (l *Listener) pong() {
	select {
	case l.ponged <- struct{}{}:
	default:
	}
}

// tell passes reports on until heard is closed and none is left.
func (l *Listener) tell(heard <-chan struct{}) {
	for {
		select {
		case err := <-l.reports:
			l.config.Report(err)
		case <-heard:
			for {
				select {
				case err := <-l.reports:
					l.config.Report(err)
				default:
					return
				}
			}
		}
	}
}

// accept is the accepting thread.
func (l *Listener) accept(ctx context.Context, wake int) error {
	var seq uint32
	buf := make([]byte, replyLen)
	fds := []unix.PollFd{{Fd: int32(l.link.notify), Events: unix.POLLIN}, {Fd: int32(wake), Events: unix.POLLIN}}
	for first := true; ; first = false {
		if err := l.drain(ctx, &seq, buf); err != nil {
			return err
		}
		if first {
			close(l.ready)
		}
		if err := retry(func() error { _, err := unix.Poll(fds, -1); return err }); err != nil {
			return os.NewSyscallError("poll", err)
		}
		if ctx.Err() != nil {
			// What has been announced up to now is still ours, if there is
			// room for it soon.
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastDrain)
			defer cancel()
			return l.drain(last, &seq, buf)
		}
		if fds[1].Revents != 0 {
			if _, err := unix.Read(wake, buf[:8]); err != nil && err != unix.EAGAIN && err != unix.EINTR {
				return os.NewSyscallError("read eventfd", err)
			}
			l.pong()
		}
		if err := l.takeNotifications(buf); err != nil {
			return err
		}
	}
}

// lastDrain bounds the drain at the end of Run.
const lastDrain = time.Second

// takeNotifications empties the notification socket. Their content is not
// looked at: any of them, and any loss of one, means "ask".
func (l *Listener) takeNotifications(buf []byte) error {
	for {
		switch _, err := receive(l.link.notify, buf, unix.MSG_DONTWAIT); err {
		case nil:
			l.stats.announced.Add(1)
		case unix.EAGAIN:
			return nil
		case unix.ENOBUFS:
			l.stats.overflows.Add(1)
			l.report(ErrOverflow)
		default:
			return os.NewSyscallError("recv", err)
		}
	}
}

// drain accepts until the kernel has no request left, or ctx ends while it
// waits at the limit.
func (l *Listener) drain(ctx context.Context, seq *uint32, buf []byte) error {
	seen, failures, scarce := time.Now(), 0, false
	for ctx.Err() == nil {
		if now := time.Now(); now.Sub(seen) > maxSeenAge {
			// What is accepted now cannot all have been there when the drain
			// began. A late DONE is harmless, giving up early is not.
			seen = now
		}
		if !l.takeSlot(ctx) {
			return nil
		}
		if err := l.link.roomForOne(); err != nil {
			// An ACCEPT would take the request from the queue and lose it.
			<-l.slots
			if !scarce {
				scarce = true
				l.report(fmt.Errorf("%w: %w", ErrNoDescriptors, err))
			}
			pause := time.NewTimer(scarcePause)
			select {
			case <-pause.C:
			case <-l.pinged:
				l.pong()
			case <-ctx.Done():
			}
			pause.Stop()
			continue
		}
		scarce = false
		*seq++
		a, err := l.link.acceptOne(*seq, buf)
		switch {
		case err == nil:
			failures = 0
			l.stats.accepted.Add(1)
			l.handlers.Add(1)
			go l.serve(a, seen, time.Now())
			continue
		case a.fd >= 0:
			// A request we cannot understand still has an owner: us.
			l.stats.accepted.Add(1)
			l.handlers.Add(1)
			why, now := err.Error(), time.Now()
			go func() {
				defer l.handlers.Done()
				if r, ok := l.wrap(a, seen, now); ok {
					l.refuse(r, unix.EOPNOTSUPP, why)
				}
			}()
			continue
		}
		<-l.slots
		if errors.Is(err, unix.EAGAIN) {
			return nil
		}
		if fatal(err) {
			return err
		}
		// Whatever else it is, it is about one request, which the kernel has
		// ended itself: no descriptor was free, or a keyring could not be
		// linked. The queue behind it has not been touched.
		l.stats.lost.Add(1)
		l.report(&LostError{err})
		if failures++; failures == maxFailures {
			return fmt.Errorf("%d failures in a row: %w", failures, err)
		}
	}
	return nil
}

// scarcePause is how long the accepting thread waits for a descriptor to become
// free before it looks again.
const scarcePause = 20 * time.Millisecond

// takeSlot waits at the limit. It returns false if ctx ended first.
func (l *Listener) takeSlot(ctx context.Context) bool {
	select {
	case l.slots <- struct{}{}:
		return true
	default:
	}
	for {
		select {
		case l.slots <- struct{}{}:
			return true
		case <-l.pinged:
			l.pong() // busy is not stuck
		case <-ctx.Done():
			return false
		}
	}
}

// maxSeenAge bounds how old "seen" may be for a request accepted in one drain.
const maxSeenAge = 500 * time.Millisecond

// maxFailures is how many ACCEPTs in a row may fail before something else than
// the requests is taken to be the reason.
const maxFailures = 1000

// fatal reports whether an ACCEPT failed because of this listener, so that the
// next one would, too.
func fatal(err error) bool {
	for _, e := range []unix.Errno{
		unix.EPERM,                // our rights are gone
		unix.EBADF, unix.ENOTSOCK, // our socket is
		unix.ENOENT, unix.EOPNOTSUPP, // the family is
		unix.EINVAL, unix.EPROTONOSUPPORT, // it does not understand us
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// wrap makes the descriptor of an accepted request a Request. If even that
// fails it ends the request and returns false; the slot is released.
func (l *Listener) wrap(a accepted, seen, at time.Time) (*Request, bool) {
	conn, err := newConn(a.fd)
	if err != nil {
		_ = l.link.sendDone(a.fd, uint32(a.fallback()), nil)
		unix.Close(a.fd)
		l.stats.ended.Add(1)
		l.release()
		l.report(fmt.Errorf("wrap accepted socket: %w", err))
		return nil, false
	}
	return newRequest(l, a.Attributes, conn, seen, at, a.deadline(seen)), true
}

// newConn makes an owned type of a descriptor. On error the descriptor is still
// the caller's: socket.New, which takes it over even where it fails, is only
// called when what it does has been seen to work.
func newConn(fd int) (*socket.Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, os.NewSyscallError("setnonblock", err)
	}
	if _, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil {
		return nil, os.NewSyscallError("getsockopt", err)
	}
	return socket.New(fd, "handshake")
}

// fallback is the status for a request that we fail ourselves. The kernel's
// client makes EACCES of everything else but ETIMEDOUT, and applications would
// get it (net/sunrpc/xprtsock.c).
func (a Attributes) fallback() unix.Errno {
	if a.Role == Client {
		return unix.ETIMEDOUT
	}
	return unix.EIO
}

// serve runs the handler for one accepted request and sees to its end.
func (l *Listener) serve(a accepted, seen, at time.Time) {
	defer l.handlers.Done()
	r, ok := l.wrap(a, seen, at)
	if !ok {
		return
	}
	l.handle(r)
}

// handle vets r and calls the handler. If the handler returns or panics
// without ending r, r ends here: a panic goes on, DONE goes first.
func (l *Listener) handle(r *Request) {
	defer func() {
		if !r.ended.Load() {
			_ = r.Done(r.fallback())
		}
	}()
	if why := r.unservable(); why != "" {
		l.refuse(r, unix.EOPNOTSUPP, why)
		return
	}
	l.handler(r)
}

// refuse ends a request that nobody can serve.
func (l *Listener) refuse(r *Request, status unix.Errno, why string) {
	l.stats.refused.Add(1)
	err := r.Done(status)
	l.report(errors.Join(&RefusedError{Attributes: r.Attributes, Status: status, Why: why}, err))
}

// unservable says why r is not a request for TLS over TCP with certificates,
// or returns "".
func (r *Request) unservable() string {
	if r.Role != Client && r.Role != Server {
		return fmt.Sprintf("unknown message type %d", uint32(r.Role))
	}
	switch r.AuthMode {
	case Unauthenticated, X509:
	case Unspecified:
		if r.Role == Client {
			return "no authentication mode" // it must not read as "anonymous"
		}
	case PreSharedKey:
		return "pre-shared keys (NVMe/TCP) are not served"
	default:
		return fmt.Sprintf("unknown authentication mode %d", uint32(r.AuthMode))
	}
	typ, err := r.conn.GetsockoptInt(unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return fmt.Sprintf("socket type: %v", err)
	}
	proto, err := r.conn.GetsockoptInt(unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return fmt.Sprintf("socket protocol: %v", err)
	}
	if typ != unix.SOCK_STREAM || proto != unix.IPPROTO_TCP {
		return fmt.Sprintf("not a TCP socket (type %d, protocol %d): DTLS and QUIC are not served", typ, proto)
	}
	return ""
}

// ErrBusy is returned by [Listener.Adopt] at the limit of requests in
// progress, and after Run has ended.
var ErrBusy = errors.New("too many requests in progress")

// Adopt takes over a request that another process accepted and runs the
// handler for it in a new goroutine. promise is called first: it tells the
// other process that the request has a new owner, and if it fails the request
// stays with that process. On any error the descriptor is closed and no DONE
// is sent. left is the time that remained until the deadline.
func (l *Listener) Adopt(fd int, a Attributes, left time.Duration, promise func() error) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if !l.open {
		unix.Close(fd)
		return ErrBusy
	}
	select {
	case l.slots <- struct{}{}:
	default:
		unix.Close(fd)
		return ErrBusy
	}
	conn, err := newConn(fd)
	if err != nil {
		unix.Close(fd)
		l.release()
		return fmt.Errorf("adopt: %w", err)
	}
	if err := promise(); err != nil {
		conn.Close()
		l.release()
		return fmt.Errorf("adopt: %w", err)
	}
	now := time.Now()
	l.stats.adopted.Add(1)
	l.handlers.Add(1)
	go func() {
		defer l.handlers.Done()
		l.handle(newRequest(l, a, conn, now, now, now.Add(left)))
	}()
	return nil
}

// doneTries is how often a DONE is sent that the kernel has no memory for. A
// second one for the same request does nothing.
const doneTries = 3

// finish sends DONE for conn's socket.
func (l *Listener) finish(conn *socket.Conn, status uint32, auth []uint32) error {
	defer l.stats.ended.Add(1)
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	cerr := raw.Control(func(fd uintptr) {
		for range doneTries {
			err = l.link.sendDone(int(fd), status, auth)
			if !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.ENOMEM) && !errors.Is(err, errNoAnswer) {
				return
			}
		}
	})
	return errors.Join(cerr, err)
}

func (l *Listener) release() { <-l.slots }
