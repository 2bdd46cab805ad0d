// SPDX-License-Identifier: BSD-3-Clause

package upcall

import "fmt"

// The family (include/uapi/linux/handshake.h).
const (
	familyName    = "handshake"
	familyVersion = 1
	groupName     = "tlshd"
)

// Commands.
const (
	cmdReady  = 1
	cmdAccept = 2
	cmdDone   = 3
)

// Attributes of ACCEPT.
const (
	acceptSockFD       = 1 // s32
	acceptHandlerClass = 2 // u32
	acceptMessageType  = 3 // u32
	acceptTimeout      = 4 // u32, milliseconds
	acceptAuthMode     = 5 // u32
	acceptPeerIdentity = 6 // u32, repeated
	acceptCertificate  = 7 // nest, repeated
	acceptPeerName     = 8 // NUL-terminated string
	acceptKeyring      = 9 // u32
)

// Attributes inside acceptCertificate.
const (
	x509Cert    = 1 // s32
	x509PrivKey = 2 // s32
)

// Attributes of DONE.
const (
	doneStatus     = 1 // u32, a positive errno, at most maxStatus
	doneSockFD     = 2 // s32
	doneRemoteAuth = 3 // u32, repeated
)

const (
	classTLSHD = 1    // HANDSHAKE_HANDLER_CLASS_TLSHD
	maxStatus  = 4095 // MAX_ERRNO
)

// A Role is the part this host plays in the handshake
// (HANDSHAKE_MSG_TYPE_*).
type Role uint32

// The roles the kernel asks for.
const (
	Client Role = 1 // HANDSHAKE_MSG_TYPE_CLIENTHELLO: send a ClientHello
	Server Role = 2 // HANDSHAKE_MSG_TYPE_SERVERHELLO: wait for one
)

// String returns "client" or "server", or "role(N)".
func (r Role) String() string {
	switch r {
	case Client:
		return "client"
	case Server:
		return "server"
	}
	return fmt.Sprintf("role(%d)", uint32(r))
}

// An AuthMode says how this host shall authenticate itself
// (HANDSHAKE_AUTH_*).
type AuthMode uint32

// The authentication modes.
const (
	Unspecified     AuthMode = 0
	Unauthenticated AuthMode = 1 // a client without a certificate
	PreSharedKey    AuthMode = 2
	X509            AuthMode = 3
)

// String returns the mode's name, or "auth(N)".
func (m AuthMode) String() string {
	switch m {
	case Unspecified:
		return "unspecified"
	case Unauthenticated:
		return "unauthenticated"
	case PreSharedKey:
		return "psk"
	case X509:
		return "x509"
	}
	return fmt.Sprintf("auth(%d)", uint32(m))
}
