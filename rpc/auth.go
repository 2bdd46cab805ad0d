// SPDX-License-Identifier: BSD-3-Clause

package rpc

import "fmt"

// AuthFlavor is auth_flavor of RFC 5531 section 8.2. Values without a constant
// are valid: IANA hands out more.
type AuthFlavor uint32

// Values of AuthFlavor.
const (
	AuthNone  AuthFlavor = 0 // RFC 5531 section 10.1
	AuthSys   AuthFlavor = 1 // RFC 5531 appendix A
	AuthShort AuthFlavor = 2 // RFC 5531 appendix A
	RPCSecGSS AuthFlavor = 6 // RFC 2203
	AuthTLS   AuthFlavor = 7 // RFC 9289 section 4.1
)

// String returns the name in the RFC that defines the flavor.
func (f AuthFlavor) String() string {
	return enumName("auth_flavor", uint32(f),
		"AUTH_NONE", "AUTH_SYS", "AUTH_SHORT", "AUTH_DH", "AUTH_KERB", "AUTH_RSA", "RPCSEC_GSS", "AUTH_TLS")
}

// Bounds of RFC 5531 section 8.2 and appendix A.
const (
	MaxAuthBody    = 400 // bytes of an opaque_auth body
	MaxMachineName = 255 // bytes
	MaxGIDs        = 16
)

// OpaqueAuth is opaque_auth of RFC 5531 section 8.2, a credential or a
// verifier. The zero value is an AUTH_NONE one.
type OpaqueAuth struct {
	Flavor AuthFlavor
	Body   []byte // at most MaxAuthBody bytes; nil when empty
}

func (d *Decoder) opaqueAuth() OpaqueAuth {
	return OpaqueAuth{Flavor: AuthFlavor(d.Uint32()), Body: d.Opaque(MaxAuthBody)}
}

func (e *Encoder) opaqueAuth(a OpaqueAuth) {
	e.Uint32(uint32(a.Flavor))
	e.Opaque(a.Body, MaxAuthBody)
}

// AuthSysParms is authsys_parms of RFC 5531 appendix A: who a caller claims to
// be.
type AuthSysParms struct {
	Stamp       uint32 // arbitrary
	MachineName string // at most MaxMachineName bytes
	UID, GID    uint32
	GIDs        []uint32 // supplementary groups, at most MaxGIDs; nil when empty
}

// Cred returns the credential. It fails when a bound of RFC 5531 is exceeded.
func (p *AuthSysParms) Cred() (OpaqueAuth, error) {
	e := NewEncoder(nil)
	e.Uint32(p.Stamp)
	e.String(p.MachineName, MaxMachineName)
	e.Uint32(p.UID)
	e.Uint32(p.GID)
	if len(p.GIDs) > MaxGIDs {
		e.fail(fmt.Errorf("%d groups, at most %d", len(p.GIDs), MaxGIDs))
	}
	e.Uint32(uint32(len(p.GIDs)))
	for _, gid := range p.GIDs {
		e.Uint32(gid)
	}
	body, err := e.Bytes()
	if err != nil {
		return OpaqueAuth{}, fmt.Errorf("encode authsys_parms: %w", err)
	}
	return OpaqueAuth{Flavor: AuthSys, Body: body}, nil
}

// ParseAuthSys decodes an AUTH_SYS credential. Errors match ErrProtocol.
func ParseAuthSys(cred OpaqueAuth) (*AuthSysParms, error) {
	d := NewDecoder(cred.Body)
	if cred.Flavor != AuthSys {
		d.fail("flavor is %v, not %v", cred.Flavor, AuthSys)
	}
	p := &AuthSysParms{Stamp: d.Uint32(), MachineName: d.String(MaxMachineName), UID: d.Uint32(), GID: d.Uint32()}
	n := d.Uint32()
	if n > MaxGIDs {
		d.fail("%d groups, at most %d", n, MaxGIDs)
	}
	for i := uint32(0); i < n && d.Err() == nil; i++ {
		p.GIDs = append(p.GIDs, d.Uint32())
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("parse authsys_parms: %w", err)
	}
	return p, nil
}
