// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

// A fixture is a CA with a server and a client.
type fixture struct {
	ca     *certstest.CA
	server *tls.Config
	client *certs.Identity
	trust  *certs.Trust
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{ca: certstest.MustCA(t, certstest.CAOptions{CommonName: "probe CA"})}
	f.server = &tls.Config{
		Certificates: []tls.Certificate{f.ca.MustIssue(t, certstest.Options{CommonName: "server", DNS: []string{"server.test"}}).TLS()},
		NextProtos:   []string{rpc.ALPN},
	}
	f.ca.MustIssue(t, certstest.Options{CommonName: "client"}).MustWriteFiles(t, dir)
	var err error
	if f.client, err = certs.LoadIdentity(new(certs.Files), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	if f.trust, err = certs.NewTrust([]*x509.Certificate{f.ca.Cert}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) verify(cs tls.ConnectionState) error {
	_, err := f.trust.Verify(cs.PeerCertificates, certs.ServerAuth, "server.test", time.Now())
	return err
}

// run probes a server at an address of this host, under the name server.test.
func (f *fixture) run(t *testing.T, addr string, o Options) *Result {
	t.Helper()
	a := netip.MustParseAddrPort(addr)
	o.Host, o.Port = "server.test", a.Port()
	if o.Limit == 0 {
		o.Limit = 5 * time.Second
	}
	o.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{a.Addr(), netip.AddrFrom16(a.Addr().As16())}, nil // the same twice
	}
	r := Run(t.Context(), o)
	if len(r.Addresses) != 1 {
		t.Fatalf("%d addresses, want 1", len(r.Addresses))
	}
	return r
}

func TestWell(t *testing.T) {
	f := newFixture(t)
	cfg := f.server.Clone()
	cfg.ClientAuth = tls.RequestClientCert
	addr := (&rpctest.Server{TLS: cfg}).Start(t)
	r := f.run(t, addr, Options{Verify: f.verify, Identity: f.client, Export: "/x"})
	a := r.Addresses[0]
	if !a.Connect.OK || !a.Null.OK || !a.AuthTLS.OK || a.Anonymous == nil || a.Mutual == nil {
		t.Fatalf("%+v", a)
	}
	for _, s := range []*Session{a.Anonymous, a.Mutual} {
		if !s.Handshake.OK || s.Version != "TLS 1.3" || s.ALPN != "sunrpc" || s.Group == "" || s.Cipher == "" || s.Verified != "ok" || !s.Asked || !s.Null.OK || s.Tickets != 1 {
			t.Errorf("%+v", s)
		}
		if s.Handshake.Took <= 0 || len(s.Chain) == 0 || s.Chain[0].Names[0] != "server.test" || !strings.HasPrefix(s.Chain[0].Pin, "sha256:") {
			t.Errorf("%+v", s)
		}
		// The server has NULL only.
		if s.Export == nil || s.Export.OK || s.Export.Reason != "no_nfs" {
			t.Errorf("export: %+v", s.Export)
		}
	}
	if a.Anonymous.Shown || !a.Mutual.Shown {
		t.Error("the certificate was shown in the wrong session")
	}
}

// Who is not verified does not see the certificate.
func TestNothingShownToStrangers(t *testing.T) {
	f := newFixture(t)
	seen := make(chan int, 8)
	cfg := f.server.Clone()
	cfg.ClientAuth = tls.RequestClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		seen <- len(cs.PeerCertificates)
		return nil
	}
	addr := (&rpctest.Server{TLS: cfg}).Start(t)
	for _, o := range []Options{
		{Identity: f.client},
		{Identity: f.client, Verify: func(tls.ConnectionState) error {
			return &certs.VerifyError{Reason: certs.WrongName, Err: errors.New("no")}
		}},
	} {
		a := f.run(t, addr, o).Addresses[0]
		if a.Mutual != nil || a.Anonymous.Shown || o.Verify != nil && (a.Anonymous.Handshake.Reason != "wrong_name" || a.Anonymous.Verified != "wrong_name" || len(a.Anonymous.Chain) == 0) {
			t.Errorf("%+v", a.Anonymous)
		}
	}
	for len(seen) > 0 {
		if n := <-seen; n != 0 {
			t.Errorf("%d certificates were shown", n)
		}
	}
}

