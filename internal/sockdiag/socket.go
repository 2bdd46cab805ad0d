// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sockdiag

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers that golang.org/x/sys does not have.
const (
	// include/uapi/linux/inet_diag.h
	requestLen = 56 // struct inet_diag_req_v2
	messageLen = 72 // struct inet_diag_msg
	attrInfo   = 2  // INET_DIAG_INFO, struct tcp_info
	attrULP    = 19 // INET_DIAG_ULP_INFO
	ulpName    = 1  // INET_ULP_INFO_NAME
	ulpTLS     = 2  // INET_ULP_INFO_TLS

	// include/uapi/linux/tls.h
	tlsVersion = 1 // TLS_INFO_VERSION, u16
	tlsCipher  = 2 // TLS_INFO_CIPHER, u16
	tlsTX      = 3 // TLS_INFO_TXCONF, u16
	tlsRX      = 4 // TLS_INFO_RXCONF, u16

	// Offsets in struct tcp_info (include/uapi/linux/tcp.h).
	infoBytesAcked    = 120
	infoBytesReceived = 128
	infoLen           = 136 // as far as it is read
)

// A State is the state of a TCP connection (include/net/tcp_states.h).
type State uint8

// Established is the state of a connection that carries data both ways.
const Established State = unix.BPF_TCP_ESTABLISHED

// The states of a connection that is not just a memory of one or a listener:
// those that can have kernel TLS.
const connections = 1<<unix.BPF_TCP_ESTABLISHED | 1<<unix.BPF_TCP_FIN_WAIT1 | 1<<unix.BPF_TCP_FIN_WAIT2 |
	1<<unix.BPF_TCP_CLOSE_WAIT | 1<<unix.BPF_TCP_LAST_ACK | 1<<unix.BPF_TCP_CLOSING

var states = map[State]string{
	unix.BPF_TCP_ESTABLISHED: "established", unix.BPF_TCP_SYN_SENT: "syn-sent", unix.BPF_TCP_SYN_RECV: "syn-recv",
	unix.BPF_TCP_FIN_WAIT1: "fin-wait-1", unix.BPF_TCP_FIN_WAIT2: "fin-wait-2", unix.BPF_TCP_TIME_WAIT: "time-wait",
	unix.BPF_TCP_CLOSE: "closed", unix.BPF_TCP_CLOSE_WAIT: "close-wait", unix.BPF_TCP_LAST_ACK: "last-ack",
	unix.BPF_TCP_LISTEN: "listen", unix.BPF_TCP_CLOSING: "closing",
}

// String returns the state in ss's words.
func (s State) String() string {
	if t, ok := states[s]; ok {
		return t
	}
	return "state " + strconv.Itoa(int(s))
}

// An ID names one socket for as long as the host runs: no other gets its cookie,
// and the addresses are how the kernel finds it.
type ID struct {
	Local  netip.AddrPort `json:"local"`
	Remote netip.AddrPort `json:"remote"`
	// Interface is the index of the one that the socket is bound to, or 0.
	Interface uint32 `json:"interface,omitempty"`
	Cookie    uint64 `json:"cookie"` // SO_COOKIE; never 0
}

// Check refuses what cannot be the name of a TCP connection.
func (id ID) Check() error {
	switch {
	case !id.Local.IsValid() || !id.Remote.IsValid():
		return fmt.Errorf("no addresses: %v, %v", id.Local, id.Remote)
	case id.Local.Addr().Unmap().Is4() != id.Remote.Addr().Unmap().Is4():
		return fmt.Errorf("addresses of two families: %v, %v", id.Local, id.Remote)
	case id.Cookie == 0 || id.Cookie == noCookie:
		return fmt.Errorf("no cookie: %#x", id.Cookie)
	}
	return nil
}

// noCookie is the kernel's word for any socket (INET_DIAG_NOCOOKIE): never sent.
const noCookie = 1<<64 - 1

// A Mode is how the kernel does one direction of TLS.
type Mode uint16

// The modes (TLS_CONF_*).
const (
	Base     Mode = 1 // no keys
	Software Mode = 2
	Hardware Mode = 3
	Record   Mode = 4 // the card does all of TLS
)

// String returns the mode in ss's words.
func (m Mode) String() string {
	switch m {
	case Base:
		return "none"
	case Software:
		return "sw"
	case Hardware:
		return "hw"
	case Record:
		return "hw-record"
	}
	return "unknown"
}

// A TLS is the state of kernel TLS on a socket. What is not set up is zero.
type TLS struct {
	Version uint16 // 0x0304 is TLS 1.3
	Cipher  uint16 // TLS_CIPHER_* of include/uapi/linux/tls.h
	TX, RX  Mode
}

