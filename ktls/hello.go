// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"encoding/binary"
	"errors"
)

// The handshake messages that this package looks at (RFC 8446 section 4, RFC
// 5246 section 7.4).
const (
	messageHelloRequest     = 0
	messageClientHello      = 1
	messageServerHello      = 2
	messageNewSessionTicket = 4
	messageKeyUpdate        = 24

	messageHeaderLen = 4
	randomLen        = 32
	sessionIDLen     = 32
	// helloLen is as much of a hello as is looked at: everything up to the
	// ServerHello's cipher suite.
	helloLen = messageHeaderLen + 2 + randomLen + 1 + sessionIDLen + 2
)

var errHello = errors.New("hello cannot be read")

// A hello is the head of a ClientHello or ServerHello, which both versions
// have in common (RFC 8446 section 4.1).
type hello struct {
	random [randomLen]byte
	// suite is the ServerHello's; a ClientHello has many.
	suite uint16
}

// parseHello reads the head of a hello message of the given type. The message
// may be cut off after helloLen bytes.
func parseHello(typ byte, b []byte) (h hello, err error) {
	if len(b) < messageHeaderLen+2+randomLen+1 || b[0] != typ {
		return h, errHello
	}
	size := messageHeaderLen + int(b[1])<<16 + int(binary.BigEndian.Uint16(b[2:]))
	if size < len(b) {
		b = b[:size]
	}
	rest := b[messageHeaderLen:]
	// The version of both is at most TLS 1.2's: newer ones are in an extension.
	if len(rest) < 2+randomLen+1 || rest[0] != 3 || rest[1] > 3 {
		return h, errHello
	}
	copy(h.random[:], rest[2:])
	rest = rest[2+randomLen:]
	id := int(rest[0])
	if id > sessionIDLen || len(rest) < 1+id {
		return h, errHello
	}
	if typ == messageServerHello {
		if len(rest) < 1+id+2 {
			return h, errHello
		}
		h.suite = binary.BigEndian.Uint16(rest[1+id:])
	}
	return h, nil
}

// A helloTap collects the head of the first handshake message that passes in
// one direction.
type helloTap []byte

// add takes part of the body of a record of the handshake.
func (t *helloTap) add(body []byte) {
	if left := helloLen - len(*t); left > 0 {
		*t = append(*t, body[:min(left, len(body))]...)
	}
}
