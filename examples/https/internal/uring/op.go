// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package uring

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Connect connects a socket to an address. Closing abort gives it up, here and
// below; a nil abort never does.
func (r *Ring) Connect(c syscall.RawConn, to netip.AddrPort, abort <-chan struct{}) error {
	address, err := sockaddr(to)
	if err != nil {
		return fmt.Errorf("uring: connect: %w", err)
	}
	var memory runtime.Pinner
	memory.Pin(&address[0])
	_, err = r.do(c, entry{op: opConnect, addr: pointer(address), off: uint64(len(address))}, &memory, abort)
	return wrap("connect", err)
}

// Send sends the first bytes of p, and returns how many.
func (r *Ring) Send(c syscall.RawConn, p []byte, abort <-chan struct{}) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	p = p[:min(len(p), most)]
	var memory runtime.Pinner
	memory.Pin(&p[0])
	n, err := r.do(c, entry{op: opSend, addr: pointer(p), len: uint32(len(p)), opFlags: unix.MSG_NOSIGNAL}, &memory, abort)
	return n, wrap("send", err)
}

// most is the longest transfer of one operation: a result is an int32.
const most = 1 << 30

// Recv waits for data and receives what fits into p; 0 is the end of the stream.
func (r *Ring) Recv(c syscall.RawConn, p []byte, abort <-chan struct{}) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	p = p[:min(len(p), most)]
	var memory runtime.Pinner
	memory.Pin(&p[0])
	n, err := r.do(c, entry{op: opRecv, addr: pointer(p), len: uint32(len(p))}, &memory, abort)
	return n, wrap("recv", err)
}

// RecvMsg is recvmsg(2): it also receives control messages into oob. Neither p
// nor oob may be empty. recvFlags are MSG_CTRUNC and so on.
func (r *Ring) RecvMsg(c syscall.RawConn, p, oob []byte, flags int, abort <-chan struct{}) (n, oobn, recvFlags int, err error) {
	p, oob = p[:min(len(p), most)], oob[:min(len(oob), most)]
	m := &message{vector: unix.Iovec{Base: &p[0]}}
	m.vector.SetLen(len(p))
	m.header = unix.Msghdr{Iov: &m.vector, Control: &oob[0]}
	m.header.SetIovlen(1)
	m.header.SetControllen(len(oob))
	var memory runtime.Pinner
	memory.Pin(m)
	memory.Pin(&p[0])
	memory.Pin(&oob[0])
	n, err = r.do(c, entry{op: opRecvmsg, addr: uint64(uintptr(unsafe.Pointer(&m.header))), len: 1, opFlags: uint32(flags)}, &memory, abort)
	if err != nil {
		return 0, 0, 0, wrap("recvmsg", err)
	}
	return n, min(int(m.header.Controllen), len(oob)), int(m.header.Flags), nil
}

// message is what RecvMsg points to: one object, which is pinned as one.
type message struct {
	header unix.Msghdr
	vector unix.Iovec
}

func pointer(p []byte) uint64 { return uint64(uintptr(unsafe.Pointer(unsafe.SliceData(p)))) }

func wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("io_uring %s: %w", op, err)
}

// sockaddr returns struct sockaddr_in or sockaddr_in6 (ip(7), ipv6(7)).
func sockaddr(a netip.AddrPort) ([]byte, error) {
	ip := a.Addr().Unmap()
	switch {
	case ip.Is4():
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET)
		b = binary.BigEndian.AppendUint16(b, a.Port())
		b = append(b, ip.AsSlice()...)
		return append(b, make([]byte, 8)...), nil
	case ip.Is6():
		scope, err := zone(ip.Zone())
		if err != nil {
			return nil, err
		}
		b := binary.NativeEndian.AppendUint16(nil, unix.AF_INET6)
		b = binary.BigEndian.AppendUint16(b, a.Port())
		b = append(b, 0, 0, 0, 0) // flow
		b = append(b, ip.AsSlice()...)
		return binary.NativeEndian.AppendUint32(b, scope), nil
	}
	return nil, fmt.Errorf("%v is not an address", a)
}

// zone returns the number of an IPv6 zone, which is a name or a number.
func zone(name string) (uint32, error) {
	if name == "" {
		return 0, nil
	}
	if i, err := net.InterfaceByName(name); err == nil {
		return uint32(i.Index), nil
	}
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("no interface %q", name)
	}
	return uint32(n), nil
}
