// SPDX-License-Identifier: BSD-3-Clause

package rpc

import (
	"errors"
	"fmt"
)

// RPCVersion is the version of the RPC protocol (RFC 5531 section 8.1).
const RPCVersion = 2

// Program numbers and versions of NFS and its helpers, and the procedure that
// every program has.
const (
	ProgramPortmap = 100000 // RFC 1833
	ProgramNFS     = 100003 // RFC 1813, RFC 7530, RFC 8881
	ProgramMount   = 100005 // RFC 1813 appendix I
	ProgramNLM     = 100021 // RFC 1813 appendix II

	NFSVersion3   = 3
	NFSVersion4   = 4
	MountVersion3 = 3
	NLMVersion4   = 4

	// ProcedureNull takes nothing, does nothing and returns nothing.
	ProcedureNull = 0
)

// msg_type of RFC 5531 section 9.
const (
	msgCall  = 0
	msgReply = 1
)

// ReplyStat is reply_stat of RFC 5531 section 9.
type ReplyStat uint32

// Values of ReplyStat.
const (
	MsgAccepted ReplyStat = 0
	MsgDenied   ReplyStat = 1
)

// String returns the name in RFC 5531.
func (s ReplyStat) String() string {
	return enumName("reply_stat", uint32(s), "MSG_ACCEPTED", "MSG_DENIED")
}

// AcceptStat is accept_stat of RFC 5531 section 9: what became of a call that
// was accepted.
type AcceptStat uint32

// Values of AcceptStat.
const (
	Success      AcceptStat = 0
	ProgUnavail  AcceptStat = 1
	ProgMismatch AcceptStat = 2
	ProcUnavail  AcceptStat = 3
	GarbageArgs  AcceptStat = 4
	SystemErr    AcceptStat = 5

	lastAcceptStat = SystemErr
)

// String returns the name in RFC 5531.
func (s AcceptStat) String() string {
	return enumName("accept_stat", uint32(s),
		"SUCCESS", "PROG_UNAVAIL", "PROG_MISMATCH", "PROC_UNAVAIL", "GARBAGE_ARGS", "SYSTEM_ERR")
}

// RejectStat is reject_stat of RFC 5531 section 9: why a call was denied.
type RejectStat uint32

// Values of RejectStat.
const (
	RPCMismatch RejectStat = 0
	AuthError   RejectStat = 1
)

// String returns the name in RFC 5531.
func (s RejectStat) String() string {
	return enumName("reject_stat", uint32(s), "RPC_MISMATCH", "AUTH_ERROR")
}

// AuthStat is auth_stat of RFC 5531 section 9: why authentication failed.
type AuthStat uint32

// Values of AuthStat. Those of AUTH_DH and AUTH_KERB have no constant here,
// but are known.
const (
	AuthOK            AuthStat = 0
	AuthBadCred       AuthStat = 1
	AuthRejectedCred  AuthStat = 2
	AuthBadVerf       AuthStat = 3
	AuthRejectedVerf  AuthStat = 4
	AuthTooWeak       AuthStat = 5
	AuthInvalidResp   AuthStat = 6
	AuthFailed        AuthStat = 7
	GSSCredentialProb AuthStat = 13
	GSSContextProb    AuthStat = 14

	lastAuthStat = GSSContextProb
)

// String returns the name in RFC 5531.
func (s AuthStat) String() string {
	return enumName("auth_stat", uint32(s),
		"AUTH_OK", "AUTH_BADCRED", "AUTH_REJECTEDCRED", "AUTH_BADVERF", "AUTH_REJECTEDVERF",
		"AUTH_TOOWEAK", "AUTH_INVALIDRESP", "AUTH_FAILED",
		"AUTH_KERB_GENERIC", "AUTH_TIMEEXPIRE", "AUTH_TKT_FILE", "AUTH_DECODE", "AUTH_NET_ADDR",
		"RPCSEC_GSS_CREDPROBLEM", "RPCSEC_GSS_CTXPROBLEM")
}

