// SPDX-License-Identifier: BSD-3-Clause

package rpctest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"rpctls/rpc"
)

// maxCall bounds a call in bytes.
const maxCall = rpc.DefaultMaxReply

// A Server answers calls. The zero value is an NFS server without TLS. Its
// fields must not change while it runs; its functions may be called by many
// connections at once, and see the calls of one connection in order.
type Server struct {
	// TLS, when not nil, is offered to clients that probe for it, and used
	// as it is.
	TLS *tls.Config

	// Handshake makes the TLS session after STARTTLS was sent; nil means
	// that of crypto/tls.
	Handshake func(ctx context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error)

	// Probe answers calls with an AUTH_TLS credential; nil means
	// rpc.ProbeReply, or Refuse without TLS and within TLS. The handshake
	// follows an answer that allows it; no answer is given if it returns nil.
	Probe func(*rpc.Call) *rpc.Reply

	// Handler answers all other calls; nil means NFS. No answer is given if
	// it returns nil.
	Handler func(*rpc.Call) *rpc.Reply
}

// Refuse answers as a server does that does not know the credential's flavor.
func Refuse(call *rpc.Call) *rpc.Reply {
	return &rpc.Reply{XID: call.XID, Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.AuthBadCred}
}

// NFS answers as a server of NFS versions 3 and 4 that has only NULL.
func NFS(call *rpc.Call) *rpc.Reply {
	reply := &rpc.Reply{XID: call.XID}
	switch {
	case call.Program != rpc.ProgramNFS:
		reply.AcceptStat = rpc.ProgUnavail
	case call.Version != rpc.NFSVersion3 && call.Version != rpc.NFSVersion4:
		reply.AcceptStat, reply.Low, reply.High = rpc.ProgMismatch, rpc.NFSVersion3, rpc.NFSVersion4
	case call.Procedure != rpc.ProcedureNull:
		reply.AcceptStat = rpc.ProcUnavail
	case len(call.Args) != 0:
		reply.AcceptStat = rpc.GarbageArgs
	}
	return reply
}

// ServeConn answers the calls on conn, one after the other, until the client
// closes it, which gives nil, or something fails. It closes conn. When ctx
// ends it closes conn as well and returns ctx.Err().
func (s *Server) ServeConn(ctx context.Context, conn net.Conn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer conn.Close()
	defer stop()
	err := s.serve(ctx, conn)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// serve speaks RPC on conn until its end, which gives io.EOF.
func (s *Server) serve(ctx context.Context, conn net.Conn) error {
	secure := false
	for {
		// Without a buffer: the record behind a probe is TLS.
		record, err := rpc.ReadRecord(conn, maxCall)
		if err != nil {
			return err
		}
		reply, probe, err := s.answer(record, secure)
		if err != nil {
			return err
		}
		if reply == nil {
			continue
		}
		b, err := reply.Marshal()
		if err != nil {
			return err
		}
		if err := rpc.WriteRecord(conn, b); err != nil {
			return err
		}
		if !probe || secure || s.TLS == nil || rpc.CheckProbeReply(reply) != nil {
			continue
		}
		session, err := s.handshake(ctx, conn)
		if err != nil {
			return fmt.Errorf("handshake: %w", err)
		}
		// ServeConn closes the connection below; this says goodbye.
		defer session.Close()
		conn, secure = session, true
	}
}

// answer returns the reply to one call, nil for none, and whether the call has
// an AUTH_TLS credential.
func (s *Server) answer(record []byte, secure bool) (reply *rpc.Reply, probe bool, err error) {
	call, err := rpc.ParseCall(record)
	var version *rpc.VersionError
	switch {
	case errors.As(err, &version):
		return &rpc.Reply{
			XID: version.XID, Stat: rpc.MsgDenied, RejectStat: rpc.RPCMismatch,
			Low: rpc.RPCVersion, High: rpc.RPCVersion,
		}, false, nil
	case err != nil:
		return nil, false, err
	case call.Cred.Flavor != rpc.AuthTLS:
		if s.Handler != nil {
			return s.Handler(call), false, nil
		}
		return NFS(call), false, nil
	case s.Probe != nil:
		return s.Probe(call), true, nil
	case s.TLS == nil || secure:
		return Refuse(call), true, nil
	}
	return rpc.ProbeReply(call), true, nil
}

func (s *Server) handshake(ctx context.Context, conn net.Conn) (net.Conn, error) {
	if s.Handshake != nil {
		return s.Handshake(ctx, conn, s.TLS)
	}
	c := tls.Server(conn, s.TLS)
	return c, c.HandshakeContext(ctx)
}

// Start serves on a free TCP port of the loopback interface and returns its
// address. When the test ends, so do the server and its connections.
func (s *Server) Start(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = s.ServeConn(ctx, conn) }) // the client sees what happened
		}
	})
	tb.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}
