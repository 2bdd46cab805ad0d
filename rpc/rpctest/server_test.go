// SPDX-License-Identifier: BSD-3-Clause

package rpctest_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

func background(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestNFS(t *testing.T) {
	tests := []struct {
		name string
		call rpc.Call
		want rpc.Reply
	}{
		{"NFSv3 NULL", rpc.Call{XID: 1, Program: 100003, Version: 3}, rpc.Reply{XID: 1}},
		{"NFSv4 NULL", rpc.Call{XID: 2, Program: 100003, Version: 4}, rpc.Reply{XID: 2}},
		{"NFSv4 COMPOUND", rpc.Call{Program: 100003, Version: 4, Procedure: 1}, rpc.Reply{AcceptStat: rpc.ProcUnavail}},
		{"NFSv2", rpc.Call{Program: 100003, Version: 2}, rpc.Reply{AcceptStat: rpc.ProgMismatch, Low: 3, High: 4}},
		{"MOUNT", rpc.Call{Program: 100005, Version: 3}, rpc.Reply{AcceptStat: rpc.ProgUnavail}},
		{"NULL with arguments", rpc.Call{Program: 100003, Version: 3, Args: make([]byte, 4)}, rpc.Reply{AcceptStat: rpc.GarbageArgs}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(&tt.want, rpctest.NFS(&tt.call)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// exchange sends one message and returns the reply.
func exchange(t *testing.T, conn net.Conn, message []byte) *rpc.Reply {
	t.Helper()
	if err := rpc.WriteRecord(conn, message); err != nil {
		t.Fatal(err)
	}
	b, err := rpc.ReadRecord(conn, 1<<10)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := rpc.ParseReply(b)
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

func TestServerRPCVersion(t *testing.T) {
	conn, err := net.Dial("tcp", (&rpctest.Server{}).Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reply := exchange(t, conn, []byte{0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3})
	want := &rpc.Reply{XID: 9, Stat: rpc.MsgDenied, RejectStat: rpc.RPCMismatch, Low: 2, High: 2}
	if diff := cmp.Diff(want, reply); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Within TLS there is no second STARTTLS, and the session goes on.
func TestServerProbeWithinTLS(t *testing.T) {
	server, client := rpctest.TLSConfigs(t)
	addr := (&rpctest.Server{TLS: server}).Start(t)
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if err := rpc.Probe(background(t), raw, rpc.ProgramNFS, rpc.NFSVersion4); err != nil {
		t.Fatal(err)
	}
	client.ServerName, client.NextProtos = "localhost", []string{rpc.ALPN}
	conn := tls.Client(raw, client)
	for range 2 {
		probe, err := rpc.ProbeCall(1, rpc.ProgramNFS, rpc.NFSVersion4).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := rpc.CheckProbeReply(exchange(t, conn, probe)); !errors.Is(err, rpc.ErrNoTLS) {
			t.Errorf("got %v", err)
		}
	}
}

// Functions replace every step; nil gives no answer.
func TestServerFunctions(t *testing.T) {
	_, client := rpctest.TLSConfigs(t)
	server := &rpctest.Server{
		TLS:     &tls.Config{},
		Probe:   rpc.ProbeReply,
		Handler: func(*rpc.Call) *rpc.Reply { return nil },
		Handshake: func(_ context.Context, conn net.Conn, _ *tls.Config) (net.Conn, error) {
			return conn, nil
		},
	}
	d := rpc.Dialer{
		Program: rpc.ProgramNFS, Version: rpc.NFSVersion3, TLS: client,
		Handshake: func(_ context.Context, conn net.Conn, _ *tls.Config) (net.Conn, error) { return conn, nil },
	}
	c, err := d.DialContext(background(t), "tcp", server.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.Null(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestServeConn(t *testing.T) {
	tests := []struct {
		name   string
		client func(conn net.Conn, cancel func())
		want   error
	}{
		{"client closes", func(conn net.Conn, _ func()) { conn.Close() }, nil},
		{"context ends", func(_ net.Conn, cancel func()) { cancel() }, context.Canceled},
		{"no call", func(conn net.Conn, _ func()) { rpc.WriteRecord(conn, []byte("hello")) }, rpc.ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- (&rpctest.Server{}).ServeConn(ctx, far) }()
			tt.client(near, cancel)
			if err := <-done; !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}
