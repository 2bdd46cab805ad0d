// SPDX-License-Identifier: BSD-3-Clause

package handover

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"rpctls/upcall"
)

// The packet, all numbers in network order:
//
//	 0  u32  magic "RTLH"
//	 4  u16  version
//	 6  u16  length of the packet
//	 8  u32  role
//	12  u32  authentication mode
//	16  u32  timeout, milliseconds
//	20  u32  keyring
//	24  u64  deadline, nanoseconds of CLOCK_MONOTONIC
//	32  u16  number of key pairs
//	34  u16  number of peer identities
//	36  u16  length of the peer name
//	38  u16  zero
//	40  key pairs (2 x s32 each), peer identities (u32 each), peer name
//
// The deadline is absolute, since a packet may lie in a queue for a while.
const (
	magic     = 0x52544c48
	version   = 1
	headerLen = 40

	maxPairs      = 64
	maxIdentities = 64
	maxName       = 1 << 10
	maxPacket     = headerLen + maxPairs*8 + maxIdentities*4 + maxName
	maxMillis     = 24 * 60 * 60 * 1000
)

// The answer: magic, version, verdict.
const answerLen = 8

const (
	verdictTaken uint16 = 1
	verdictBusy  uint16 = 2
)

// errPacket is the root of every decoding error.
var errPacket = errors.New("malformed hand-over packet")

// request is what a packet says.
type request struct {
	upcall.Attributes
	deadline uint64 // nanoseconds of CLOCK_MONOTONIC
}

func (r request) encode() ([]byte, error) {
	if len(r.KeyPairs) > maxPairs || len(r.PeerIdentities) > maxIdentities || len(r.PeerName) > maxName ||
		r.Timeout < 0 || r.Timeout.Milliseconds() > maxMillis {
		return nil, errors.New("hand-over: request is out of bounds")
	}
	b := make([]byte, headerLen, maxPacket)
	be := binary.BigEndian
	be.PutUint32(b, magic)
	be.PutUint16(b[4:], version)
	be.PutUint32(b[8:], uint32(r.Role))
	be.PutUint32(b[12:], uint32(r.AuthMode))
	be.PutUint32(b[16:], uint32(r.Timeout.Milliseconds()))
	be.PutUint32(b[20:], r.Keyring)
	be.PutUint64(b[24:], r.deadline)
	be.PutUint16(b[32:], uint16(len(r.KeyPairs)))
	be.PutUint16(b[34:], uint16(len(r.PeerIdentities)))
	be.PutUint16(b[36:], uint16(len(r.PeerName)))
	for _, k := range r.KeyPairs {
		b = be.AppendUint32(b, uint32(k.Certificate))
		b = be.AppendUint32(b, uint32(k.PrivateKey))
	}
	for _, id := range r.PeerIdentities {
		b = be.AppendUint32(b, id)
	}
	b = append(b, r.PeerName...)
	be.PutUint16(b[6:], uint16(len(b)))
	return b, nil
}

func decode(b []byte) (request, error) {
	var r request
	be := binary.BigEndian
	if len(b) < headerLen || be.Uint32(b) != magic {
		return r, fmt.Errorf("%w: no header", errPacket)
	}
	if v := be.Uint16(b[4:]); v != version {
		return r, fmt.Errorf("%w: version %d, want %d: are both daemons of one release?", errPacket, v, version)
	}
	pairs, ids, name := int(be.Uint16(b[32:])), int(be.Uint16(b[34:])), int(be.Uint16(b[36:]))
	if pairs > maxPairs || ids > maxIdentities || name > maxName {
		return r, fmt.Errorf("%w: counts out of bounds", errPacket)
	}
	if len(b) != headerLen+pairs*8+ids*4+name || int(be.Uint16(b[6:])) != len(b) || be.Uint16(b[38:]) != 0 {
		return r, fmt.Errorf("%w: length", errPacket)
	}
	timeout := be.Uint32(b[16:])
	if timeout > maxMillis {
		return r, fmt.Errorf("%w: time out of bounds", errPacket)
	}
	r.Role = upcall.Role(be.Uint32(b[8:]))
	r.AuthMode = upcall.AuthMode(be.Uint32(b[12:]))
	r.Timeout = time.Duration(timeout) * time.Millisecond
	r.Keyring = be.Uint32(b[20:])
	r.deadline = be.Uint64(b[24:])
	b = b[headerLen:]
	for ; pairs > 0; pairs-- {
		r.KeyPairs = append(r.KeyPairs, upcall.KeyPair{Certificate: int32(be.Uint32(b)), PrivateKey: int32(be.Uint32(b[4:]))})
		b = b[8:]
	}
	for ; ids > 0; ids-- {
		r.PeerIdentities = append(r.PeerIdentities, be.Uint32(b))
		b = b[4:]
	}
	r.PeerName = string(b)
	return r, nil
}

func encodeAnswer(verdict uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, magic)
	b = binary.BigEndian.AppendUint16(b, version)
	return binary.BigEndian.AppendUint16(b, verdict)
}

func decodeAnswer(b []byte) (verdict uint16, err error) {
	if len(b) != answerLen || binary.BigEndian.Uint32(b) != magic || binary.BigEndian.Uint16(b[4:]) != version {
		return 0, fmt.Errorf("%w: answer", errPacket)
	}
	return binary.BigEndian.Uint16(b[6:]), nil
}
