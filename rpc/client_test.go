// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"rpctls/rpc"
)

// echo answers every procedure with its arguments.
func echo(call *rpc.Call) *rpc.Reply { return &rpc.Reply{XID: call.XID, Results: call.Args} }

// fakeServer is what one end of a net.Pipe does with calls, by hand.
type fakeServer struct {
	t *testing.T
	net.Conn
}

func (s fakeServer) receive() *rpc.Call {
	b, err := rpc.ReadRecord(s, 1<<20)
	if err != nil {
		s.t.Errorf("server: %v", err)
		return &rpc.Call{}
	}
	call, err := rpc.ParseCall(b)
	if err != nil {
		s.t.Errorf("server: %v", err)
		return &rpc.Call{}
	}
	return call
}

func (s fakeServer) send(reply *rpc.Reply) {
	b, err := reply.Marshal()
	if err == nil {
		err = rpc.WriteRecord(s, b)
	}
	if err != nil {
		s.t.Errorf("server: %v", err)
	}
}

// pipe returns a client and the server it talks to.
func pipe(t *testing.T, cfg rpc.Config) (*rpc.Client, fakeServer) {
	t.Helper()
	noLeaks(t)
	near, far := net.Pipe()
	c := rpc.NewClient(near, cfg)
	t.Cleanup(func() {
		far.Close()
		c.Close()
	})
	return c, fakeServer{t, far}
}

// result is what one call of many gave.
type result struct {
	results []byte
	err     error
}

// start calls without waiting.
func start(ctx context.Context, c *rpc.Client, procedure uint32, args []byte) <-chan result {
	done := make(chan result, 1)
	go func() {
		results, err := c.Call(ctx, procedure, args)
		done <- result{results, err}
	}()
	return done
}

func TestClientCallOnTheWire(t *testing.T) {
	cred := rpc.OpaqueAuth{Flavor: rpc.AuthSys, Body: make([]byte, 20)}
	c, server := pipe(t, rpc.Config{Program: 100005, Version: 3, Cred: cred})
	done := start(background(t), c, 5, []byte("args"))
	got := server.receive()
	server.send(&rpc.Reply{XID: got.XID, Results: []byte("results!")})
	if got.Program != 100005 || got.Version != 3 || got.Procedure != 5 || string(got.Args) != "args" ||
		got.Cred.Flavor != rpc.AuthSys || !bytes.Equal(got.Cred.Body, cred.Body) || got.Verf.Flavor != rpc.AuthNone {
		t.Errorf("server got %+v", got)
	}
	r := <-done
	wantErr(t, r.err, nil)
	if string(r.results) != "results!" {
		t.Errorf("results: %q", r.results)
	}
}

func TestClientRepliesInAnyOrder(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	const n = 20
	var calls [n]<-chan result
	for i := range uint32(n) {
		calls[i] = start(background(t), c, i, binary.BigEndian.AppendUint32(nil, i))
	}
	var got [n]*rpc.Call
	for i := range got {
		got[i] = server.receive()
	}
	for i := range got {
		server.send(echo(got[n-1-i]))
	}
	for i, done := range calls {
		r := <-done
		wantErr(t, r.err, nil)
		if v := binary.BigEndian.Uint32(r.results); v != uint32(i) {
			t.Errorf("call %d got the results of %d", i, v)
		}
	}
}

func TestClientReplyErrors(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	for _, v := range replyVectors {
		done := start(background(t), c, 7, nil)
		reply := v.reply
		reply.XID = server.receive().XID
		server.send(&reply)
		r := <-done
		switch {
		case v.err == "" && r.err != nil, v.err != "" && (r.err == nil || r.err.Error() != "procedure 7: "+v.err):
			t.Errorf("%s: %v", v.name, r.err)
		case v.err != "":
			if _, ok := errors.AsType[*rpc.ReplyError](r.err); !ok {
				t.Errorf("%s: no *ReplyError in %v", v.name, r.err)
			}
		}
	}
}

func TestClientNullWithResults(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	go func() {
		call := server.receive()
		server.send(&rpc.Reply{XID: call.XID, Results: make([]byte, 4)})
	}()
	wantErr(t, c.Null(background(t)), rpc.ErrProtocol)
}

