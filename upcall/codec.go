// SPDX-License-Identifier: BSD-3-Clause

package upcall

import (
	"errors"
	"fmt"
	"time"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/netlink"
)

// Bounds on what the kernel may say; each is far above what any kernel does.
const (
	maxPeerName   = 1 << 10 // bytes
	maxIdentities = 64
	maxKeyPairs   = 64
	maxTimeout    = 24 * time.Hour
)

// A KeyPair names an X.509 certificate and its private key by the serial
// numbers of keys in the kernel's key service. A serial of 0 is absent.
type KeyPair struct {
	Certificate int32
	PrivateKey  int32
}

// Attributes are what the kernel says of a request beside its socket.
type Attributes struct {
	Role           Role
	AuthMode       AuthMode
	PeerName       string        // as given to mount(8): DNS name or address literal; empty for servers
	Timeout        time.Duration // 0: the kernel named none
	KeyPairs       []KeyPair     // certificates the mount asks for
	PeerIdentities []uint32      // pre-shared keys' serials
	Keyring        uint32        // serial; 0: none
}

// accepted is a decoded ACCEPT reply.
type accepted struct {
	Attributes
	fd int
}

// errNoSocket: an ACCEPT reply without a descriptor, which no kernel sends.
var errNoSocket = errors.New("accept reply has no socket")

// encode frames one request of the family.
func encode(family uint16, cmd uint8, seq uint32, flags netlink.HeaderFlags, attrs func(*netlink.AttributeEncoder)) ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	gm, err := genetlink.Message{Header: genetlink.Header{Command: cmd, Version: familyVersion}, Data: data}.MarshalBinary()
	if err != nil {
		return nil, err
	}
	m := netlink.Message{
		Header: netlink.Header{
			Length:   uint32(headerLen + len(gm)),
			Type:     netlink.HeaderType(family),
			Flags:    netlink.Request | flags,
			Sequence: seq,
		},
		Data: gm,
	}
	return m.MarshalBinary()
}

// headerLen is sizeof(struct nlmsghdr).
const headerLen = 16

// encodeAccept frames an ACCEPT. It asks for no acknowledgement: the answer is
// either the reply or an error.
func encodeAccept(family uint16, seq uint32) ([]byte, error) {
	return encode(family, cmdAccept, seq, 0, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(acceptHandlerClass, classTLSHD)
	})
}

// encodeDone frames a DONE for the socket behind fd, to be acknowledged.
func encodeDone(family uint16, seq uint32, fd int, status uint32, auth []uint32) ([]byte, error) {
	return encode(family, cmdDone, seq, netlink.Acknowledge, func(ae *netlink.AttributeEncoder) {
		ae.Uint32(doneStatus, status)
		ae.Int32(doneSockFD, int32(fd))
		for _, a := range auth {
			ae.Uint32(doneRemoteAuth, a)
		}
	})
}

// decodeAccept parses the generic netlink part of an ACCEPT reply. When err is
// not nil but the reply named a socket, fd is valid and owned by the caller;
// otherwise fd is -1. Unknown attributes are passed over: newer kernels add
// some.
func decodeAccept(data []byte) (a accepted, err error) {
	a.fd = -1
	var m genetlink.Message
	if err := m.UnmarshalBinary(data); err != nil {
		return a, fmt.Errorf("decode accept reply: %w", err)
	}
	if m.Header.Command != cmdAccept {
		return a, fmt.Errorf("decode accept reply: command %d", m.Header.Command)
	}
	ad, err := netlink.NewAttributeDecoder(m.Data)
	if err != nil {
		return a, fmt.Errorf("decode accept reply: %w", err)
	}
	var bound error
	for ad.Next() {
		switch ad.Type() {
		case acceptSockFD:
			// A value that is none must not read as descriptor 0, and a second
			// one not hide the first.
			if fd := ad.Int32(); fd >= 0 && a.fd < 0 && ad.Err() == nil {
				a.fd = int(fd)
			}
		case acceptMessageType:
			a.Role = Role(ad.Uint32())
		case acceptAuthMode:
			a.AuthMode = AuthMode(ad.Uint32())
		case acceptTimeout:
			a.Timeout = time.Duration(ad.Uint32()) * time.Millisecond
			if a.Timeout > maxTimeout {
				bound = fmt.Errorf("timeout of %v", a.Timeout)
			}
		case acceptPeerIdentity:
			a.PeerIdentities = append(a.PeerIdentities, ad.Uint32())
			if len(a.PeerIdentities) > maxIdentities {
				return a, fmt.Errorf("decode accept reply: over %d peer identities", maxIdentities)
			}
		case acceptCertificate:
			ad.Nested(func(nad *netlink.AttributeDecoder) error {
				var k KeyPair
				for nad.Next() {
					switch nad.Type() {
					case x509Cert:
						k.Certificate = nad.Int32()
					case x509PrivKey:
						k.PrivateKey = nad.Int32()
					}
				}
				a.KeyPairs = append(a.KeyPairs, k)
				if len(a.KeyPairs) > maxKeyPairs {
					return fmt.Errorf("over %d certificates", maxKeyPairs)
				}
				return nil
			})
		case acceptPeerName:
			a.PeerName = ad.String()
			if len(a.PeerName) > maxPeerName {
				bound = fmt.Errorf("peer name of %d bytes", len(a.PeerName))
				a.PeerName = ""
			}
		case acceptKeyring:
			a.Keyring = ad.Uint32()
		}
	}
	switch err := ad.Err(); {
	case err != nil:
		return a, fmt.Errorf("decode accept reply: %w", err)
	case bound != nil:
		return a, fmt.Errorf("decode accept reply: %w", bound)
	case a.fd < 0:
		return a, errNoSocket
	}
	return a, nil
}
