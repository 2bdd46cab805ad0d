// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcalltest

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpctls/upcall"
)

// Numbers of the family, written out again on purpose: a fake that shared them
// with the code under test could not find a wrong one.
const (
	family = 0x21

	ready, accept, done = 1, 2, 3
)

// A Spec describes a request to submit.
type Spec struct {
	upcall.Attributes
	// Socket is what the agent gets a descriptor of.
	Socket syscall.Conn
	// Raw, if not nil, is sent as the attributes of the ACCEPT reply instead
	// of what Attributes say; the descriptor is put in front unless NoSocket.
	Raw      []byte
	NoSocket bool
}

// An Answer is a DONE.
type Answer struct {
	Status     unix.Errno
	RemoteAuth []uint32
}

// A Pending is a submitted request.
type Pending struct {
	answer chan Answer
	spec   Spec
	inode  uint64
	dones  int
}

// Kernel is a fake kernel. Its zero value is not usable; see [New].
type Kernel struct {
	tb testing.TB

	mu      sync.Mutex
	queue   []*Pending
	pending map[uint64]*Pending // by the socket's inode, as the kernel's by struct sock
	accepts int
	again   int
	fail    []unix.Errno // errors for the next ACCEPTs

	notify, acceptFD, doneFD int // the kernel's ends
	wg                       sync.WaitGroup
}

// New starts a fake kernel and returns it with the link to it. Both end with
// the test.
func New(tb testing.TB) (*Kernel, *upcall.Link) {
	tb.Helper()
	k := &Kernel{tb: tb, pending: make(map[uint64]*Pending)}
	var ours [3]int
	for i, mine := range []*int{&k.notify, &k.acceptFD, &k.doneFD} {
		p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			tb.Fatalf("socketpair: %v", err)
		}
		*mine, ours[i] = p[0], p[1]
	}
	k.wg.Go(func() { k.serve(k.acceptFD) })
	k.wg.Go(func() { k.serve(k.doneFD) })
	link := upcall.NewLink(family, ours[0], ours[1], ours[2])
	tb.Cleanup(func() {
		link.Close()
		for _, fd := range []int{k.notify, k.acceptFD, k.doneFD} {
			unix.Shutdown(fd, unix.SHUT_RDWR)
		}
		k.wg.Wait()
		for _, fd := range []int{k.notify, k.acceptFD, k.doneFD} {
			unix.Close(fd)
		}
	})
	return k, link
}

// Submit queues a request and announces it.
func (k *Kernel) Submit(s Spec) *Pending {
	k.tb.Helper()
	p := k.Queue(s)
	k.Announce()
	return p
}

// Queue queues a request without announcing it, as for an agent that is not
// there yet.
func (k *Kernel) Queue(s Spec) *Pending {
	k.tb.Helper()
	p := &Pending{answer: make(chan Answer, 1), spec: s, inode: inode(k.tb, s.Socket)}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.queue = append(k.queue, p)
	k.pending[p.inode] = p
	return p
}

// Take removes the oldest request from the queue, as if another process had
// accepted it, and returns it.
func (k *Kernel) Take() *Pending {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.queue[0]
	k.queue = k.queue[1:]
	return p
}

// Announce sends READY.
func (k *Kernel) Announce() {
	b := frame(family, 0, ready, func(ae *netlink.AttributeEncoder) { ae.Uint32(2, 1) })
	// A full socket is the kernel's overflow: nothing is sent.
	_ = unix.Sendto(k.notify, b, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, nil)
}

// FailAccepts makes the next ACCEPTs fail with these errors, each consuming
// the oldest request as the kernel does.
func (k *Kernel) FailAccepts(errs ...unix.Errno) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fail = append(k.fail, errs...)
}

// Queued returns how many requests wait for ACCEPT.
func (k *Kernel) Queued() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.queue)
}

// Accepts returns how many requests were accepted.
func (k *Kernel) Accepts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.accepts
}

// Asked returns how often an ACCEPT was answered with EAGAIN.
func (k *Kernel) Asked() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.again
}

// Dones returns how many DONEs the request got.
func (k *Kernel) Dones(p *Pending) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return p.dones
}

// Wait returns the answer to a request, failing the test if none comes within
// the bound.
func (k *Kernel) Wait(p *Pending, bound time.Duration) Answer {
	k.tb.Helper()
	select {
	case a := <-p.answer:
		return a
	case <-time.After(bound):
		k.tb.Fatalf("no DONE within %v", bound)
		return Answer{}
	}
}

// Unanswered reports that no DONE has come for p yet.
func (p *Pending) Unanswered() bool { return len(p.answer) == 0 }

// serve answers the requests that arrive on one socket.
func (k *Kernel) serve(fd int) {
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		var m netlink.Message
		if err := m.UnmarshalBinary(buf[:n]); err != nil {
			k.tb.Errorf("fake kernel: bad netlink message: %v", err)
			return
		}
		reply := k.handle(m)
		if reply == nil {
			continue
		}
		if _, err := unix.Write(fd, reply); err != nil {
			return
		}
	}
}

func (k *Kernel) handle(m netlink.Message) []byte {
	seq := m.Header.Sequence
	fail := func(e unix.Errno) []byte { return errorFrame(seq, e) }
	if uint16(m.Header.Type) != family || m.Header.Flags&netlink.Request == 0 {
		return fail(unix.EOPNOTSUPP)
	}
	if extra := m.Header.Flags &^ (netlink.Request | netlink.Acknowledge | netlink.Echo); extra != 0 {
		return fail(unix.EINVAL)
	}
	var g genetlink.Message
	if err := g.UnmarshalBinary(m.Data); err != nil {
		return fail(unix.EINVAL)
	}
	ad, err := netlink.NewAttributeDecoder(g.Data)
	if err != nil {
		return fail(unix.EINVAL)
	}
	switch g.Header.Command {
	case accept:
		return k.accept(seq, ad)
	case done:
		e := k.done(ad)
		if e == 0 && m.Header.Flags&netlink.Acknowledge == 0 {
			return nil
		}
		return fail(e)
	}
	return fail(unix.EOPNOTSUPP)
}

