// SPDX-License-Identifier: BSD-3-Clause

package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

// dialer returns one for NFSv4.
func dialer(cfg *tls.Config) *rpc.Dialer {
	return &rpc.Dialer{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4, TLS: cfg}
}

func TestDial(t *testing.T) {
	server, client := rpctest.TLSConfigs(t)
	mutual, mutualClient := server.Clone(), client.Clone()
	mutual.ClientAuth, mutual.ClientCAs = tls.RequireAndVerifyClientCert, client.RootCAs
	mutualClient.Certificates = server.Certificates

	tests := []struct {
		name           string
		server, client *tls.Config
		program        uint32
		version        uint32
	}{
		{"NFSv3 in the clear", nil, nil, rpc.ProgramNFS, rpc.NFSVersion3},
		{"NFSv4 in the clear", nil, nil, rpc.ProgramNFS, rpc.NFSVersion4},
		{"server with TLS, client without", server, nil, rpc.ProgramNFS, rpc.NFSVersion4},
		{"NFSv3 over TLS", server, client, rpc.ProgramNFS, rpc.NFSVersion3},
		{"NFSv4 over TLS", server, client, rpc.ProgramNFS, rpc.NFSVersion4},
		{"NFSv4 over mutual TLS", mutual, mutualClient, rpc.ProgramNFS, rpc.NFSVersion4},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			addr := (&rpctest.Server{TLS: tt.server}).Start(t)
			d := dialer(tt.client)
			d.Program, d.Version = tt.program, tt.version
			c, err := d.DialContext(background(t), "tcp", addr)
			wantErr(t, err, nil)
			defer c.Close()
			wantErr(t, c.Null(background(t)), nil)
			wantErr(t, c.Null(background(t)), nil)

			session, secure := c.Conn().(*tls.Conn)
			if secure != (tt.client != nil) {
				t.Fatalf("connection is a %T", c.Conn())
			}
			timing := c.Timing()
			if timing.Connect <= 0 || (timing.Probe > 0) != secure || (timing.Handshake > 0) != secure ||
				timing.Total() != timing.Connect+timing.Probe+timing.Handshake {
				t.Errorf("timing: %+v", timing)
			}
			if !secure {
				return
			}
			if state := session.ConnectionState(); state.Version != tls.VersionTLS13 || state.NegotiatedProtocol != rpc.ALPN {
				t.Errorf("version %#x, protocol %q", state.Version, state.NegotiatedProtocol)
			}
		})
	}
}

func TestDialConcurrentCalls(t *testing.T) {
	server, client := rpctest.TLSConfigs(t)
	for name, cfg := range map[string]*tls.Config{"clear": nil, "TLS": client} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			addr := (&rpctest.Server{TLS: server, Handler: echo}).Start(t)
			c, err := dialer(cfg).DialContext(background(t), "tcp", addr)
			wantErr(t, err, nil)
			defer c.Close()
			concurrently(t, c)
		})
	}
}

// probed reads the probe and returns its XID.
func probed(t *testing.T, conn net.Conn) uint32 {
	call := fakeServer{t, conn}.receive()
	if call.Cred.Flavor != rpc.AuthTLS || call.Procedure != rpc.ProcedureNull {
		t.Errorf("probe is %+v", call)
	}
	return call.XID
}

