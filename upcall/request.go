// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall

import (
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// How long the kernel waits for DONE from the moment it has submitted a
// request, when the request itself names no timeout
// (net/sunrpc/svcsock.c SVC_HANDSHAKE_TO, net/sunrpc/xprtsock.c
// XS_TLS_HANDSHAKE_TO), and what of it is kept in reserve for the way.
const (
	serverTimeout = 5 * time.Second
	clientTimeout = 10 * time.Second
	reserve       = time.Second
)

// RemoteAuthenticated is the REMOTE_AUTH value for a peer that proved its
// identity. The kernel only asks whether it is zero
// (net/sunrpc/svcsock.c svc_tcp_handshake_done).
const RemoteAuthenticated uint32 = 1<<32 - 1

// ErrEnded is returned for a request that has ended already.
var ErrEnded = errors.New("request has ended")

// A Request is one handshake that the kernel waits for. Its handler owns it
// and uses it from one goroutine.
type Request struct {
	Attributes

	// Peer and Local are the socket's addresses; invalid when the connection
	// was gone already.
	Peer, Local netip.AddrPort
	// Namespace is the kernel's cookie of the connection's network namespace
	// (SO_NETNS_COOKIE); 0 if it does not say.
	Namespace uint64
	// Seen is when the request was noticed: the earliest moment known.
	Seen time.Time
	// Accepted is when it became ours: ACCEPT or Adopt has just returned it.
	Accepted time.Time
	// Deadline is when the handshake should be over, so that DONE arrives
	// before the kernel has given up.
	Deadline time.Time

	listener *Listener
	conn     *socket.Conn
	ended    atomic.Bool
}

// newRequest makes a request of an accepted socket, which it owns from here on.
func newRequest(l *Listener, a Attributes, conn *socket.Conn, seen, accepted, deadline time.Time) *Request {
	r := &Request{Attributes: a, Seen: seen, Accepted: accepted, Deadline: deadline, listener: l, conn: conn}
	if sa, err := conn.Getpeername(); err == nil {
		r.Peer = addrPort(sa)
	}
	if sa, err := conn.Getsockname(); err == nil {
		r.Local = addrPort(sa)
	}
	r.Namespace = namespace(conn)
	return r
}

// namespace returns the cookie of a socket's network namespace.
func namespace(conn *socket.Conn) (cookie uint64) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0
	}
	_ = raw.Control(func(fd uintptr) { // 0 on any error
		cookie, _ = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	})
	return cookie
}

// deadline returns when a request seen at seen should be answered.
func (a Attributes) deadline(seen time.Time) time.Time {
	d := clientTimeout
	if a.Role == Server {
		d = serverTimeout
	}
	if a.Timeout > 0 {
		d = a.Timeout
	}
	return seen.Add(d - min(reserve, d/5))
}

// addrPort converts a socket address; IPv4-mapped IPv6 addresses become IPv4.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		a := netip.AddrFrom16(sa.Addr).Unmap()
		if a.Is6() && sa.ZoneId != 0 {
			a = a.WithZone(fmt.Sprint(sa.ZoneId))
		}
		return netip.AddrPortFrom(a, uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// Conn returns the kernel's socket. It stays the request's: it must not be
// closed, nor used after the request has ended, and its options belong to the
// kernel.
func (r *Request) Conn() *socket.Conn { return r.conn }

// Done ends the request: it tells the kernel status (0 for success, a positive
// errno up to 4095 otherwise) and, on success, who the peer proved to be
// (REMOTE_AUTH; at most one value matters), then closes the descriptor. Only
// the first call has an effect; later ones return [ErrEnded].
//
// The kernel does not say whether it still waited.
func (r *Request) Done(status unix.Errno, remoteAuth ...uint32) error {
	if !r.ended.CompareAndSwap(false, true) {
		return ErrEnded
	}
	defer r.listener.release()
	if status > maxStatus {
		status = unix.EIO
	}
	if status != 0 {
		remoteAuth = nil
	}
	err := r.listener.finish(r.conn, uint32(status), remoteAuth)
	return errors.Join(err, r.conn.Close())
}

// HandOver ends the request without DONE, if give, which gets the descriptor
// and the time left, has made another process promise to send it. When give
// fails, the request remains the caller's.
func (r *Request) HandOver(give func(fd int, a Attributes, left time.Duration) error) error {
	if r.ended.Load() {
		return ErrEnded
	}
	var gerr error
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) { gerr = give(int(fd), r.Attributes, time.Until(r.Deadline)) }); err != nil {
		return err
	}
	if gerr != nil {
		return gerr
	}
	if !r.ended.CompareAndSwap(false, true) {
		return ErrEnded
	}
	defer r.listener.release()
	r.listener.stats.handedOver.Add(1)
	return r.conn.Close()
}