// The certificate is refused after the handshake, and it shows.
func TestLateAlert(t *testing.T) {
	f := newFixture(t)
	cfg := f.server.Clone()
	cfg.ClientAuth = tls.RequireAndVerifyClientCert
	cfg.ClientCAs = newFixture(t).trust.Pool()
	a := f.run(t, (&rpctest.Server{TLS: cfg}).Start(t), Options{Verify: f.verify, Identity: f.client}).Addresses[0]
	for s, alert := range map[*Session]string{a.Mutual: "unknown_ca", a.Anonymous: "certificate_required"} {
		if s == nil || !s.Handshake.OK || s.Null == nil || s.Null.OK || s.Null.Reason != "peer_alert" || !strings.Contains(s.Null.Error, "peer sent alert "+alert) {
			t.Errorf("want alert %s: %+v, %+v", alert, s, s.Null)
		}
	}
}

func TestFaults(t *testing.T) {
	f := newFixture(t)
	shake := func(peer func(net.Conn)) rpctest.Server {
		return rpctest.Server{TLS: f.server, Handshake: func(_ context.Context, c net.Conn, _ *tls.Config) (net.Conn, error) {
			peer(c)
			return nil, errors.New("misbehaved")
		}}
	}
	with := func(change func(*tls.Config)) rpctest.Server {
		cfg := f.server.Clone()
		change(cfg)
		return rpctest.Server{TLS: cfg}
	}
	refuse := func(stat rpc.AcceptStat) func(*rpc.Call) *rpc.Reply {
		return func(c *rpc.Call) *rpc.Reply { return &rpc.Reply{XID: c.XID, AcceptStat: stat} }
	}
	for _, tt := range []struct {
		name   string
		server rpctest.Server
		step   func(Address) *Step
		want   string
	}{
		{"no NFS", rpctest.Server{Handler: refuse(rpc.ProgUnavail)}, func(a Address) *Step { return a.Null }, "no_nfs"},
		{"no TLS", rpctest.Server{}, func(a Address) *Step { return a.AuthTLS }, "no_tls"},
		{"TLS 1.2", with(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), handshakeOf, "protocol_version"},
		{"another ALPN", with(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), handshakeOf, "alpn"},
		{"silence", shake(func(c net.Conn) { io.Copy(io.Discard, c) }), handshakeOf, "timeout"},
		{"hangs up", shake(func(c net.Conn) { c.Close() }), handshakeOf, "closed"},
		{"hangs up in between", shake(func(c net.Conn) { c.Read(make([]byte, 4096)); c.Write([]byte{22, 3, 3}); c.Close() }), handshakeOf, "closed"},
		{"garbage", shake(func(c net.Conn) { c.Read(make([]byte, 4096)); c.Write([]byte("HTTP/1.1 400 no\r\n")) }), handshakeOf, "not_tls"},
		{"another version of TLS", shake(serverHello12), handshakeOf, "protocol_version"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := Options{Verify: f.verify}
			if tt.name == "silence" {
				o.Limit = 200 * time.Millisecond
			}
			a := f.run(t, tt.server.Start(t), o).Addresses[0]
			if s := tt.step(a); s == nil || s.OK || s.Reason != tt.want || s.Error == "" {
				t.Errorf("%+v, want %s", s, tt.want)
			}
		})
	}
}

func handshakeOf(a Address) *Step {
	if a.Anonymous == nil {
		return nil
	}
	return &a.Anonymous.Handshake
}

// serverHello12 answers with a ServerHello of TLS 1.2, which nobody has asked for.
func serverHello12(c net.Conn) {
	c.Read(make([]byte, 4096))
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0xc0, 0x2f, 0) // no session, ECDHE_RSA_AES_128_GCM, no compression
	msg := append([]byte{2, 0, 0, byte(len(body))}, body...)
	c.Write(append([]byte{22, 3, 3, 0, byte(len(msg))}, msg...))
	io.Copy(io.Discard, c)
}

func TestNoWay(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	f := newFixture(t)
	if s := f.run(t, addr, Options{}).Addresses[0].Connect; s.OK || s.Reason != "refused" {
		t.Errorf("%+v", s)
	}
	r := Run(t.Context(), Options{Host: "x", Resolve: func(context.Context, string) ([]netip.Addr, error) { return nil, nil }})
	if r.Resolve.OK || r.Resolve.Reason != "name" || len(r.Addresses) != 0 {
		t.Errorf("%+v", r)
	}
	// What is no RPC.
	l, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096))
			c.Write([]byte("SSH-2.0-OpenSSH_10.0\r\n"))
			c.Close()
		}
	}()
	if s := f.run(t, l.Addr().String(), Options{}).Addresses[0].Null; s == nil || s.OK || s.Reason != "not_rpc" {
		t.Errorf("%+v", s)
	}
}

// What a server says is printed, and rules no terminal.
func TestPrintable(t *testing.T) {
	long := strings.Repeat("a\x1b[2J\n", 1000)
	if s := printable(long); len(s) > 2*maxText || strings.ContainsAny(s, "\x1b\n") {
		t.Errorf("%q", s)
	}
}