func TestDialProbeFails(t *testing.T) {
	verifier := func(body string) rpc.OpaqueAuth { return rpc.OpaqueAuth{Body: []byte(body)} }
	answer := func(r rpc.Reply) func(*testing.T, net.Conn) {
		return func(t *testing.T, conn net.Conn) {
			r.XID += probed(t, conn)
			fakeServer{t, conn}.send(&r)
		}
	}
	raw := func(b []byte) func(*testing.T, net.Conn) {
		return func(t *testing.T, conn net.Conn) {
			probed(t, conn)
			conn.Write(b)
		}
	}
	tests := []struct {
		name   string
		server func(*testing.T, net.Conn)
		want   error // nil: only a *ReplyError
	}{
		{"no STARTTLS", answer(rpc.Reply{}), rpc.ErrNoTLS},
		{"other verifier", answer(rpc.Reply{Verf: verifier("STOPTLS!")}), rpc.ErrNoTLS},
		{"AUTH_ERROR", answer(rpc.Reply{Stat: rpc.MsgDenied, RejectStat: rpc.AuthError, AuthStat: rpc.AuthRejectedCred}), rpc.ErrNoTLS},
		{"no such version", answer(rpc.Reply{Verf: verifier("STARTTLS"), AcceptStat: rpc.ProgMismatch, Low: 2, High: 3}), nil},
		{"XID of another call", answer(rpc.Reply{XID: 1, Verf: verifier("STARTTLS")}), rpc.ErrProtocol},
		{"results", answer(rpc.Reply{Verf: verifier("STARTTLS"), Results: make([]byte, 8)}), rpc.ErrProtocol},
		{"large reply", answer(rpc.Reply{Verf: verifier("STARTTLS"), Results: make([]byte, 2048)}), rpc.ErrRecordTooLarge},
		{"no RPC", raw([]byte("SSH-2.0-OpenSSH")), rpc.ErrRecordTooLarge},
		{"half a reply", raw([]byte{0x80, 0, 0, 24, 0}), io.ErrUnexpectedEOF},
		{"close", func(t *testing.T, conn net.Conn) { probed(t, conn) }, io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			addr := peer(t, func(conn net.Conn) { tt.server(t, conn) })
			c, err := dialer(&tls.Config{}).DialContext(background(t), "tcp", addr)
			if c != nil || err == nil {
				t.Fatalf("got %v, %v", c, err)
			}
			if tt.want != nil {
				wantErr(t, err, tt.want)
			} else if _, ok := errors.AsType[*rpc.ReplyError](err); !ok || errors.Is(err, rpc.ErrNoTLS) {
				t.Errorf("got %v, want a *ReplyError only", err)
			}
			dial, ok := errors.AsType[*rpc.DialError](err)
			if !ok || dial.Step != rpc.StepProbe || dial.Timing.Connect <= 0 || dial.Timing.Probe <= 0 || dial.Timing.Handshake != 0 {
				t.Errorf("got %#v", dial)
			}
		})
	}
}

func TestDialServerWithoutTLS(t *testing.T) {
	noLeaks(t)
	_, client := rpctest.TLSConfigs(t)
	addr := (&rpctest.Server{}).Start(t)
	_, err := dialer(client).DialContext(background(t), "tcp", addr)
	wantErr(t, err, rpc.ErrNoTLS)
	if want := "probe: server does not offer TLS: call denied: AUTH_ERROR, AUTH_BADCRED"; err.Error() != want {
		t.Errorf("text %q, want %q", err, want)
	}
}

func TestDialRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	wantErr(t, err, nil)
	l.Close()
	_, err = dialer(nil).DialContext(background(t), "tcp", l.Addr().String())
	wantErr(t, err, syscall.ECONNREFUSED)
	if dial, ok := errors.AsType[*rpc.DialError](err); !ok || dial.Step != rpc.StepConnect {
		t.Errorf("got %#v", err)
	}
}

// A server that stalls, at any step, costs no more than the context allows.
func TestDialStalls(t *testing.T) {
	stall := func(conn net.Conn) { io.Copy(io.Discard, conn) }
	tests := []struct {
		name   string
		server func(*testing.T, net.Conn)
		step   rpc.Step
	}{
		{"before the reply", func(_ *testing.T, conn net.Conn) { stall(conn) }, rpc.StepProbe},
		{"within the reply", func(t *testing.T, conn net.Conn) {
			probed(t, conn)
			conn.Write([]byte{0x80, 0, 0, 24, 0})
			stall(conn)
		}, rpc.StepProbe},
		{"in the handshake", func(t *testing.T, conn net.Conn) {
			fakeServer{t, conn}.send(rpc.ProbeReply(rpc.ProbeCall(probed(t, conn), 0, 0)))
			stall(conn)
		}, rpc.StepHandshake},
	}
	contexts := map[string]struct {
		make func() (context.Context, context.CancelFunc)
		want error
	}{
		"deadline": {func() (context.Context, context.CancelFunc) {
			return context.WithTimeout(context.Background(), 150*time.Millisecond)
		}, context.DeadlineExceeded},
		"cancel": {func() (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(context.Background())
			time.AfterFunc(150*time.Millisecond, cancel)
			return ctx, cancel
		}, context.Canceled},
	}
	for _, tt := range tests {
		for name, c := range contexts {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				noLeaks(t)
				addr := peer(t, func(conn net.Conn) { tt.server(t, conn) })
				ctx, cancel := c.make()
				defer cancel()
				_, err := dialer(&tls.Config{ServerName: "localhost"}).DialContext(ctx, "tcp", addr)
				wantErr(t, err, c.want)
				if dial, ok := errors.AsType[*rpc.DialError](err); !ok || dial.Step != tt.step {
					t.Errorf("got %v, want step %s", err, tt.step)
				}
			})
		}
	}
}

