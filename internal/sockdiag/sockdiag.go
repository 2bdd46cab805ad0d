// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sockdiag

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone: there is no such socket (any more).
var ErrGone = errors.New("the connection is gone")

// ErrNoDiag: the kernel has no tcp_diag, or may not load it.
var ErrNoDiag = errors.New("the kernel cannot list TCP connections: modprobe tcp_diag")

// ErrNoDestroy: the kernel cannot end a socket.
var ErrNoDestroy = errors.New("the kernel cannot end connections (CONFIG_INET_DIAG_DESTROY)")

// patience bounds the wait for an answer, which the kernel gives at once.
const patience = 5 * time.Second

// bufferSize is what one read may take: the kernel fills no more than 32 KiB of
// a dump at once (netlink_dump), and never splits a message.
const bufferSize = 64 << 10

// A Conn is a connection to sock_diag in the network namespace of the thread that
// made it. It belongs to one goroutine at a time.
type Conn struct {
	fd  int
	seq uint32
	buf []byte
}

// Open makes a Conn.
func Open() (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket NETLINK_SOCK_DIAG", err)
	}
	tv := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("setsockopt SO_RCVTIMEO", err)
	}
	return &Conn{fd: fd, buf: make([]byte, bufferSize)}, nil
}

// Close closes it.
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Dump calls visit for every TCP connection, of IPv4 and IPv6, that is
// established or being closed. What comes or goes meanwhile may be missing. It is
// one socket at a time: a host may have very many.
func (c *Conn) Dump(visit func(Socket)) error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		if err := c.dump(family, connections, visit); err != nil {
			return fmt.Errorf("list TCP connections: %w", err)
		}
	}
	return nil
}

// Available returns ErrNoDiag if nothing can be asked. Find would not tell: for
// the kernel a module that is missing and a socket that is gone are the same.
func (c *Conn) Available() error {
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		// Of no state: that is over at once.
		if err := c.dump(family, 0, func(Socket) {}); err != nil {
			return err
		}
	}
	return nil
}

func (c *Conn) dump(family byte, states uint32, visit func(Socket)) error {
	err := c.ask(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP, request(family, states, ID{}), visit)
	if err == unix.ENOENT {
		if family == unix.AF_INET6 { // a kernel without IPv6
			return nil
		}
		return ErrNoDiag
	}
	return err
}

// Find returns the socket of that name. The error is ErrGone if there is none.
func (c *Conn) Find(id ID) (s Socket, err error) {
	if err := id.Check(); err != nil {
		return Socket{}, fmt.Errorf("find a connection: %w", err)
	}
	found := false
	err = c.ask(unix.SOCK_DIAG_BY_FAMILY, 0, request(familyOf(id), connections, id), func(one Socket) { s, found = one, true })
	if err == nil && !found {
		err = errors.New("no answer")
	}
	if err == nil && s.Cookie != id.Cookie {
		err = fmt.Errorf("the kernel answers with another one: %v", s.ID)
	}
	if err != nil {
		return Socket{}, explain("find", id, err)
	}
	return s, nil
}

// Destroy ends the connection: its peer gets a reset, and who uses the socket, here
// the kernel's NFS, ECONNABORTED (tcp_abort). The error is ErrGone if there is no
// such socket, or if it is closed already.
func (c *Conn) Destroy(id ID) error {
	if err := id.Check(); err != nil {
		return fmt.Errorf("end a connection: %w", err)
	}
	return explain("end", id, c.ask(unix.SOCK_DESTROY, unix.NLM_F_ACK, request(familyOf(id), connections, id), func(Socket) {}))
}

func explain(what string, id ID, err error) error {
	switch err {
	case nil:
		return nil
	case unix.ENOENT, unix.ESTALE: // ESTALE: its place has another cookie
		err = ErrGone
	case unix.EOPNOTSUPP:
		err = ErrNoDestroy
	}
	return fmt.Errorf("%s connection %v to %v: %w", what, id.Local, id.Remote, err)
}

func familyOf(id ID) byte {
	if id.Remote.Addr().Unmap().Is4() {
		return unix.AF_INET // finds IPv6 sockets in IPv4's clothes, too
	}
	return unix.AF_INET6
}

// ask sends one request and calls visit for each socket in the answer. The error
// is the kernel's errno, bare.
func (c *Conn) ask(typ, flags uint16, body []byte, visit func(Socket)) error {
	c.seq++
	msg := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body))
	binary.NativeEndian.PutUint32(msg, uint32(cap(msg)))
	binary.NativeEndian.PutUint16(msg[4:], typ)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|flags)
	binary.NativeEndian.PutUint32(msg[8:], c.seq)
	msg = append(msg, body...)
	if err := unix.Sendto(c.fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("recvfrom", err)
		case n > len(c.buf):
			return fmt.Errorf("a message of %d bytes", n)
		}
		if sa, ok := from.(*unix.SockaddrNetlink); !ok || sa.Pid != 0 {
			continue // not the kernel's
		}
		over, err := answer(c.buf[:n], c.seq, flags, visit)
		if err != nil || over {
			return err
		}
	}
}

// answer reads what came at once, and reports whether that was all.
func answer(b []byte, seq uint32, flags uint16, visit func(Socket)) (over bool, err error) {
	// It checks every length before it slices.
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return false, fmt.Errorf("netlink: %w", err)
	}
	for _, m := range messages {
		if m.Header.Seq != seq {
			continue // of a question whose answer was given up
		}
		switch m.Header.Type {
		case unix.NLMSG_NOOP:
		case unix.NLMSG_DONE, unix.NLMSG_ERROR:
			return true, status(m.Data, m.Header.Type)
		case unix.SOCK_DIAG_BY_FAMILY:
			s, err := parse(m.Data)
			if err != nil {
				return false, err
			}
			visit(s)
			if flags&(unix.NLM_F_DUMP|unix.NLM_F_ACK) == 0 {
				return true, nil
			}
		default:
			return false, fmt.Errorf("a netlink message of type %d", m.Header.Type)
		}
	}
	return false, nil
}

// status is the errno in front of the data of an error, or at the end of a dump.
func status(b []byte, typ uint16) error {
	if len(b) < 4 {
		if typ == unix.NLMSG_DONE {
			return nil
		}
		return fmt.Errorf("a netlink error of %d bytes", len(b))
	}
	code := int32(binary.NativeEndian.Uint32(b))
	switch {
	case code == 0:
		return nil
	case code > 0 || code < -4095:
		return fmt.Errorf("a netlink error with number %d", code)
	}
	return unix.Errno(-code)
}

// Identify returns the name of a socket that is at hand, by its descriptor, which
// stays the caller's.
func Identify(conn syscall.Conn, local, remote netip.AddrPort) (id ID, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return ID{}, err
	}
	id = ID{Local: local, Remote: remote}
	cerr := raw.Control(func(fd uintptr) {
		var cookie uint64
		if cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
			err = os.NewSyscallError("getsockopt SO_COOKIE", err)
			return
		}
		id.Cookie = cookie
		// Without it a socket of a VRF is not found.
		index, e := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BINDTOIFINDEX)
		if e == nil && index > 0 {
			id.Interface = uint32(index)
		} else if zone, e := strconv.ParseUint(remote.Addr().Zone(), 10, 32); e == nil {
			id.Interface = uint32(zone)
		}
	})
	if err := errors.Join(cerr, err); err != nil {
		return ID{}, fmt.Errorf("identify a connection: %w", err)
	}
	return id, id.Check()
}
