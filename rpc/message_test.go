// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/rpc"
)

// The vectors are written by hand from RFC 5531 section 9: one line per group
// of items.
var callVectors = []struct {
	name string
	wire string
	call rpc.Call
}{
	{
		name: "NFSv3 NULL",
		wire: `00000001 00000000 00000002
		       000186a3 00000003 00000000
		       00000000 00000000
		       00000000 00000000`,
		call: rpc.Call{XID: 1, Program: rpc.ProgramNFS, Version: rpc.NFSVersion3},
	},
	{
		name: "AUTH_TLS probe of NFSv4",
		wire: `01020304 00000000 00000002
		       000186a3 00000004 00000000
		       00000007 00000000
		       00000000 00000000`,
		call: *rpc.ProbeCall(0x01020304, rpc.ProgramNFS, rpc.NFSVersion4),
	},
	{
		name: "MOUNT MNT with AUTH_SYS and arguments",
		wire: `fffffffe 00000000 00000002
		       000186a5 00000003 00000001
		       00000001 00000024
		           11223344 00000005 686f7374 31000000 000003e8 00000064
		           00000002 00000004 00000018
		       00000000 00000000
		       00000004 2f737276`,
		call: rpc.Call{
			XID: 0xfffffffe, Program: rpc.ProgramMount, Version: rpc.MountVersion3, Procedure: 1,
			Cred: rpc.OpaqueAuth{Flavor: rpc.AuthSys, Body: []byte(
				"\x11\x22\x33\x44\x00\x00\x00\x05host1\x00\x00\x00\x00\x00\x03\xe8\x00\x00\x00\x64" +
					"\x00\x00\x00\x02\x00\x00\x00\x04\x00\x00\x00\x18")},
			Args: []byte("\x00\x00\x00\x04/srv"),
		},
	},
	{
		name: "flavor of the future and a verifier with padding",
		wire: `00000002 00000000 00000002
		       000186a3 00000004 00000001
		       0005f377 00000000
		       00000006 00000005 01020304 05000000`,
		call: rpc.Call{
			XID: 2, Program: rpc.ProgramNFS, Version: rpc.NFSVersion4, Procedure: 1,
			Cred: rpc.OpaqueAuth{Flavor: 390007},
			Verf: rpc.OpaqueAuth{Flavor: rpc.RPCSecGSS, Body: []byte{1, 2, 3, 4, 5}},
		},
	},
}

func TestCallVectors(t *testing.T) {
	for _, tt := range callVectors {
		t.Run(tt.name, func(t *testing.T) {
			b := wire(t, tt.wire)
			got, err := rpc.ParseCall(b)
			wantErr(t, err, nil)
			if diff := cmp.Diff(&tt.call, got); diff != "" {
				t.Errorf("parsed (-want +got):\n%s", diff)
			}
			again, err := tt.call.Marshal()
			wantErr(t, err, nil)
			if diff := cmp.Diff(b, again); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
			for n := range b {
				// Arguments may end at any item: what is cut there is whole.
				if c, err := rpc.ParseCall(b[:n]); err == nil && (n%4 != 0 || n < len(b)-len(tt.call.Args)) {
					t.Errorf("%d of %d bytes: got %+v", n, len(b), c)
				}
			}
		})
	}
}

func TestParseCallErrors(t *testing.T) {
	const auths = " 00000000 00000000 00000000 00000000"
	tests := []struct{ name, wire string }{
		{"empty", ""},
		{"a reply", "00000001 00000001 00000002 000186a3 00000003 00000000" + auths},
		{"unknown message type", "00000001 00000002 00000002 000186a3 00000003 00000000" + auths},
		{"credential of 401 bytes", "00000001 00000000 00000002 000186a3 00000003 00000000 00000000 00000191" +
			strings.Repeat("00", 404) + "00000000 00000000"},
		{"verifier's padding", "00000001 00000000 00000002 000186a3 00000003 00000000 00000000 00000000 00000000 00000001 ff000001"},
		{"arguments of 3 bytes", "00000001 00000000 00000002 000186a3 00000003 00000000" + auths + "000000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := rpc.ParseCall(wire(t, tt.wire))
			wantErr(t, err, rpc.ErrProtocol)
		})
	}
}

func TestParseCallVersion(t *testing.T) {
	_, err := rpc.ParseCall(wire(t, "00000007 00000000 00000003"))
	got, ok := errors.AsType[*rpc.VersionError](err)
	if diff := cmp.Diff(&rpc.VersionError{XID: 7, Version: 3}, got); !ok || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got.Error() != "call of RPC version 3, not 2" {
		t.Errorf("text: %v", got)
	}
}

