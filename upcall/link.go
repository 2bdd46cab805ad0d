// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Errors of [Open].
var (
	// ErrNoFamily: the kernel was built without CONFIG_NET_HANDSHAKE.
	ErrNoFamily = errors.New("kernel has no handshake family (CONFIG_NET_HANDSHAKE, Linux 6.4 or later)")
	// ErrNotPermitted: CAP_NET_ADMIN in the initial user namespace is missing.
	ErrNotPermitted = errors.New("kernel refuses: CAP_NET_ADMIN in the initial user namespace is needed")
)

// A Link is the set of netlink sockets to one network namespace's handshake
// family. Notifications have a socket of their own, so that a flood of them
// cannot push out a reply, and so has DONE, so that it never waits for ACCEPT.
type Link struct {
	family uint16
	group  uint32
	notify int // member of the group; only ever read
	// keptErr says why notify is not the socket of an earlier process.
	keptErr error
	accept  int // used by the accepting thread alone

	mu      sync.Mutex // guards done, doneSeq and doneBuf
	done    int
	doneSeq uint32
	doneBuf [replyLen]byte
}

// replyLen is larger than any reply: an ACCEPT reply is a few hundred bytes,
// an error echoes the request.
const replyLen = 16 << 10

// readBuffer is asked for the notification socket, in bytes. A READY takes
// under 1 KiB of it, so some thousands fit; what does not costs nothing but an
// ENOBUFS, after which the listener asks for everything anyway.
const readBuffer = 1 << 20

// Open resolves the family in the calling thread's network namespace, joins
// its group and verifies that DONE is permitted. Errors wrap [ErrNoFamily] or
// [ErrNotPermitted] where they apply.
//
// kept is the notification socket of an earlier process ([Link.Notification]),
// or -1. It has stayed in the group all the while, so that the kernel went on
// queueing requests. It is the Link's from here on; one that is of no use is
// closed, and another made.
func Open(kept int) (*Link, error) {
	l := &Link{notify: kept, accept: -1, done: -1}
	family, group, err := resolve()
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("open handshake family: %w", err)
	}
	l.family, l.group = family, group
	if l.notify >= 0 {
		if l.keptErr = usable(l.notify); l.keptErr != nil {
			unix.Close(l.notify)
			l.notify = -1
		}
	} else {
		l.keptErr = errNotKept
	}
	for _, fd := range []*int{&l.notify, &l.accept, &l.done} {
		if *fd >= 0 {
			continue
		}
		if *fd, err = netlinkSocket(); err != nil {
			l.Close()
			return nil, fmt.Errorf("open handshake family: %w", err)
		}
	}
	// Privileged sizes first; the plain option is capped by rmem_max.
	if unix.SetsockoptInt(l.notify, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, readBuffer) != nil {
		_ = unix.SetsockoptInt(l.notify, unix.SOL_SOCKET, unix.SO_RCVBUF, readBuffer)
	}
	for _, fd := range []int{l.accept, l.done} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &answerTimeout); err != nil {
			l.Close()
			return nil, fmt.Errorf("open handshake family: %w", os.NewSyscallError("setsockopt", err))
		}
	}
	// The check comes before the membership: as long as we cannot serve, the
	// kernel must not believe that somebody does.
	if err := l.check(); err != nil {
		l.Close()
		return nil, fmt.Errorf("open handshake family: %w", err)
	}
	if err := unix.SetsockoptInt(l.notify, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(group)); err != nil {
		l.Close()
		return nil, fmt.Errorf("open handshake family: join %s: %w", groupName, err)
	}
	return l, nil
}

// errNotKept: there was no earlier process's socket.
var errNotKept = errors.New("none")