// A call that is given up does not disturb others, nor does its late reply or
// one that nobody asked for.
func TestClientCancelWhileWaiting(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	ctx, cancel := context.WithCancel(background(t))
	given := start(ctx, c, 1, nil)
	late := server.receive()
	cancel()
	wantErr(t, (<-given).err, context.Canceled)
	if n := c.Pending(); n != 0 {
		t.Errorf("%d calls wait", n)
	}

	done := start(background(t), c, 2, nil)
	call := server.receive()
	server.send(echo(late))
	server.send(&rpc.Reply{XID: call.XID + 1000})
	server.send(echo(call))
	wantErr(t, (<-done).err, nil)

	if n := c.Pending(); n != 0 {
		t.Errorf("%d calls wait", n)
	}
	if _, err := c.Call(ctx, 3, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("call with an ended context: %v", err)
	}
}

// A server that answers again and again does not stop the reader.
func TestClientDuplicateReplies(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	for range 10 {
		done := start(background(t), c, 1, nil)
		b, err := echo(server.receive()).Marshal()
		wantErr(t, err, nil)
		// In one Write, so that the reader has all of them at once.
		server.Write(bytes.Repeat(rpc.AppendRecord(nil, b, 0), 10))
		wantErr(t, (<-done).err, nil)
	}
}

// After 2^32 calls the numbers begin again, but not with one in use.
func TestClientXIDInUse(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	var calls []*rpc.Call
	var done []<-chan result
	for i := range uint32(3) {
		c.SetXID(1<<32 - 1)
		done = append(done, start(background(t), c, i, binary.BigEndian.AppendUint32(nil, i)))
		calls = append(calls, server.receive())
	}
	for i, call := range calls {
		if call.XID != uint32(i) {
			t.Errorf("call %d has XID %d", i, call.XID)
		}
		server.send(echo(call))
		r := <-done[i]
		wantErr(t, r.err, nil)
		if !bytes.Equal(r.results, call.Args) {
			t.Errorf("call %d got %x", i, r.results)
		}
	}
}

// A peer that does not read blocks the stream, but no caller.
func TestClientCancelWhileWriting(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	ctx, cancel := context.WithCancel(background(t))
	calls := []<-chan result{start(ctx, c, 1, nil), start(ctx, c, 2, nil)}
	begun := make([]byte, 1)
	if _, err := server.Read(begun); err != nil {
		t.Fatal(err)
	}
	cancel()
	for _, done := range calls {
		wantErr(t, (<-done).err, context.Canceled)
	}
	// The record that was begun is whole when the peer reads again, and no
	// other follows it.
	if _, err := rpc.ReadRecord(io.MultiReader(bytes.NewReader(begun), server), 1<<10); err != nil {
		t.Fatal(err)
	}
	done := start(background(t), c, 3, nil)
	call := server.receive()
	if call.Procedure != 3 {
		t.Errorf("server got procedure %d", call.Procedure)
	}
	server.send(echo(call))
	wantErr(t, (<-done).err, nil)
}

func TestClientClose(t *testing.T) {
	c, server := pipe(t, rpc.Config{})
	waiting := start(background(t), c, 1, nil)
	server.receive()
	writing := start(background(t), c, 2, nil)
	wantErr(t, c.Close(), nil)
	wantErr(t, (<-waiting).err, net.ErrClosed)
	wantErr(t, (<-writing).err, net.ErrClosed)
	wantErr(t, c.Null(background(t)), net.ErrClosed)
	wantErr(t, c.Close(), nil)
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("server reads %v, want EOF", err)
	}
}

func TestClientBroken(t *testing.T) {
	reply := func(r rpc.Reply) func(xid uint32) []byte {
		return func(xid uint32) []byte {
			r.XID = xid
			b, err := r.Marshal()
			wantErr(t, err, nil)
			return rpc.AppendRecord(nil, b, 0)
		}
	}
	tests := []struct {
		name string
		sent func(xid uint32) []byte
		want error
	}{
		{"end of stream", func(uint32) []byte { return nil }, io.EOF},
		{"half a header", func(uint32) []byte { return []byte{0x80, 0} }, io.ErrUnexpectedEOF},
		{"half a record", func(uint32) []byte { return []byte{0x80, 0, 0, 8, 1} }, io.ErrUnexpectedEOF},
		{"larger than allowed", reply(rpc.Reply{Results: make([]byte, 80)}), rpc.ErrRecordTooLarge},
		{"no reply", func(uint32) []byte { return rpc.AppendRecord(nil, []byte("HTTP/1.1"), 0) }, rpc.ErrProtocol},
		{"a call", func(uint32) []byte { return rpc.AppendRecord(nil, make([]byte, 24), 0) }, rpc.ErrProtocol},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, server := pipe(t, rpc.Config{MaxReply: 100})
			var waiting []<-chan result
			var xid uint32
			for range 3 {
				waiting = append(waiting, start(background(t), c, 1, nil))
				xid = server.receive().XID
			}
			server.Write(tt.sent(xid))
			server.Close()
			for _, done := range waiting {
				wantErr(t, (<-done).err, tt.want)
			}
			wantErr(t, c.Null(background(t)), tt.want)
		})
	}
}