func TestAuthBodyBound(t *testing.T) {
	for n, ok := range map[int]bool{399: true, 400: true, 401: false} {
		c := rpc.Call{Cred: rpc.OpaqueAuth{Body: sample(n)}}
		b, err := c.Marshal()
		if (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
		if err != nil {
			continue
		}
		got, err := rpc.ParseCall(b)
		wantErr(t, err, nil)
		if !bytes.Equal(got.Cred.Body, c.Cred.Body) {
			t.Errorf("%d bytes came back different", n)
		}
	}
}

var replyVectors = []struct {
	name  string
	wire  string
	reply rpc.Reply
	err   string // of Reply.Err; empty: none
}{
	{
		name:  "NULL",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000000`,
		reply: rpc.Reply{XID: 1},
	},
	{
		name: "STARTTLS",
		wire: `01020304 00000001 00000000
		       00000000 00000008 53544152 54544c53
		       00000000`,
		reply: rpc.Reply{XID: 0x01020304, Verf: rpc.OpaqueAuth{Body: []byte("STARTTLS")}},
	},
	{
		name:  "results",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000000 00000000 00000005`,
		reply: rpc.Reply{XID: 1, Results: []byte{0, 0, 0, 0, 0, 0, 0, 5}},
	},
	{
		name:  "PROG_UNAVAIL",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000001`,
		reply: rpc.Reply{XID: 1, AcceptStat: rpc.ProgUnavail},
		err:   "call failed: PROG_UNAVAIL",
	},
	{
		name:  "PROG_MISMATCH",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000002 00000003 00000004`,
		reply: rpc.Reply{XID: 1, AcceptStat: rpc.ProgMismatch, Low: 3, High: 4},
		err:   "call failed: PROG_MISMATCH (supported versions: 3 to 4)",
	},
	{
		name:  "PROC_UNAVAIL",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000003`,
		reply: rpc.Reply{XID: 1, AcceptStat: rpc.ProcUnavail},
		err:   "call failed: PROC_UNAVAIL",
	},
	{
		name:  "GARBAGE_ARGS",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000004`,
		reply: rpc.Reply{XID: 1, AcceptStat: rpc.GarbageArgs},
		err:   "call failed: GARBAGE_ARGS",
	},
	{
		name:  "SYSTEM_ERR",
		wire:  `00000001 00000001 00000000 00000000 00000000 00000005`,
		reply: rpc.Reply{XID: 1, AcceptStat: rpc.SystemErr},
		err:   "call failed: SYSTEM_ERR",
	},
	{
		name:  "RPC_MISMATCH",
		wire:  `00000001 00000001 00000001 00000000 00000002 00000002`,
		reply: rpc.Reply{XID: 1, Stat: rpc.MsgDenied, RejectStat: rpc.RPCMismatch, Low: 2, High: 2},
		err:   "call denied: RPC_MISMATCH (supported versions: 2 to 2)",
	},
	{
		name:  "AUTH_TOOWEAK",
		wire:  `00000001 00000001 00000001 00000001 00000005`,
		reply: rpc.Reply{XID: 1, Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.AuthTooWeak},
		err:   "call denied: AUTH_ERROR, AUTH_TOOWEAK",
	},
	{
		name:  "last auth_stat",
		wire:  `00000001 00000001 00000001 00000001 0000000e`,
		reply: rpc.Reply{XID: 1, Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.GSSContextProb},
		err:   "call denied: AUTH_ERROR, RPCSEC_GSS_CTXPROBLEM",
	},
}

func TestReplyVectors(t *testing.T) {
	for _, tt := range replyVectors {
		t.Run(tt.name, func(t *testing.T) {
			b := wire(t, tt.wire)
			got, err := rpc.ParseReply(b)
			wantErr(t, err, nil)
			if diff := cmp.Diff(&tt.reply, got); diff != "" {
				t.Errorf("parsed (-want +got):\n%s", diff)
			}
			again, err := tt.reply.Marshal()
			wantErr(t, err, nil)
			if diff := cmp.Diff(b, again); diff != "" {
				t.Errorf("encoded (-want +got):\n%s", diff)
			}
			for n := range b {
				if r, err := rpc.ParseReply(b[:n]); err == nil && (n%4 != 0 || n < len(b)-len(tt.reply.Results)) {
					t.Errorf("%d of %d bytes: got %+v", n, len(b), r)
				}
			}

			text := ""
			if err := got.Err(); err != nil {
				text = err.Error()
				if _, ok := errors.AsType[*rpc.ReplyError](err); !ok {
					t.Errorf("Err is a %T", err)
				}
			}
			if text != tt.err {
				t.Errorf("Err: %q, want %q", text, tt.err)
			}
		})
	}
}

func TestParseReplyErrors(t *testing.T) {
	tests := []struct{ name, wire string }{
		{"empty", ""},
		{"a call", "00000001 00000000 00000000 00000000 00000000 00000000"},
		{"unknown message type", "00000001 00000002 00000000 00000000 00000000 00000000"},
		{"unknown reply_stat", "00000001 00000001 00000002 00000000 00000000 00000000"},
		{"unknown accept_stat", "00000001 00000001 00000000 00000000 00000000 00000006"},
		{"unknown reject_stat", "00000001 00000001 00000001 00000002 00000000"},
		{"unknown auth_stat", "00000001 00000001 00000001 00000001 0000000f"},
		{"results of 2 bytes", "00000001 00000001 00000000 00000000 00000000 00000000 0000"},
		{"results without success", "00000001 00000001 00000000 00000000 00000000 00000003 00000000"},
		{"bytes behind a denial", "00000001 00000001 00000001 00000001 00000001 00000000"},
		{"verifier of 401 bytes", "00000001 00000001 00000000 00000000 00000191" + strings.Repeat("00", 404) + "00000000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := rpc.ParseReply(wire(t, tt.wire))
			wantErr(t, err, rpc.ErrProtocol)
		})
	}
}