// usable reports whether a descriptor that came from outside is a socket with
// which this process could have joined the group. That it is a member is seen
// to by joining again.
func usable(fd int) error {
	for opt, want := range map[int]int{
		unix.SO_DOMAIN: unix.AF_NETLINK, unix.SO_TYPE: unix.SOCK_RAW, unix.SO_PROTOCOL: unix.NETLINK_GENERIC,
	} {
		if got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, opt); err != nil {
			return os.NewSyscallError("getsockopt", err)
		} else if got != want {
			return errors.New("not a generic netlink socket")
		}
	}
	// Requests of another namespace would be announced and never be found.
	ns, err := unix.IoctlRetInt(fd, unix.SIOCGSKNS)
	if err != nil {
		return os.NewSyscallError("ioctl SIOCGSKNS", err)
	}
	defer unix.Close(ns)
	var its, ours unix.Stat_t
	if err := unix.Fstat(ns, &its); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if err := unix.Stat("/proc/thread-self/ns/net", &ours); err != nil {
		return os.NewSyscallError("stat", err)
	}
	if its.Dev != ours.Dev || its.Ino != ours.Ino {
		return errors.New("of another network namespace")
	}
	return nil
}

// Notification returns the socket that is to be kept for the next process, and
// whether it came from an earlier one: nil, or why not. It stays the Link's.
func (l *Link) Notification() (fd int, kept error) { return l.notify, l.keptErr }

// Group returns the id of the multicast group whose members the kernel notifies.
func (l *Link) Group() uint32 { return l.group }

// NewLink makes a Link of sockets that speak the protocol already: three
// descriptors, owned by the Link from here on, on which datagrams are netlink
// messages of the given family id. It exists for tests (package upcalltest).
func NewLink(family uint16, notify, accept, done int) *Link {
	return &Link{family: family, notify: notify, accept: accept, done: done}
}

// Close closes the sockets. No listener may be running on them.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, fd := range []*int{&l.notify, &l.accept, &l.done} {
		if *fd >= 0 {
			unix.Close(*fd)
			*fd = -1
		}
	}
	return nil
}

// Group returns the multicast group of the kernel's requests, for those who want
// to see who is in it. The error is [ErrNoFamily] if this kernel has none.
func Group() (uint32, error) {
	_, group, err := resolve()
	return group, err
}

// dial is a variable for tests.
var dial = func() (*genetlink.Conn, error) { return genetlink.Dial(nil) }

func resolve() (family uint16, group uint32, err error) {
	c, err := dial()
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	f, err := c.GetFamily(familyName)
	if errors.Is(err, os.ErrNotExist) {
		return 0, 0, ErrNoFamily
	}
	if err != nil {
		return 0, 0, err
	}
	for _, g := range f.Groups {
		if g.Name == groupName {
			return f.ID, g.ID, nil
		}
	}
	return 0, 0, fmt.Errorf("%w: it has no group %s", ErrNoFamily, groupName)
}

func netlinkSocket() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return -1, os.NewSyscallError("bind", err)
	}
	return fd, nil
}

// check sends a DONE that names no socket. EBADF is the good answer: the
// kernel has judged our rights and every attribute before it looks at the
// descriptor.
func (l *Link) check() error {
	err := l.sendDone(-1, 0, nil)
	switch {
	case errors.Is(err, unix.EBADF):
		return nil
	case errors.Is(err, unix.EPERM):
		return ErrNotPermitted
	case err == nil:
		return errors.New("kernel takes a done without a socket")
	default:
		return err
	}
}

// sendDone ends the request behind fd. The kernel runs the consumer's callback
// before the call returns, which does not sleep for the network, so holding mu
// is brief.
func (l *Link) sendDone(fd int, status uint32, auth []uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doneSeq++
	req, err := encodeDone(l.family, l.doneSeq, fd, status, auth)
	if err != nil {
		return fmt.Errorf("encode done: %w", err)
	}
	m, err := exchange(l.done, req, l.doneSeq, l.doneBuf[:])
	if err != nil {
		return fmt.Errorf("done: %w", err)
	}
	if m.Header.Type != netlink.Error {
		return fmt.Errorf("done: unexpected reply of type %v", m.Header.Type)
	}
	return nil
}