func (k *Kernel) accept(seq uint32, ad *netlink.AttributeDecoder) []byte {
	class, has := uint32(0), false
	for ad.Next() {
		if ad.Type() != 2 {
			return errorFrame(seq, unix.EINVAL)
		}
		class, has = ad.Uint32(), true
	}
	if ad.Err() != nil || !has || class > 2 {
		return errorFrame(seq, unix.EINVAL)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.queue) == 0 || class != 1 {
		k.again++
		return errorFrame(seq, unix.EAGAIN)
	}
	p := k.queue[0]
	k.queue = k.queue[1:]
	if len(k.fail) > 0 {
		e := k.fail[0]
		k.fail = k.fail[1:]
		p.complete(Answer{Status: unix.EIO})
		return errorFrame(seq, e)
	}
	k.accepts++
	fd := duplicate(k.tb, p.spec.Socket)
	a := p.spec.Attributes
	return frame(family, seq, accept, func(ae *netlink.AttributeEncoder) {
		if !p.spec.NoSocket {
			ae.Int32(1, int32(fd))
		} else {
			unix.Close(fd)
		}
		if p.spec.Raw != nil {
			attrs, err := netlink.UnmarshalAttributes(p.spec.Raw)
			if err != nil {
				k.tb.Errorf("fake kernel: Raw: %v", err)
			}
			for _, a := range attrs {
				ae.Bytes(a.Type, a.Data)
			}
			return
		}
		ae.Uint32(3, uint32(a.Role))
		if a.Timeout > 0 {
			ae.Uint32(4, uint32(a.Timeout.Milliseconds()))
		}
		ae.Uint32(5, uint32(a.AuthMode))
		for _, id := range a.PeerIdentities {
			ae.Uint32(6, id)
		}
		for _, kp := range a.KeyPairs {
			ae.Nested(7, func(nae *netlink.AttributeEncoder) error {
				nae.Int32(1, kp.Certificate)
				nae.Int32(2, kp.PrivateKey)
				return nil
			})
		}
		if a.PeerName != "" {
			ae.String(8, a.PeerName)
		}
		if a.Keyring != 0 {
			ae.Uint32(9, a.Keyring)
		}
	})
}

func (k *Kernel) done(ad *netlink.AttributeDecoder) unix.Errno {
	status, fd, hasFD := uint32(unix.EIO), int32(-1), false
	var auth []uint32
	for ad.Next() {
		switch ad.Type() {
		case 1:
			if status = ad.Uint32(); status > 4095 {
				return unix.ERANGE
			}
		case 2:
			fd, hasFD = ad.Int32(), true
		case 3:
			auth = append(auth, ad.Uint32())
		default:
			return unix.EINVAL
		}
	}
	if ad.Err() != nil || !hasFD {
		return unix.EINVAL
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil {
		return unix.EBADF
	}
	if st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return unix.ENOTSOCK
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.pending[st.Ino]
	if p == nil {
		return unix.EBUSY
	}
	p.dones++
	if p.dones > 1 {
		k.tb.Errorf("fake kernel: DONE number %d for one request", p.dones)
	}
	p.complete(Answer{Status: unix.Errno(status), RemoteAuth: auth})
	return 0
}

func (p *Pending) complete(a Answer) {
	select {
	case p.answer <- a:
	default: // the kernel, too, ignores all but the first
	}
}

func frame(typ uint16, seq uint32, cmd uint8, attrs func(*netlink.AttributeEncoder)) []byte {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	data, err := ae.Encode()
	if err != nil {
		panic(fmt.Sprintf("upcalltest: encode: %v", err))
	}
	g, err := genetlink.Message{Header: genetlink.Header{Command: cmd, Version: 1}, Data: data}.MarshalBinary()
	if err != nil {
		panic(fmt.Sprintf("upcalltest: encode: %v", err))
	}
	return header(typ, seq, g)
}

func errorFrame(seq uint32, e unix.Errno) []byte {
	body := make([]byte, 4+16)
	binary.NativeEndian.PutUint32(body, uint32(-int32(e)))
	return header(2, seq, body)
}

func header(typ uint16, seq uint32, body []byte) []byte {
	b := make([]byte, 16, 16+len(body))
	binary.NativeEndian.PutUint32(b, uint32(16+len(body)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint32(b[8:], seq)
	return append(b, body...)
}

// SocketPair returns the two ends of a TCP connection over loopback: one for
// the kernel to hand out, one for its peer. Both end with the test.
func SocketPair(tb testing.TB) (kernel, peer *net.TCPConn) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func inode(tb testing.TB, c syscall.Conn) (ino uint64) {
	tb.Helper()
	control(tb, c, func(fd int) {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			tb.Fatalf("fstat: %v", err)
		}
		ino = st.Ino
	})
	return ino
}

func duplicate(tb testing.TB, c syscall.Conn) (dup int) {
	control(tb, c, func(fd int) {
		var err error
		if dup, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0); err != nil {
			tb.Errorf("dup: %v", err)
		}
	})
	return dup
}

func control(tb testing.TB, c syscall.Conn, f func(fd int)) {
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f(int(fd)) })
	}
	if err != nil {
		tb.Errorf("fake kernel: socket: %v", err)
	}
}
