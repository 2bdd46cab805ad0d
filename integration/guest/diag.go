// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Numbers of sock_diag (include/uapi/linux/sock_diag.h, inet_diag.h, tls.h)
// that golang.org/x/sys does not have.
const (
	sockDiagByFamily = 20

	diagULPInfo  = 19 // INET_DIAG_ULP_INFO
	ulpInfoTLS   = 2  // INET_ULP_INFO_TLS
	tlsInfoCiph  = 2  // TLS_INFO_CIPHER
	diagMsgLen   = 72 // struct inet_diag_msg
	tcpEstablish = 1
)

// A DiagSocket is a connection with kernel TLS, as sock_diag has it.
type DiagSocket struct {
	Local, Peer netip.AddrPort
	Cipher      uint16 // TLS_CIPHER_* of include/uapi/linux/tls.h
}

// DiagTLS returns the host's established connections with kernel TLS to a
// remote port, by the kernel's own statement: ss leaves out ciphers that it
// has no name for.
func DiagTLS(t testing.TB, h *Host, port uint16) []DiagSocket {
	t.Helper()
	LoadModule(t, "tcp_diag")
	var found []DiagSocket
	var err error
	derr := h.Do(func() {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			var more []DiagSocket
			if more, err = dumpTLS(family, port); err != nil {
				return
			}
			found = append(found, more...)
		}
	})
	if derr != nil || err != nil {
		t.Fatalf("sock_diag: %v, %v", derr, err)
	}
	return found
}

func dumpTLS(family byte, port uint16) ([]DiagSocket, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	// struct inet_diag_req_v2: family, protocol, extensions, states, socket.
	req := make([]byte, 56)
	req[0], req[1], req[2] = family, unix.IPPROTO_TCP, 0xff
	binary.NativeEndian.PutUint32(req[4:], 1<<tcpEstablish)
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: sockDiagByFamily, Flags: netlink.Request | netlink.Dump}, Data: req,
	})
	if err != nil {
		return nil, err
	}
	var found []DiagSocket
	for _, m := range replies {
		if len(m.Data) < diagMsgLen {
			return nil, fmt.Errorf("reply of %d bytes", len(m.Data))
		}
		s := DiagSocket{
			Local: diagAddr(family, m.Data[8:24], m.Data[4:6]),
			Peer:  diagAddr(family, m.Data[24:40], m.Data[6:8]),
		}
		if s.Peer.Port() != port {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[diagMsgLen:])
		if err != nil {
			return nil, err
		}
		for ad.Next() {
			if ad.Type() != diagULPInfo {
				continue
			}
			ad.Nested(func(ulp *netlink.AttributeDecoder) error {
				for ulp.Next() {
					if ulp.Type() != ulpInfoTLS {
						continue
					}
					ulp.Nested(func(info *netlink.AttributeDecoder) error {
						for info.Next() {
							if info.Type() == tlsInfoCiph {
								s.Cipher = info.Uint16()
							}
						}
						return nil
					})
				}
				return nil
			})
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
		if s.Cipher != 0 {
			found = append(found, s)
		}
	}
	return found, nil
}

func diagAddr(family byte, addr, port []byte) netip.AddrPort {
	a := netip.AddrFrom16([16]byte(addr))
	if family == unix.AF_INET {
		a = netip.AddrFrom4([4]byte(addr))
	}
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}
