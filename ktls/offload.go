// SPDX-License-Identifier: BSD-3-Clause

package ktls

import "errors"

// Offload says which directions of a [Conn] the kernel carries.
type Offload struct {
	TX Direction // what this side sends
	RX Direction // what this side receives
}

// A Direction is one direction of a session.
type Direction struct {
	Kernel bool
	// Reason is why not; nil when Kernel. It is an *[InstallError] when the
	// kernel was asked.
	Reason error
}

// neither says that crypto/tls carries both directions.
func neither(reason error) Offload {
	return Offload{TX: Direction{Reason: reason}, RX: Direction{Reason: reason}}
}

// Errors of [Handshake], and reasons of a [Direction].
var (
	// ErrLeftover: bytes past the last handshake record were in user space,
	// where the kernel cannot get them.
	ErrLeftover = errors.New("bytes beyond the handshake were read")
	// ErrCipher: the suite agreed on is not one the kernel can take over.
	ErrCipher = errors.New("cipher suite has no kernel counterpart")
)

// Errors of a [Conn], for errors.Is.
var (
	// ErrOffload: the kernel does not carry both directions, and
	// [RequireOffload] asked for it. The error says why.
	ErrOffload = errors.New("kernel does not carry the session")

	// ErrRekey: new keys are needed and cannot be had: the session is not TLS
	// 1.3, the kernel cannot replace keys (Linux before 6.14), or crypto/tls
	// carries the session and offers no way to ask for it.
	ErrRekey = errors.New("keys cannot be replaced")

	// ErrKeyLimit: so much has been sent under one AES-GCM key that more would
	// not be safe (2^24.5 full records or, in smaller ones, as many blocks of
	// AES; RFC 8446 section 5.5), and the keys cannot be replaced. After
	// [Conn.SyscallConn] every record counts as full. The connection can be read
	// from and closed.
	ErrKeyLimit = errors.New("as many records were sent as the key is good for")
)

// Reasons of a [Direction].
var (
	errNotTried    = errors.New("not tried: the handshake has not been made")
	errNotWanted   = errors.New("not wanted: NoOffload")
	errUnsupported = errors.New("no kernel TLS on this operating system")
	errNotTCP      = errors.New("not a *net.TCPConn")
)