// Whatever the server sends right behind its answer, in the same segment, is
// what the handshake reads first.
func TestDialEarlyBytes(t *testing.T) {
	noLeaks(t)
	const early = "\x16\x03\x03\x00\x05early"
	addr := peer(t, func(conn net.Conn) {
		b, err := rpc.ProbeReply(rpc.ProbeCall(probed(t, conn), 0, 0)).Marshal()
		if err != nil {
			t.Error(err)
		}
		conn.Write(append(rpc.AppendRecord(nil, b, 0), early...))
	})
	broken := errors.New("that was all")
	d := dialer(&tls.Config{})
	d.Handshake = func(_ context.Context, conn net.Conn, _ *tls.Config) (net.Conn, error) {
		if got, err := io.ReadAll(conn); err != nil || string(got) != early {
			t.Errorf("handshake reads %q, %v; want %q", got, err, early)
		}
		return nil, broken
	}
	_, err := d.DialContext(background(t), "tcp", addr)
	wantErr(t, err, broken)
}

// The same with a whole handshake: the peer is the TLS client, so its
// ClientHello is on the way before the dialer has read the answer.
func TestDialEarlyClientHello(t *testing.T) {
	noLeaks(t)
	serverConfig, clientConfig := rpctest.TLSConfigs(t)
	clientConfig.ServerName = "localhost"
	addr := peer(t, func(raw net.Conn) {
		b, err := rpc.ProbeReply(rpc.ProbeCall(probed(t, raw), 0, 0)).Marshal()
		if err != nil {
			t.Error(err)
		}
		conn := tls.Client(&prefixWriter{Conn: raw, prefix: rpc.AppendRecord(nil, b, 0)}, clientConfig)
		s := fakeServer{t, conn}
		s.send(echo(s.receive()))
	})
	d := dialer(serverConfig)
	d.Handshake = func(ctx context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error) {
		c := tls.Server(conn, cfg)
		return c, c.HandshakeContext(ctx)
	}
	c, err := d.DialContext(background(t), "tcp", addr)
	wantErr(t, err, nil)
	defer c.Close()
	wantErr(t, c.Null(background(t)), nil)
}

// A prefixWriter writes prefix together with the first bytes.
type prefixWriter struct {
	net.Conn
	prefix []byte
}

func (w *prefixWriter) Write(b []byte) (int, error) {
	n := len(w.prefix)
	written, err := w.Conn.Write(append(w.prefix, b...))
	w.prefix = nil
	return max(written-n, 0), err
}

func TestDialHandshakeFails(t *testing.T) {
	server, client := rpctest.TLSConfigs(t)
	old := server.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	other := server.Clone()
	other.NextProtos = []string{"h2"}
	name := client.Clone()
	name.ServerName = "elsewhere.example"
	any12 := client.Clone()
	any12.MinVersion = tls.VersionTLS12
	tests := []struct {
		name           string
		server, client *tls.Config
	}{
		{"unknown authority", server, &tls.Config{}},
		{"other name", server, name},
		{"TLS 1.2, whatever the caller allows", old, any12},
		{"other ALPN", other, client},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			noLeaks(t)
			addr := (&rpctest.Server{TLS: tt.server}).Start(t)
			_, err := dialer(tt.client).DialContext(background(t), "tcp", addr)
			if dial, ok := errors.AsType[*rpc.DialError](err); !ok || dial.Step != rpc.StepHandshake || dial.Timing.Handshake <= 0 {
				t.Errorf("got %#v", err)
			}
		})
	}
}

// A server that wants a certificate says so after the client is done, and the
// call says it, even if its own write already failed.
func TestDialCertificateMissing(t *testing.T) {
	noLeaks(t)
	server, client := rpctest.TLSConfigs(t)
	server.ClientAuth, server.ClientCAs = tls.RequireAndVerifyClientCert, client.RootCAs
	addr := (&rpctest.Server{TLS: server}).Start(t)
	c, err := dialer(client).DialContext(background(t), "tcp", addr)
	wantErr(t, err, nil)
	defer c.Close()
	if err := c.Null(background(t)); err == nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("got %v, want the server's alert", err)
	}
}

