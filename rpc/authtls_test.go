// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/rpc"
)

func TestCheckProbeReply(t *testing.T) {
	starttls := rpc.OpaqueAuth{Body: []byte("STARTTLS")}
	tests := []struct {
		name    string
		reply   rpc.Reply
		want    error // nil, ErrNoTLS or ErrProtocol
		failure bool  // a *ReplyError is in it
	}{
		{name: "STARTTLS", reply: rpc.Reply{Verf: starttls}},
		{name: "empty verifier", reply: rpc.Reply{}, want: rpc.ErrNoTLS},
		{name: "lower case", reply: rpc.Reply{Verf: rpc.OpaqueAuth{Body: []byte("starttls")}}, want: rpc.ErrNoTLS},
		{name: "seven bytes", reply: rpc.Reply{Verf: rpc.OpaqueAuth{Body: []byte("STARTTL")}}, want: rpc.ErrNoTLS},
		{name: "nine bytes", reply: rpc.Reply{Verf: rpc.OpaqueAuth{Body: []byte("STARTTLS\x00")}}, want: rpc.ErrNoTLS},
		{name: "other flavor", reply: rpc.Reply{Verf: rpc.OpaqueAuth{Flavor: rpc.AuthShort}}, want: rpc.ErrNoTLS},
		{name: "STARTTLS of other flavor", reply: rpc.Reply{Verf: rpc.OpaqueAuth{Flavor: rpc.AuthTLS, Body: starttls.Body}}, want: rpc.ErrProtocol},
		{name: "STARTTLS with results", reply: rpc.Reply{Verf: starttls, Results: make([]byte, 4)}, want: rpc.ErrProtocol},
		{name: "STARTTLS without the version", reply: rpc.Reply{Verf: starttls, AcceptStat: rpc.ProgMismatch}, failure: true},
		{name: "no program, no TLS", reply: rpc.Reply{AcceptStat: rpc.ProgUnavail}, want: rpc.ErrNoTLS, failure: true},
		{
			name:  "AUTH_BADCRED",
			reply: rpc.Reply{Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.AuthBadCred},
			want:  rpc.ErrNoTLS, failure: true,
		},
		{
			name:  "AUTH_REJECTEDCRED",
			reply: rpc.Reply{Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.AuthRejectedCred},
			want:  rpc.ErrNoTLS, failure: true,
		},
		{name: "RPC_MISMATCH", reply: rpc.Reply{Stat: rpc.MsgDenied}, failure: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := rpc.CheckProbeReply(&tt.reply)
			if ok := tt.want == nil && !tt.failure; ok != (err == nil) {
				t.Fatalf("error: %v", err)
			}
			for _, sentinel := range []error{rpc.ErrNoTLS, rpc.ErrProtocol} {
				if got := errors.Is(err, sentinel); got != (sentinel == tt.want) {
					t.Errorf("%v: matches %v: %v", err, sentinel, got)
				}
			}
			if _, got := errors.AsType[*rpc.ReplyError](err); got != tt.failure {
				t.Errorf("%v: has a *ReplyError: %v", err, got)
			}
		})
	}
}

func TestProbeReply(t *testing.T) {
	granted := &rpc.Reply{XID: 9, Verf: rpc.OpaqueAuth{Body: []byte("STARTTLS")}}
	refused := &rpc.Reply{XID: 9, Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.AuthBadCred}
	tests := []struct {
		name   string
		change func(*rpc.Call)
		want   *rpc.Reply
	}{
		{"probe", func(*rpc.Call) {}, granted},
		{"other program", func(c *rpc.Call) { c.Program, c.Version = 7, 8 }, granted},
		{"other procedure", func(c *rpc.Call) { c.Procedure = 1 }, refused},
		{"other credential", func(c *rpc.Call) { c.Cred.Flavor = rpc.AuthNone }, refused},
		{"credential with a body", func(c *rpc.Call) { c.Cred.Body = make([]byte, 4) }, refused},
		{"other verifier", func(c *rpc.Call) { c.Verf.Flavor = rpc.AuthTLS }, refused},
		{"verifier with a body", func(c *rpc.Call) { c.Verf.Body = make([]byte, 4) }, refused},
		{"arguments", func(c *rpc.Call) { c.Args = make([]byte, 4) }, refused},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := rpc.ProbeCall(9, rpc.ProgramNFS, rpc.NFSVersion4)
			tt.change(call)
			if diff := cmp.Diff(tt.want, rpc.ProbeReply(call)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