// enumName names v by its place among names.
func enumName(enum string, v uint32, names ...string) string {
	if v < uint32(len(names)) {
		return names[v]
	}
	return fmt.Sprintf("%s %d", enum, v)
}

// A Call is a call message (RFC 5531 section 9).
type Call struct {
	XID       uint32
	Program   uint32
	Version   uint32
	Procedure uint32
	Cred      OpaqueAuth
	Verf      OpaqueAuth
	Args      []byte // XDR of the procedure's arguments: a multiple of 4 bytes; nil for none
}

// A VersionError is a call of another version of RPC. The answer to it is a
// reply with MsgDenied, RPCMismatch and Low = High = RPCVersion.
type VersionError struct {
	XID     uint32
	Version uint32
}

// Error names the version.
func (e *VersionError) Error() string {
	return fmt.Sprintf("call of RPC version %d, not %d", e.Version, RPCVersion)
}

// ParseCall decodes the one call message that b is, as one record. Its byte
// slices are parts of b. Errors match ErrProtocol, but for *VersionError.
//
// Authentication flavors are not looked at: that a server does not know one is
// something to answer (AUTH_ERROR), not a malformed message.
func ParseCall(b []byte) (*Call, error) {
	d := NewDecoder(b)
	c := &Call{XID: d.Uint32()}
	if t := d.enum("msg_type", msgReply); t != msgCall {
		d.fail("a reply where a call belongs")
	}
	if v := d.Uint32(); d.Err() == nil && v != RPCVersion {
		return nil, &VersionError{XID: c.XID, Version: v}
	}
	c.Program = d.Uint32()
	c.Version = d.Uint32()
	c.Procedure = d.Uint32()
	c.Cred = d.opaqueAuth()
	c.Verf = d.opaqueAuth()
	c.Args = d.Rest()
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("parse call: %w", err)
	}
	return c, nil
}

// Append appends the message, without record marking, to b. It fails when a
// credential or verifier exceeds MaxAuthBody, or when Args are no multiple of
// 4 bytes.
func (c *Call) Append(b []byte) ([]byte, error) {
	e := NewEncoder(b)
	e.Uint32(c.XID)
	e.Uint32(msgCall)
	e.Uint32(RPCVersion)
	e.Uint32(c.Program)
	e.Uint32(c.Version)
	e.Uint32(c.Procedure)
	e.opaqueAuth(c.Cred)
	e.opaqueAuth(c.Verf)
	e.items(c.Args)
	b, err := e.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode call: %w", err)
	}
	return b, nil
}

// Marshal returns the message alone; see Append.
func (c *Call) Marshal() ([]byte, error) { return c.Append(nil) }

// A Reply is a reply message (RFC 5531 section 9). Which fields count depends
// on Stat, and on AcceptStat or RejectStat; the others are zero after parsing
// and ignored when encoding.
type Reply struct {
	XID  uint32
	Stat ReplyStat

	// With MsgAccepted.
	Verf       OpaqueAuth
	AcceptStat AcceptStat
	Results    []byte // with Success: XDR of the results, a multiple of 4 bytes; nil for none

	// With MsgDenied.
	RejectStat RejectStat
	AuthStat   AuthStat // with AuthError

	// Low and High are the lowest and highest version that the server
	// supports: of the program with ProgMismatch, of RPC with RPCMismatch.
	Low, High uint32
}