// What failed is closed, whatever failed.
func TestDialFailureCloses(t *testing.T) {
	for name, reply := range map[string]func(*rpc.Call) *rpc.Reply{"probe": rpctest.Refuse, "handshake": rpc.ProbeReply} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			end := make(chan error, 1)
			addr := peer(t, func(conn net.Conn) {
				s := fakeServer{t, conn}
				s.send(reply(s.receive()))
				_, err := conn.Read(make([]byte, 1))
				end <- err
			})
			broken := errors.New("broken")
			d := dialer(&tls.Config{})
			d.Handshake = func(context.Context, net.Conn, *tls.Config) (net.Conn, error) { return nil, broken }
			if _, err := d.DialContext(background(t), "tcp", addr); err == nil {
				t.Error("no error")
			}
			select {
			case err := <-end:
				wantErr(t, err, io.EOF)
			case <-time.After(10 * time.Second):
				t.Error("the connection is still open")
			}
		})
	}
}

func TestDialConfig(t *testing.T) {
	noLeaks(t)
	server, _ := rpctest.TLSConfigs(t)
	addr := (&rpctest.Server{TLS: server}).Start(t)
	_, port, err := net.SplitHostPort(addr)
	wantErr(t, err, nil)
	seen := errors.New("seen")
	tests := []struct {
		host string
		cfg  *tls.Config
		want string
	}{
		{"127.0.0.1", &tls.Config{}, "[sunrpc] 0x304 127.0.0.1"},
		{"localhost", &tls.Config{MinVersion: tls.VersionTLS12}, "[sunrpc] 0x304 localhost"},
		{"127.0.0.1", &tls.Config{NextProtos: []string{"x"}, ServerName: "s", MinVersion: 0x305}, "[x] 0x305 s"},
	}
	for _, tt := range tests {
		d := dialer(tt.cfg)
		d.Handshake = func(_ context.Context, _ net.Conn, cfg *tls.Config) (net.Conn, error) {
			if got := fmt.Sprintf("%v %#x %s", cfg.NextProtos, cfg.MinVersion, cfg.ServerName); got != tt.want {
				t.Errorf("config is %s, want %s", got, tt.want)
			}
			if cfg == d.TLS {
				t.Error("the caller's config is passed on")
			}
			return nil, seen
		}
		_, err := d.DialContext(background(t), "tcp4", net.JoinHostPort(tt.host, port))
		wantErr(t, err, seen)
	}
}

// The zone of a link-local address is no part of the server's name.
func TestDialZone(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6: %v", err)
	}
	defer l.Close()
	server, client := rpctest.TLSConfigs(t)
	ctx := background(t)
	go func() {
		if conn, err := l.Accept(); err == nil {
			(&rpctest.Server{TLS: server}).ServeConn(ctx, conn)
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	wantErr(t, err, nil)
	c, err := dialer(client).DialContext(background(t), "tcp", net.JoinHostPort("::1%lo", port))
	wantErr(t, err, nil)
	defer c.Close()
	wantErr(t, c.Null(background(t)), nil)
}

// A context that ended is reported, and no probe succeeds after it.
func TestProbeEndedContext(t *testing.T) {
	noLeaks(t)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	wantErr(t, rpc.Probe(ctx, near, rpc.ProgramNFS, rpc.NFSVersion4), context.Canceled)
}

// A deadline from before does not outlive the probe, and the probe leaves none.
func TestProbeDeadlines(t *testing.T) {
	noLeaks(t)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	near.SetDeadline(time.Unix(1, 0))
	go func() {
		s := fakeServer{t, far}
		s.send(rpc.ProbeReply(s.receive()))
		s.Write([]byte("x"))
	}()
	ctx, cancel := context.WithTimeout(background(t), 10*time.Second)
	wantErr(t, rpc.Probe(ctx, near, rpc.ProgramNFS, rpc.NFSVersion4), nil)
	cancel()
	if _, err := near.Read(make([]byte, 1)); err != nil {
		t.Errorf("read after the probe: %v", err)
	}
}
