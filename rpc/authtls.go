// SPDX-License-Identifier: BSD-3-Clause

package rpc

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// ALPN is the protocol name of RPC-with-TLS (RFC 9289 section 8.2).
const ALPN = "sunrpc"

// startTLS is the body of the verifier in the answer of a server that offers
// TLS (RFC 9289 section 4.1).
const startTLS = "STARTTLS"

// maxProbeReply bounds the answer to a probe in bytes: the largest reply
// without results is one with a full verifier, and nothing after it is worth
// reading from a server that is not known yet.
const maxProbeReply = 1 << 10

// ErrNoTLS says that the server answered an AUTH_TLS probe as one that does
// not offer TLS (RFC 9289 section 4.1): it denied the flavor, or its verifier
// is without STARTTLS.
var ErrNoTLS = errors.New("server does not offer TLS")

// ProbeCall returns the AUTH_TLS probe of RFC 9289 section 4.1: the program's
// NULL procedure with an empty AUTH_TLS credential and an AUTH_NONE verifier.
func ProbeCall(xid, program, version uint32) *Call {
	return &Call{
		XID: xid, Program: program, Version: version, Procedure: ProcedureNull,
		Cred: OpaqueAuth{Flavor: AuthTLS},
	}
}

// CheckProbeReply returns nil if reply, which answers a probe, allows the TLS
// handshake to begin.
//
// Otherwise the error matches ErrNoTLS if the server does not offer TLS, and a
// *ReplyError is in it if the call failed. It is a *ReplyError alone if TLS is
// not what the server objects to, as when it has no such program or version,
// and it matches ErrProtocol if the server means STARTTLS but says it in a way
// that RFC 9289 does not know.
func CheckProbeReply(reply *Reply) error {
	failure := reply.Err()
	switch {
	case reply.Stat == MsgDenied && reply.RejectStat == AuthError:
		return fmt.Errorf("%w: %w", ErrNoTLS, failure)
	case reply.Stat == MsgDenied:
		return failure
	case string(reply.Verf.Body) != startTLS && failure != nil:
		return fmt.Errorf("%w: %w", ErrNoTLS, failure)
	case string(reply.Verf.Body) != startTLS:
		return fmt.Errorf("%w: verifier without %s", ErrNoTLS, startTLS)
	case reply.Verf.Flavor != AuthNone:
		return fmt.Errorf("%w: %s in a verifier of flavor %v", ErrProtocol, startTLS, reply.Verf.Flavor)
	case failure != nil:
		return failure
	case len(reply.Results) != 0:
		return fmt.Errorf("%w: NULL with results", ErrProtocol)
	}
	return nil
}

// ProbeReply returns what a server that offers TLS answers to a call whose
// credential is of flavor AUTH_TLS (RFC 9289 section 4.1): STARTTLS if call is
// a proper probe, else AUTH_ERROR with AUTH_BADCRED.
func ProbeReply(call *Call) *Reply {
	if call.Procedure != ProcedureNull || call.Cred.Flavor != AuthTLS || len(call.Cred.Body) != 0 ||
		call.Verf.Flavor != AuthNone || len(call.Verf.Body) != 0 || len(call.Args) != 0 {
		return &Reply{XID: call.XID, Stat: MsgDenied, RejectStat: AuthError, AuthStat: AuthBadCred}
	}
	return &Reply{XID: call.XID, Verf: OpaqueAuth{Flavor: AuthNone, Body: []byte(startTLS)}}
}

// Probe asks the server on conn, which must be fresh, whether it offers TLS
// for program. After nil the next bytes in either direction are those of the
// TLS handshake, and none of them has been read, whatever the server sent
// early.
//
// Errors are those of CheckProbeReply, of the connection, ctx.Err() when ctx
// ended first, or match ErrProtocol. After an error the connection is of no
// use and may have a deadline in the past; closing it is left to the caller.
func Probe(ctx context.Context, conn net.Conn, program, version uint32) error {
	return interruptible(ctx, conn, func() error {
		call := ProbeCall(rand.Uint32(), program, version)
		b, err := call.Marshal()
		if err != nil {
			return err
		}
		if err := WriteRecord(conn, b); err != nil {
			return err
		}
		// Straight from conn, without a buffer: ReadRecord stops at the end
		// of the record, so what follows stays in the socket.
		b, err = ReadRecord(conn, maxProbeReply)
		if err != nil {
			return noEOF(err)
		}
		reply, err := ParseReply(b)
		if err != nil {
			return err
		}
		if reply.XID != call.XID {
			return fmt.Errorf("%w: reply to call %#x, not %#x", ErrProtocol, reply.XID, call.XID)
		}
		return CheckProbeReply(reply)
	})
}

// interruptible runs f, whose I/O on conn fails when ctx ends. Deadlines of
// conn are cleared before and, if ctx did not end, untouched after.
func interruptible(ctx context.Context, conn net.Conn, f func() error) error {
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() {
		// The deadline is set, or about to be: even if f succeeded, conn
		// cannot be used any more.
		return ctx.Err()
	}
	return err
}