// A Socket is a TCP connection.
type Socket struct {
	ID
	State State
	UID   uint32 // whose it is; 0 for the kernel's
	Inode uint32
	// TLS is nil without kernel TLS, and if one may not know.
	TLS *TLS
	// Of the connection's payload, which with kernel TLS are records:
	// acknowledged by the peer, and received. 0 if the kernel did not say.
	Acked, Received uint64
}

// parse reads struct inet_diag_msg and what follows.
func parse(b []byte) (s Socket, err error) {
	if len(b) < messageLen {
		return s, fmt.Errorf("a socket in %d bytes, want %d", len(b), messageLen)
	}
	family := b[0]
	if s.Local, err = addrPort(family, b[8:24], b[4:6]); err != nil {
		return Socket{}, err
	}
	if s.Remote, err = addrPort(family, b[24:40], b[6:8]); err != nil {
		return Socket{}, err
	}
	s.State = State(b[1])
	s.Interface = binary.NativeEndian.Uint32(b[40:])
	s.Cookie = uint64(binary.NativeEndian.Uint32(b[44:])) | uint64(binary.NativeEndian.Uint32(b[48:]))<<32
	s.UID = binary.NativeEndian.Uint32(b[64:])
	s.Inode = binary.NativeEndian.Uint32(b[68:])
	s.Local, s.Remote = zoned(s.Local, s.Interface), zoned(s.Remote, s.Interface)
	d, err := netlink.NewAttributeDecoder(b[messageLen:])
	if err != nil {
		return Socket{}, fmt.Errorf("a socket's attributes: %w", err)
	}
	for d.Next() {
		switch d.Type() {
		case attrInfo:
			// A shorter one is an older kernel's.
			if info := d.Bytes(); len(info) >= infoLen {
				s.Acked = binary.NativeEndian.Uint64(info[infoBytesAcked:])
				s.Received = binary.NativeEndian.Uint64(info[infoBytesReceived:])
			}
		case attrULP:
			d.Nested(s.ulp)
		}
	}
	if err := d.Err(); err != nil {
		return Socket{}, fmt.Errorf("a socket's attributes: %w", err)
	}
	return s, nil
}

func (s *Socket) ulp(d *netlink.AttributeDecoder) error {
	name := ""
	var info *TLS
	for d.Next() {
		switch d.Type() {
		case ulpName:
			name = d.String()
		case ulpTLS:
			info = new(TLS)
			d.Nested(info.parse)
		}
	}
	if name == "tls" {
		s.TLS = info
		if info == nil { // the socket has the ULP and no keys
			s.TLS = new(TLS)
		}
	}
	return d.Err()
}

func (t *TLS) parse(d *netlink.AttributeDecoder) error {
	for d.Next() {
		switch d.Type() {
		case tlsVersion:
			t.Version = d.Uint16()
		case tlsCipher:
			t.Cipher = d.Uint16()
		case tlsTX:
			t.TX = Mode(d.Uint16())
		case tlsRX:
			t.RX = Mode(d.Uint16())
		}
	}
	return d.Err()
}

// addrPort decodes an address; IPv4 in IPv6's form becomes IPv4.
func addrPort(family byte, addr, port []byte) (netip.AddrPort, error) {
	var a netip.Addr
	switch family {
	case unix.AF_INET:
		a = netip.AddrFrom4([4]byte(addr[:4]))
	case unix.AF_INET6:
		a = netip.AddrFrom16([16]byte(addr)).Unmap()
	default:
		return netip.AddrPort{}, fmt.Errorf("a socket of family %d", family)
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port)), nil
}

// zoned gives a link-local address its zone, in the form that getpeername(2)'s
// has in package upcall.
func zoned(a netip.AddrPort, index uint32) netip.AddrPort {
	if index == 0 || !a.Addr().Is6() || !a.Addr().IsLinkLocalUnicast() {
		return a
	}
	return netip.AddrPortFrom(a.Addr().WithZone(strconv.FormatUint(uint64(index), 10)), a.Port())
}

// request is struct inet_diag_req_v2.
func request(family byte, states uint32, id ID) []byte {
	b := make([]byte, requestLen)
	b[0], b[1], b[2] = family, unix.IPPROTO_TCP, 1<<(attrInfo-1)
	binary.NativeEndian.PutUint32(b[4:], states)
	if !id.Local.IsValid() {
		return b
	}
	putAddrPort(b[12:28], b[8:10], id.Local)
	putAddrPort(b[28:44], b[10:12], id.Remote)
	binary.NativeEndian.PutUint32(b[44:], id.Interface)
	binary.NativeEndian.PutUint32(b[48:], uint32(id.Cookie))
	binary.NativeEndian.PutUint32(b[52:], uint32(id.Cookie>>32))
	return b
}

func putAddrPort(addr, port []byte, a netip.AddrPort) {
	copy(addr, a.Addr().Unmap().AsSlice())
	binary.BigEndian.PutUint16(port, a.Port())
}