func TestMarshalErrors(t *testing.T) {
	tests := []struct {
		name    string
		message interface{ Marshal() ([]byte, error) }
	}{
		{"arguments of 5 bytes", &rpc.Call{Args: sample(5)}},
		{"long verifier of a call", &rpc.Call{Verf: rpc.OpaqueAuth{Body: sample(401)}}},
		{"long verifier of a reply", &rpc.Reply{Verf: rpc.OpaqueAuth{Body: sample(401)}}},
		{"results of 5 bytes", &rpc.Reply{Results: sample(5)}},
		{"results without success", &rpc.Reply{AcceptStat: rpc.SystemErr, Results: sample(4)}},
		{"results of a denial", &rpc.Reply{Stat: rpc.MsgDenied, Results: sample(4)}},
		{"reply_stat", &rpc.Reply{Stat: 2}},
		{"accept_stat", &rpc.Reply{AcceptStat: 6}},
		{"reject_stat", &rpc.Reply{Stat: rpc.MsgDenied, RejectStat: 2}},
		{"auth_stat", &rpc.Reply{Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: 15}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if b, err := tt.message.Marshal(); err == nil || b != nil || errors.Is(err, rpc.ErrProtocol) {
				t.Errorf("got %x, %v", b, err)
			}
		})
	}
}

func TestEnumNames(t *testing.T) {
	for got, want := range map[string]string{
		rpc.MsgAccepted.String():       "MSG_ACCEPTED",
		rpc.SystemErr.String():         "SYSTEM_ERR",
		rpc.AcceptStat(6).String():     "accept_stat 6",
		rpc.AuthError.String():         "AUTH_ERROR",
		rpc.AuthFailed.String():        "AUTH_FAILED",
		rpc.AuthTLS.String():           "AUTH_TLS",
		rpc.AuthFlavor(99).String():    "auth_flavor 99",
		rpc.GSSCredentialProb.String(): "RPCSEC_GSS_CREDPROBLEM",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func FuzzParseCall(f *testing.F) {
	for _, v := range callVectors {
		f.Add(wire(f, v.wire))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		call, err := rpc.ParseCall(b)
		if err != nil {
			_, version := errors.AsType[*rpc.VersionError](err)
			if call != nil || version == errors.Is(err, rpc.ErrProtocol) {
				t.Errorf("got %+v, %v", call, err)
			}
			return
		}
		again, err := call.Marshal()
		wantErr(t, err, nil)
		if diff := cmp.Diff(b, again); diff != "" {
			t.Errorf("re-encoded (-want +got):\n%s", diff)
		}
		rpc.ProbeReply(call)
		// A credential that parses re-encodes as well.
		if p, err := rpc.ParseAuthSys(call.Cred); err == nil {
			cred, err := p.Cred()
			wantErr(t, err, nil)
			if diff := cmp.Diff(call.Cred, cred); diff != "" {
				t.Errorf("credential re-encoded (-want +got):\n%s", diff)
			}
		}
	})
}

func FuzzParseReply(f *testing.F) {
	for _, v := range replyVectors {
		f.Add(wire(f, v.wire))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		reply, err := rpc.ParseReply(b)
		if err != nil {
			if reply != nil {
				t.Errorf("got %+v with %v", reply, err)
			}
			wantErr(t, err, rpc.ErrProtocol)
			return
		}
		again, err := reply.Marshal()
		wantErr(t, err, nil)
		if diff := cmp.Diff(b, again); diff != "" {
			t.Errorf("re-encoded (-want +got):\n%s", diff)
		}
		if rpc.CheckProbeReply(reply) == nil && !bytes.Contains(b, []byte("STARTTLS")) {
			t.Error("TLS may start without STARTTLS")
		}
	})
}