func TestClientReplyAtTheLimit(t *testing.T) {
	c, server := pipe(t, rpc.Config{MaxReply: 100})
	done := start(background(t), c, 1, nil)
	server.send(&rpc.Reply{XID: server.receive().XID, Results: make([]byte, 76)}) // and 24 around them
	wantErr(t, (<-done).err, nil)
}

// oneAnswer is a connection that echoes one call and ends at once, in the same
// Read.
type oneAnswer struct {
	net.Conn
	reply chan []byte
}

func (c oneAnswer) Write(b []byte) (int, error) {
	call, err := rpc.ParseCall(b[4:])
	if err != nil {
		return 0, err
	}
	reply, err := echo(call).Marshal()
	if err != nil {
		return 0, err
	}
	c.reply <- rpc.AppendRecord(nil, reply, 0)
	return len(b), nil
}

func (c oneAnswer) Read(b []byte) (int, error) { return copy(b, <-c.reply), io.EOF }

// The answer of a server that hangs up at once counts.
func TestClientReplyThenEnd(t *testing.T) {
	noLeaks(t)
	for range 100 {
		near, far := net.Pipe()
		c := rpc.NewClient(oneAnswer{near, make(chan []byte, 1)}, rpc.Config{})
		wantErr(t, c.Null(background(t)), nil)
		wantErr(t, c.Null(background(t)), io.EOF)
		c.Close()
		far.Close()
	}
}

// unwritable is a connection whose writes fail and whose reads go on.
type unwritable struct{ net.Conn }

func (unwritable) Write([]byte) (int, error) { return 0, syscall.EPIPE }

// A write that fails breaks the client with what the peer said last, or if it
// said nothing, with the failure.
func TestClientWriteFails(t *testing.T) {
	for name, tt := range map[string]struct {
		peer func(net.Conn)
		want error
	}{
		"silent peer": {func(net.Conn) {}, syscall.EPIPE},
		"last words": {func(conn net.Conn) {
			time.Sleep(20 * time.Millisecond)
			rpc.WriteRecord(conn, []byte("bye!"))
		}, rpc.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			near, far := net.Pipe()
			defer far.Close()
			c := rpc.NewClient(unwritable{near}, rpc.Config{})
			done := start(background(t), c, 0, nil)
			tt.peer(far)
			wantErr(t, (<-done).err, tt.want)
			wantErr(t, c.Close(), nil)
		})
	}
}

// A client whose connection broke has no goroutines left, closed or not.
func TestClientBrokenLeavesNothing(t *testing.T) {
	noLeaks(t)
	near, far := net.Pipe()
	c := rpc.NewClient(near, rpc.Config{})
	far.Close()
	wantErr(t, c.Null(background(t)), io.EOF)
}

func TestClientBadArguments(t *testing.T) {
	c, _ := pipe(t, rpc.Config{})
	if _, err := c.Call(background(t), 1, sample(3)); err == nil || errors.Is(err, rpc.ErrProtocol) {
		t.Errorf("arguments of 3 bytes: %v", err)
	}
}

// concurrently makes calls of different sizes from several goroutines.
func concurrently(t *testing.T, c *rpc.Client) {
	t.Helper()
	ctx := background(t)
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			for i := range 25 {
				args := sample(4 * (worker*331 + i*17))
				switch results, err := c.Call(ctx, uint32(i), args); {
				case err != nil:
					t.Errorf("worker %d: %v", worker, err)
					return
				case !bytes.Equal(results, args):
					t.Errorf("worker %d: results of another call", worker)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkCall(b *testing.B) {
	for _, size := range []int{0, 4 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("%d", size), func(b *testing.B) {
			near, far := net.Pipe()
			go func() {
				for {
					record, err := rpc.ReadRecord(far, 2<<20)
					if err != nil {
						return
					}
					call, err := rpc.ParseCall(record)
					if err != nil {
						return
					}
					reply, _ := echo(call).Marshal()
					rpc.WriteRecord(far, reply)
				}
			}()
			c := rpc.NewClient(near, rpc.Config{})
			defer c.Close()
			args := make([]byte, size)
			b.SetBytes(int64(2 * size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Call(b.Context(), 1, args); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
