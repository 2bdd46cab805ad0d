// SPDX-License-Identifier: BSD-3-Clause

package rpc

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"
)

// A Dialer makes Clients.
type Dialer struct {
	// NetDialer connects. An NFS server may insist on a source port below
	// 1024, which is for its LocalAddr or Control to choose.
	NetDialer net.Dialer

	// Program, Version, Cred and MaxReply are those of Config. The probe is
	// made with the same Program and Version, and without Cred.
	Program  uint32
	Version  uint32
	Cred     OpaqueAuth
	MaxReply int

	// TLS is how to speak TLS; nil means to speak RPC in the clear, without a
	// probe. It is cloned and completed with what RFC 9289 section 5 asks
	// for: ALPN "sunrpc" if NextProtos is empty, and TLS 1.3 at least. An
	// empty ServerName becomes the host that is dialed.
	TLS *tls.Config

	// Handshake makes the TLS session on a connection whose probe succeeded;
	// nil means that of crypto/tls. It is given TLS as completed, returns the
	// connection that RPC goes over, and must return when ctx ends. When it
	// fails, Dialer closes the connection.
	Handshake func(ctx context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error)
}

// Timing is how long the steps of a dial took; a step that was not reached is
// 0, one that failed counts until it did.
type Timing struct {
	Connect   time.Duration // name look-up and TCP
	Probe     time.Duration // AUTH_TLS probe: one round trip
	Handshake time.Duration // TLS
}

// Total returns the sum of all steps.
func (t Timing) Total() time.Duration { return t.Connect + t.Probe + t.Handshake }

// Step is a step of a dial.
type Step string

// Values of Step, in their order.
const (
	StepConnect   Step = "connect"
	StepProbe     Step = "probe"
	StepHandshake Step = "handshake"
)

// A DialError says at which step a dial failed.
type DialError struct {
	Step   Step
	Timing Timing // of all steps up to that one
	Err    error
}

// Error names the step and what went wrong.
func (e *DialError) Error() string { return fmt.Sprintf("%s: %v", e.Step, e.Err) }

// Unwrap returns what went wrong.
func (e *DialError) Unwrap() error { return e.Err }

// DialContext connects to addr as net.Dialer does, asks with an AUTH_TLS probe
// for TLS and makes a session (RFC 9289 section 4.1), or does neither if TLS
// is nil. It never falls back to the clear. The context is for the dial alone
// and may end after it.
//
// All errors are a *DialError. Its Err is, by step: that of net.Dialer; that
// of Probe; or that of Handshake, by default of tls.Conn.HandshakeContext. In
// TLS 1.3 a server that refuses the client's certificate says so only after
// the handshake; the first call then returns its alert.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (*Client, error) {
	var timing Timing
	step := func(s Step, took *time.Duration, f func() error) error {
		start := time.Now()
		err := f()
		*took = time.Since(start)
		if err != nil {
			return &DialError{Step: s, Timing: timing, Err: err}
		}
		return nil
	}

	var conn net.Conn
	err := step(StepConnect, &timing.Connect, func() (err error) {
		conn, err = d.NetDialer.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	if d.TLS != nil {
		raw := conn
		err = step(StepProbe, &timing.Probe, func() error {
			return Probe(ctx, raw, d.Program, d.Version)
		})
		if err == nil {
			err = step(StepHandshake, &timing.Handshake, func() (err error) {
				conn, err = d.handshake(ctx, raw, addr)
				return err
			})
		}
		if err != nil {
			raw.Close()
			return nil, err
		}
	}
	c := NewClient(conn, Config{Program: d.Program, Version: d.Version, Cred: d.Cred, MaxReply: d.MaxReply})
	c.timing = timing
	return c, nil
}

func (d *Dialer) handshake(ctx context.Context, conn net.Conn, addr string) (net.Conn, error) {
	cfg := d.TLS.Clone()
	if len(cfg.NextProtos) == 0 {
		cfg.NextProtos = []string{ALPN}
	}
	cfg.MinVersion = max(cfg.MinVersion, tls.VersionTLS13)
	if cfg.ServerName == "" {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			// A zone is of this host only; no certificate has one.
			cfg.ServerName, _, _ = strings.Cut(host, "%")
		}
	}
	if d.Handshake != nil {
		return d.Handshake(ctx, conn, cfg)
	}
	c := tls.Client(conn, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	return c, nil
}