// roomForOne reports whether a descriptor is free. The kernel's client makes
// EACCES of a request that is lost for want of one, and applications get it.
func (l *Link) roomForOne() error {
	fd, err := unix.FcntlInt(uintptr(l.accept), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	return os.NewSyscallError("close", unix.Close(fd))
}

// acceptOne takes the oldest request, or returns EAGAIN. When err is not nil
// and a.fd >= 0, the descriptor is the caller's and its request unusable.
func (l *Link) acceptOne(seq uint32, buf []byte) (a accepted, err error) {
	a.fd = -1
	req, err := encodeAccept(l.family, seq)
	if err != nil {
		return a, fmt.Errorf("encode accept: %w", err)
	}
	m, err := exchange(l.accept, req, seq, buf)
	if err != nil {
		return a, fmt.Errorf("accept: %w", err)
	}
	if uint16(m.Header.Type) != l.family {
		return a, fmt.Errorf("accept: unexpected reply of type %v", m.Header.Type)
	}
	return decodeAccept(m.Data)
}

// errNoAnswer: the kernel could not queue its answer, for want of memory.
var errNoAnswer = errors.New("no answer from the kernel")

// answerTimeout bounds the wait for an answer that the kernel queues before
// the request's send returns.
var answerTimeout = unix.Timeval{Sec: 2}

// exchange sends req and returns the answer with its sequence number. The
// kernel handles a request inside the send, so the answer is there when the
// send returns. A netlink error becomes its errno; errno 0 is an
// acknowledgement and is returned as a message of type netlink.Error.
func exchange(fd int, req []byte, seq uint32, buf []byte) (netlink.Message, error) {
	if err := retry(func() error { _, err := unix.Write(fd, req); return err }); err != nil {
		return netlink.Message{}, os.NewSyscallError("send", err)
	}
	for {
		n, err := receive(fd, buf, 0)
		if err == unix.EAGAIN {
			// SO_RCVTIMEO, not an answer: it must not read like one.
			return netlink.Message{}, errNoAnswer
		}
		if err != nil {
			return netlink.Message{}, os.NewSyscallError("recv", err)
		}
		if n < 0 {
			continue // not from the kernel
		}
		m, err := message(buf[:n])
		if err != nil {
			return netlink.Message{}, err
		}
		if m.Header.Sequence != seq {
			continue // the answer to an exchange that was given up
		}
		if m.Header.Type != netlink.Error {
			return m, nil
		}
		if len(m.Data) < 4 {
			return netlink.Message{}, errors.New("netlink error without a code")
		}
		if code := int32(binary.NativeEndian.Uint32(m.Data)); code != 0 {
			return netlink.Message{}, unix.Errno(-code)
		}
		return m, nil
	}
}

// message decodes the first netlink message of a datagram; the family sends
// one in each.
func message(b []byte) (netlink.Message, error) {
	var m netlink.Message
	if len(b) < headerLen {
		return m, fmt.Errorf("netlink message of %d bytes", len(b))
	}
	n := int(binary.NativeEndian.Uint32(b))
	if n < headerLen || n > len(b) {
		return m, fmt.Errorf("netlink message of %d bytes claims %d", len(b), n)
	}
	m.Header = netlink.Header{
		Length:   uint32(n),
		Type:     netlink.HeaderType(binary.NativeEndian.Uint16(b[4:])),
		Flags:    netlink.HeaderFlags(binary.NativeEndian.Uint16(b[6:])),
		Sequence: binary.NativeEndian.Uint32(b[8:]),
		PID:      binary.NativeEndian.Uint32(b[12:]),
	}
	m.Data = b[headerLen:n]
	return m, nil
}

// receive reads one datagram. It returns -1 for one that did not come from the
// kernel: any process may send to a netlink socket's port.
func receive(fd int, buf []byte, flags int) (n int, err error) {
	var from unix.Sockaddr
	err = retry(func() error { n, from, err = unix.Recvfrom(fd, buf, flags); return err })
	if err != nil {
		return 0, err
	}
	if nl, ok := from.(*unix.SockaddrNetlink); ok && nl.Pid != 0 {
		return -1, nil
	}
	return n, nil
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}
