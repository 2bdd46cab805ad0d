// SPDX-License-Identifier: BSD-3-Clause

package upcall

import (
	"bytes"
	"encoding/hex"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
)

// The bytes that net/handshake accepts, written out once by hand
// (little endian).
func TestEncode(t *testing.T) {
	accept, err := encodeAccept(0x21, 5)
	if err != nil {
		t.Fatal(err)
	}
	want := "1c000000" + "2100" + "0100" + "05000000" + "00000000" + // nlmsghdr: REQUEST
		"02010000" + // genlmsghdr: ACCEPT, version 1
		"0800" + "0200" + "01000000" // HANDLER_CLASS = TLSHD
	if diff := cmp.Diff(want, hex.EncodeToString(accept)); diff != "" {
		t.Errorf("accept (-want +got):\n%s", diff)
	}
	done, err := encodeDone(0x21, 6, 9, 13, []uint32{0xffffffff})
	if err != nil {
		t.Fatal(err)
	}
	want = "2c000000" + "2100" + "0500" + "06000000" + "00000000" + // REQUEST|ACK
		"03010000" +
		"0800" + "0100" + "0d000000" + // STATUS = 13
		"0800" + "0200" + "09000000" + // SOCKFD = 9
		"0800" + "0300" + "ffffffff" // REMOTE_AUTH
	if diff := cmp.Diff(want, hex.EncodeToString(done)); diff != "" {
		t.Errorf("done (-want +got):\n%s", diff)
	}
}

func reply(t testing.TB, attrs func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	m, err := encode(0x21, cmdAccept, 1, 0, attrs)
	if err != nil {
		t.Fatal(err)
	}
	return m[headerLen:]
}

func TestDecodeAcceptRefuses(t *testing.T) {
	tests := []struct {
		name  string
		data  []byte
		hasFD bool // a descriptor has to come out all the same
	}{
		{"nothing", nil, false},
		{"another command", []byte{cmdReady, 1, 0, 0}, false},
		{"no socket", reply(t, func(ae *netlink.AttributeEncoder) { ae.Uint32(acceptMessageType, 1) }), false},
		{"a negative socket", reply(t, func(ae *netlink.AttributeEncoder) { ae.Int32(acceptSockFD, -3) }), false},
		{"a short role", reply(t, func(ae *netlink.AttributeEncoder) {
			ae.Int32(acceptSockFD, 7)
			ae.Bytes(acceptMessageType, []byte{1})
		}), true},
		{"a huge peer name", reply(t, func(ae *netlink.AttributeEncoder) {
			ae.Int32(acceptSockFD, 7)
			ae.Bytes(acceptPeerName, bytes.Repeat([]byte{'a'}, 5000))
		}), true},
		{"too many identities", reply(t, func(ae *netlink.AttributeEncoder) {
			ae.Int32(acceptSockFD, 7)
			for range maxIdentities + 1 {
				ae.Uint32(acceptPeerIdentity, 1)
			}
		}), true},
		{"a timeout of weeks", reply(t, func(ae *netlink.AttributeEncoder) {
			ae.Int32(acceptSockFD, 7)
			ae.Uint32(acceptTimeout, 0xffffffff)
		}), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := decodeAccept(tt.data)
			if err == nil {
				t.Fatal("accepted")
			}
			if (a.fd >= 0) != tt.hasFD {
				t.Errorf("descriptor %d", a.fd)
			}
		})
	}
}

// Newer kernels add attributes; they are passed over.
func TestDecodeAcceptIgnoresUnknownAttributes(t *testing.T) {
	a, err := decodeAccept(reply(t, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(77, 1)
		ae.Int32(acceptSockFD, 7)
		ae.String(acceptPeerName, "nfs")
	}))
	if err != nil || a.fd != 7 || a.PeerName != "nfs" {
		t.Errorf("%+v, %v", a, err)
	}
}

func FuzzDecodeAccept(f *testing.F) {
	f.Add(reply(f, func(ae *netlink.AttributeEncoder) {
		ae.Int32(acceptSockFD, 7)
		ae.Uint32(acceptMessageType, 1)
		ae.Nested(acceptCertificate, func(nae *netlink.AttributeEncoder) error { nae.Int32(x509Cert, 3); return nil })
		ae.String(acceptPeerName, "server.example")
	}))
	f.Add([]byte{2, 1, 0, 0, 4, 0, 1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAccept(b)
		if err == nil && a.fd < 0 {
			t.Error("no error and no socket")
		}
		if len(a.PeerName) > maxPeerName || len(a.KeyPairs) > maxKeyPairs+1 || len(a.PeerIdentities) > maxIdentities+1 {
			t.Error("out of bounds")
		}
	})
}

func FuzzMessage(f *testing.F) {
	m, _ := encodeAccept(1, 2)
	f.Add(m)
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := message(b)
		if err == nil && len(m.Data)+headerLen > len(b) {
			t.Error("data beyond the datagram")
		}
	})
}