// ParseReply decodes the one reply message that b is, as one record. Its byte
// slices are parts of b. Errors match ErrProtocol. That the call failed is no
// error here; see Reply.Err.
func ParseReply(b []byte) (*Reply, error) {
	d := NewDecoder(b)
	r := &Reply{XID: d.Uint32()}
	if t := d.enum("msg_type", msgReply); t != msgReply {
		d.fail("a call where a reply belongs")
	}
	r.Stat = ReplyStat(d.enum("reply_stat", uint32(MsgDenied)))
	switch r.Stat {
	case MsgAccepted:
		r.Verf = d.opaqueAuth()
		r.AcceptStat = AcceptStat(d.enum("accept_stat", uint32(lastAcceptStat)))
		switch r.AcceptStat {
		case Success:
			r.Results = d.Rest()
		case ProgMismatch:
			r.Low, r.High = d.Uint32(), d.Uint32()
		}
	case MsgDenied:
		r.RejectStat = RejectStat(d.enum("reject_stat", uint32(AuthError)))
		switch r.RejectStat {
		case RPCMismatch:
			r.Low, r.High = d.Uint32(), d.Uint32()
		case AuthError:
			r.AuthStat = AuthStat(d.enum("auth_stat", uint32(lastAuthStat)))
		}
	}
	if err := d.Finish(); err != nil {
		return nil, fmt.Errorf("parse reply: %w", err)
	}
	return r, nil
}

// Append appends the message, without record marking, to b. It fails for
// values that ParseReply refuses, and for Results without Success.
func (r *Reply) Append(b []byte) ([]byte, error) {
	e := NewEncoder(b)
	if len(r.Results) != 0 && (r.Stat != MsgAccepted || r.AcceptStat != Success) {
		e.fail(errors.New("results without success"))
	}
	e.Uint32(r.XID)
	e.Uint32(msgReply)
	e.enum("reply_stat", uint32(r.Stat), uint32(MsgDenied))
	switch r.Stat {
	case MsgAccepted:
		e.opaqueAuth(r.Verf)
		e.enum("accept_stat", uint32(r.AcceptStat), uint32(lastAcceptStat))
		switch r.AcceptStat {
		case Success:
			e.items(r.Results)
		case ProgMismatch:
			e.Uint32(r.Low)
			e.Uint32(r.High)
		}
	case MsgDenied:
		e.enum("reject_stat", uint32(r.RejectStat), uint32(AuthError))
		switch r.RejectStat {
		case RPCMismatch:
			e.Uint32(r.Low)
			e.Uint32(r.High)
		case AuthError:
			e.enum("auth_stat", uint32(r.AuthStat), uint32(lastAuthStat))
		}
	}
	b, err := e.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return b, nil
}

// Marshal returns the message alone; see Append.
func (r *Reply) Marshal() ([]byte, error) { return r.Append(nil) }

// Err returns nil if the call was executed, else a *ReplyError.
func (r *Reply) Err() error {
	if r.Stat == MsgAccepted && r.AcceptStat == Success {
		return nil
	}
	return &ReplyError{
		Stat: r.Stat, AcceptStat: r.AcceptStat, RejectStat: r.RejectStat, AuthStat: r.AuthStat,
		Low: r.Low, High: r.High,
	}
}

// A ReplyError is a proper answer that a call was not executed. Its fields are
// those of Reply.
type ReplyError struct {
	Stat       ReplyStat
	AcceptStat AcceptStat
	RejectStat RejectStat
	AuthStat   AuthStat
	Low, High  uint32
}

// Error names what the server said as RFC 5531 does.
func (e *ReplyError) Error() string {
	versions := fmt.Sprintf("(supported versions: %d to %d)", e.Low, e.High)
	switch {
	case e.Stat == MsgAccepted && e.AcceptStat == ProgMismatch:
		return fmt.Sprintf("call failed: %v %s", e.AcceptStat, versions)
	case e.Stat == MsgAccepted:
		return fmt.Sprintf("call failed: %v", e.AcceptStat)
	case e.RejectStat == RPCMismatch:
		return fmt.Sprintf("call denied: %v %s", e.RejectStat, versions)
	default:
		return fmt.Sprintf("call denied: %v, %v", e.RejectStat, e.AuthStat)
	}
}
