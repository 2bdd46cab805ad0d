// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall

import (
	"bytes"
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// encodeReply is what the kernel would say of a (net/handshake/tlshd.c).
func encodeReply(t testing.TB, a accepted) []byte {
	return reply(t, func(ae *netlink.AttributeEncoder) {
		ae.Int32(acceptSockFD, int32(a.fd))
		ae.Uint32(acceptMessageType, uint32(a.Role))
		ae.Uint32(acceptTimeout, uint32(a.Timeout.Milliseconds()))
		ae.Uint32(acceptAuthMode, uint32(a.AuthMode))
		for _, id := range a.PeerIdentities {
			ae.Uint32(acceptPeerIdentity, id)
		}
		for _, k := range a.KeyPairs {
			ae.Nested(acceptCertificate, func(nae *netlink.AttributeEncoder) error {
				nae.Int32(x509Cert, k.Certificate)
				nae.Int32(x509PrivKey, k.PrivateKey)
				return nil
			})
		}
		ae.String(acceptPeerName, a.PeerName)
		ae.Uint32(acceptKeyring, a.Keyring)
	})
}

// namesSocket reports whether a reply holds a well-formed descriptor attribute
// of that number: what decodeAccept says its caller owns, and closes.
func namesSocket(b []byte, fd int) bool {
	const genlHeader = 4
	for b = b[min(genlHeader, len(b)):]; len(b) >= 4; {
		n := int(binary.NativeEndian.Uint16(b))
		if n == 0 {
			n = 4 // package netlink passes over the header
		}
		if n < 4 || n > len(b) {
			return false
		}
		if binary.NativeEndian.Uint16(b[2:])&0x3fff == acceptSockFD && n == 8 && int(int32(binary.NativeEndian.Uint32(b[4:]))) == fd {
			return true
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return false
}

// FuzzAccept: a reply that decodes says the same when it is encoded again, and
// no descriptor is made up, which its owner would close.
func FuzzAccept(f *testing.F) {
	full := accepted{fd: 7, Attributes: Attributes{
		Role: Server, AuthMode: X509, PeerName: "nfs.example.com", Timeout: 5 * time.Second,
		KeyPairs: []KeyPair{{1, -2}, {}}, PeerIdentities: []uint32{3, 4}, Keyring: 5,
	}}
	f.Add(encodeReply(f, full))
	f.Add(encodeReply(f, accepted{}))
	f.Add([]byte{cmdAccept, 1, 0, 0, 4, 0, acceptSockFD, 0})
	f.Add(reply(f, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(77, 1)
		ae.Int32(acceptSockFD|unix.NLA_F_NET_BYTEORDER, 7)
		ae.Int32(acceptSockFD, 8)
	}))
	f.Add(reply(f, func(ae *netlink.AttributeEncoder) {
		ae.Int32(acceptSockFD, 7)
		ae.Bytes(acceptMessageType, []byte{1})
	}))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAccept(b)
		if a.fd >= 0 && !namesSocket(b, a.fd) {
			t.Errorf("descriptor %d is not in %x", a.fd, b)
		}
		if err != nil {
			return
		}
		again, err := decodeAccept(encodeReply(t, a))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(a, again, cmp.AllowUnexported(accepted{})); diff != "" {
			t.Errorf("encoded and decoded (-want +got):\n%s", diff)
		}
	})
}

// FuzzMessageAgain: a message that decodes encodes to the same bytes.
func FuzzMessageAgain(f *testing.F) {
	for _, encode := range []func() ([]byte, error){
		func() ([]byte, error) { return encodeAccept(0x21, 2) },
		func() ([]byte, error) { return encodeDone(0x21, 3, -1, maxStatus, []uint32{1, 2}) },
	} {
		m, err := encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(m)
		f.Add(append(m, m...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := message(b)
		if err != nil {
			return
		}
		n := int(m.Header.Length)
		if n%4 != 0 {
			return // netlink.Message cannot say it
		}
		again, err := m.MarshalBinary()
		if err != nil || !bytes.Equal(b[:n], again) {
			t.Errorf("%x decoded and encoded is %x, %v", b, again, err)
		}
	})
}

// FuzzAnswers lets the kernel answer an ACCEPT and a DONE with any datagrams,
// the last of which closes the socket: each call returns.
func FuzzAnswers(f *testing.F) {
	const family, seq = 0x21, 1
	message := func(typ netlink.HeaderType, seq uint32, data []byte) []byte {
		b, err := netlink.Message{Header: netlink.Header{Length: uint32(headerLen + len(data)), Type: typ, Sequence: seq}, Data: data}.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	accept := message(family, seq, encodeReply(f, accepted{fd: 7}))
	f.Add(accept, []byte(nil))
	f.Add(message(family, seq+1, nil), accept)
	f.Add(message(netlink.Error, seq, []byte{0xf5, 0xff, 0xff, 0xff}), []byte(nil))
	f.Add(message(netlink.Error, seq, make([]byte, 4)), []byte(nil))
	f.Add(message(netlink.Error, seq, []byte{5, 0, 0, 0}), []byte(nil))
	f.Add(message(netlink.Error, seq, nil), accept)
	f.Fuzz(func(t *testing.T, first, second []byte) {
		for _, call := range []func(*Link) (int, error){
			func(l *Link) (int, error) {
				a, err := l.acceptOne(seq, make([]byte, replyLen))
				return a.fd, err
			},
			func(l *Link) (int, error) { return -1, l.sendDone(3, 0, nil) },
		} {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range [][]byte{first, second} {
				if len(b) > 0 && len(b) <= replyLen {
					if _, err := unix.Write(pair[1], b); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := unix.Shutdown(pair[1], unix.SHUT_WR); err != nil {
				t.Fatal(err)
			}
			link := NewLink(family, -1, pair[0], pair[0])
			fd, err := call(link)
			if fd >= 0 && !namesSocket(first[min(headerLen, len(first)):], fd) && !namesSocket(second[min(headerLen, len(second)):], fd) {
				t.Errorf("descriptor %d from %x and %x, with error %v", fd, first, second, err)
			}
			unix.Close(pair[0])
			unix.Close(pair[1])
		}
	})
}
