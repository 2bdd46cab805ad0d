// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/agent"
	"rpctls/internal/daemon"
	"rpctls/internal/history"
	"rpctls/internal/keylog"
	"rpctls/internal/logging"
	"rpctls/internal/metrics"
	"rpctls/internal/sessions"
	"rpctls/ktls"
	"rpctls/rpctlscd"
	"rpctls/rpctlssd"
	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

const bound = 15 * time.Second

// host is a daemon on a fake kernel.
type host struct {
	kernel *upcalltest.Kernel
	log    *logBuffer
	past   *history.Log
	counts *metrics.Handshakes
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start runs a daemon's role with the configuration in text.
func start[C, S any](t testing.TB, p daemon.Program[C, S], text string) *host {
	t.Helper()
	return startAt(t, p, text, slog.LevelDebug)
}

func startAt[C, S any](t testing.TB, p daemon.Program[C, S], text string, level slog.Level) *host {
	t.Helper()
	return startWith(t, p, text, level, nil)
}

func startWith[C, S any](t testing.TB, p daemon.Program[C, S], text string, level slog.Level, living *sessions.Registry) *host {
	t.Helper()
	return startTapped(t, p, text, level, living, keylog.New(slog.New(slog.DiscardHandler), nil))
}

func startTapped[C, S any](t testing.TB, p daemon.Program[C, S], text string, level slog.Level, living *sessions.Registry, tap *keylog.Tap) *host {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := p.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	live, err := certs.NewLive(func(f *certs.Files) (*S, error) { return p.Build(cfg, f) })
	if err != nil {
		t.Fatal(err)
	}
	h := &host{log: new(logBuffer), past: history.New(), counts: metrics.NewHandshakes()}
	log := slog.New(logging.NewText(h.log, p.Name, level))
	role, err := p.Role(cfg, live, log)
	if err != nil {
		t.Fatal(err)
	}
	a := agent.New(agent.Config{Role: role, RuntimeDirectory: t.TempDir(), Log: log, History: h.past, Sessions: living, Metrics: h.counts, KeyLog: tap})
	var link *upcall.Link
	h.kernel, link = upcalltest.New(t)
	l := upcall.NewListener(link, upcall.Config{Limit: 8, Report: func(err error) { log.Warn("report", "error", err) }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, a.Handle) }()
	t.Cleanup(func() {
		cancel()
		a.Stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if s := l.Stats(); s.InProgress != 0 || s.Accepted != s.Ended+s.HandedOver {
			t.Errorf("requests are unaccounted for: %+v", s)
		}
	})
	return h
}

// site is a CA and where its files are.
type site struct {
	dir string
	ca  *certstest.CA
}

func newSite(t testing.TB) site {
	s := site{t.TempDir(), certstest.MustCA(t, certstest.CAOptions{})}
	if err := os.WriteFile(s.path("ca.pem"), s.ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s site) path(name string) string { return filepath.Join(s.dir, name) }

// issue writes NAME/cert.pem and NAME/key.pem and returns the two
// configuration lines about them.
func (s site) issue(t testing.TB, name string, o certstest.Options) string {
	dir := s.path(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.ca.MustIssue(t, o).MustWriteFiles(t, dir)
	return fmt.Sprintf("certificate = %q\nprivate_key = %q\n", dir+"/cert.pem", dir+"/key.pem")
}

func (s site) trust() string { return fmt.Sprintf("trust = %q\n", s.path("ca.pem")) }

func clientRequest(mode upcall.AuthMode) upcall.Attributes {
	return upcall.Attributes{Role: upcall.Client, AuthMode: mode, PeerName: "server.test"}
}

func serverRequest() upcall.Attributes {
	return upcall.Attributes{Role: upcall.Server, AuthMode: upcall.X509}
}

// fakeInstall stands for a kernel with TLS.
func fakeInstall(t testing.TB) {
	t.Cleanup(agent.SetInstall(func(*ktls.Session, syscall.Conn) error { return nil }))
}

func serverOptions() certstest.Options {
	return certstest.Options{CommonName: "the server", DNS: []string{"server.test"}}
}

// Both daemons, each on its kernel, over one connection.
func TestBothDaemons(t *testing.T) {
	fakeInstall(t)
	t.Cleanup(agent.WaitForAlerts())
	s, other := newSite(t), newSite(t)
	past := time.Now().Add(-time.Hour)
	serverID := s.issue(t, "server", serverOptions())
	clientID := s.issue(t, "client", certstest.Options{CommonName: "the client", DNS: []string{"client.test"}})
	revoked := s.ca.MustIssue(t, serverOptions())
	if err := os.MkdirAll(s.path("revoked"), 0o755); err != nil {
		t.Fatal(err)
	}
	revoked.MustWriteFiles(t, s.path("revoked"))
	crl := s.ca.MustCRL(t, certstest.Serials(revoked), past, time.Now().Add(time.Hour))
	if err := os.WriteFile(s.path("list.crl"), crl, 0o644); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name           string
		client, server string // configuration
		mode           upcall.AuthMode
		clientStatus   unix.Errno
		serverStatus   unix.Errno
		authenticated  bool
		clientReason   string // in the client's log
		serverReason   string
		mutate         func(*upcall.Attributes)
	}{
		{
			name: "TLS", mode: upcall.Unauthenticated, client: s.trust(), server: serverID,
			clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "TLS with a client that has a certificate and keeps it", mode: upcall.Unauthenticated,
			client: s.trust() + clientID, server: serverID + s.trust(), clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "mutual TLS", mode: upcall.X509, client: s.trust() + clientID, server: serverID + s.trust(), authenticated: true,
			clientReason: `reason=ok cipher=[-A-Za-z0-9]+ group=X25519MLKEM768 alpn=sunrpc subject="CN=the server" fingerprint=[0-9a-f]{64} duration=\S+ errno=0`,
			serverReason: `peer=127.0.0.1:\d+ result=success reason=ok .*subject="CN=the client"`,
		},
		{
			name: "ALPN required by both", mode: upcall.Unauthenticated, client: s.trust() + "alpn = \"require\"\n",
			server: serverID + "alpn = \"require\"\n", clientReason: "reason=ok", serverReason: "reason=ok",
		},
		{
			name: "unknown CA", mode: upcall.Unauthenticated, client: other.trust(), server: serverID,
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: `reason=unknown_ca .*\(alert unknown_ca sent\)`, serverReason: "peer sent alert unknown_ca: it does not know the CA of our certificate",
		},
		{
			name: "expired", mode: upcall.Unauthenticated, client: s.trust(),
			server:       s.issue(t, "expired", certstest.Options{DNS: []string{"server.test"}, NotBefore: past.Add(-time.Hour), NotAfter: past}),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=expired", serverReason: "peer sent alert certificate_expired",
		},
		{
			name: "not yet valid", mode: upcall.Unauthenticated, client: s.trust(),
			server:       s.issue(t, "future", certstest.Options{DNS: []string{"server.test"}, NotBefore: time.Now().Add(time.Hour), NotAfter: time.Now().Add(2 * time.Hour)}),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=not_yet_valid", serverReason: "reason=peer_alert",
		},
		{
			name: "wrong name", mode: upcall.Unauthenticated, client: s.trust(),
			server:       s.issue(t, "wrong", certstest.Options{DNS: []string{"other.test"}, IPs: []string{"192.0.2.1"}}),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: `reason=wrong_name .*other\.test.*192\.0\.2\.1`, serverReason: "peer sent alert bad_certificate",
		},
		{
			name: "revoked", mode: upcall.Unauthenticated, client: s.trust() + fmt.Sprintf("crl = [%q]\n", s.path("list.crl")),
			server:       fmt.Sprintf("certificate = %q\nprivate_key = %q\n", s.path("revoked/cert.pem"), s.path("revoked/key.pem")),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=revoked", serverReason: "peer sent alert certificate_revoked",
		},
		{
			name: "revoked, where a block of its own has the trust", mode: upcall.Unauthenticated,
			client:       other.trust() + fmt.Sprintf("crl = [%q]\ncrl_stale = \"warn\"\n[[server]]\nmatch = [\"server.test\"]\n", s.path("list.crl")) + s.trust(),
			server:       fmt.Sprintf("certificate = %q\nprivate_key = %q\n", s.path("revoked/cert.pem"), s.path("revoked/key.pem")),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=revoked", serverReason: "peer sent alert certificate_revoked",
		},
		{
			name: "key usage", mode: upcall.Unauthenticated, client: s.trust(),
			server:       s.issue(t, "usage", certstest.Options{DNS: []string{"server.test"}, EKU: certstest.OIDs{certstest.ClientAuth}}),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=key_usage", serverReason: "peer sent alert unsupported_certificate",
		},
		{
			name: "pin that does not fit", mode: upcall.Unauthenticated, server: serverID,
			client:       s.trust() + "[[server]]\nmatch = [\"server.test\"]\npin = [\"sha256:" + strings.Repeat("00", 32) + "\"]\n",
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=pin_mismatch .*sha256:[0-9a-f]{64}", serverReason: "peer sent alert certificate_unknown",
		},
		{
			name: "client's CA is unknown: the alert is late", mode: upcall.X509, server: serverID + s.trust(),
			client:       s.trust() + other.issue(t, "client", certstest.Options{}),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=peer_alert .*unknown_ca", serverReason: `reason=unknown_ca .*\(alert unknown_ca sent\)`,
		},
		{
			name: "client's key usage", mode: upcall.X509, server: serverID + s.trust(),
			client:       s.trust() + s.issue(t, "cusage", certstest.Options{EKU: certstest.OIDs{certstest.ServerAuth}}),
			clientStatus: unix.EACCES, serverStatus: unix.EACCES, clientReason: "reason=peer_alert .*unsupported_certificate", serverReason: "reason=key_usage",
		},
		{
			name: "mutual TLS with a server that does not ask", mode: upcall.X509, client: s.trust() + clientID, server: serverID,
			clientStatus: unix.EACCES, clientReason: "reason=no_certificate_request", serverReason: "reason=",
		},
		{
			name: "certificate required, none sent", mode: upcall.Unauthenticated, client: s.trust(),
			server: serverID + s.trust() + "client_certificate = \"require\"\n", serverStatus: unix.EACCES,
			clientReason: "reason=ok", serverReason: "reason=no_certificate ",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, srv := upcalltest.SocketPair(t)
			ch, sh := start(t, rpctlscd.Program(), tt.client), start(t, rpctlssd.Program(), tt.server)
			sp := sh.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
			cp := ch.kernel.Submit(upcalltest.Spec{Attributes: clientRequest(tt.mode), Socket: c})
			if a := ch.kernel.Wait(cp, bound); a.Status != tt.clientStatus {
				t.Errorf("client's status %v, want %v", a.Status, tt.clientStatus)
			}
			a := sh.kernel.Wait(sp, bound)
			if a.Status != tt.serverStatus {
				t.Errorf("server's status %v, want %v", a.Status, tt.serverStatus)
			}
			if got := len(a.RemoteAuth) == 1 && a.RemoteAuth[0] != 0; got != tt.authenticated {
				t.Errorf("remote authentication %v", a.RemoteAuth)
			}
			wantLine(t, "client", ch.log, tt.clientReason)
			wantLine(t, "server", sh.log, tt.serverReason)
			wantCounted(t, "client", ch)
			wantCounted(t, "server", sh)
		})
	}
}

func wantLine(t *testing.T, who string, log *logBuffer, pattern string) {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(bound); ; time.Sleep(time.Millisecond) {
		if re.MatchString(log.String()) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s's log has no %q:\n%s", who, pattern, log)
			return
		}
	}
}

// wantCounted: the metrics have the one handshake that the log has, with the same
// words, its times and nothing else.
func wantCounted(t *testing.T, who string, h *host) {
	t.Helper()
	line := regexp.MustCompile(`result=(\S+) reason=(\S+)(?: cipher=(\S+) group=(\S+))?`).FindStringSubmatch(h.log.String())
	counts := h.counts.Counts()
	if len(line) == 0 || len(counts) != 1 {
		t.Fatalf("%s: counts %+v, log %q", who, counts, line)
	}
	want := metrics.Count{Reason: line[2], Cipher: line[3], Group: line[4], Count: 1}
	if want.Cipher == "" {
		want.Cipher, want.Group = metrics.None, metrics.None
	}
	if counts[0] != want {
		t.Errorf("%s: counted %+v, logged %+v", who, counts[0], want)
	}
	for _, d := range h.counts.Durations() {
		n := uint64(0)
		for _, c := range d.Counts {
			n += c
		}
		if (n == 1) != (d.Result == line[1]) || n > 1 || n == 1 && d.Part == metrics.Computing && d.Sum <= 0 {
			t.Errorf("%s: a %s, and %+v", who, line[1], d)
		}
	}
	if n := h.counts.HalfOpen(); n != 0 {
		t.Errorf("%s: %d are half open after the end", who, n)
	}
}

// What the kernel cannot be served with ends at once, without a handshake.
func TestRequestsThatEndAtOnce(t *testing.T) {
	s := newSite(t)
	tests := []struct {
		name   string
		mutate func(*upcall.Attributes)
		want   unix.Errno
		reason string
	}{
		{"mutual TLS without a certificate", func(a *upcall.Attributes) { a.AuthMode = upcall.X509 }, unix.EACCES, "reason=no_identity"},
		{"key serials", func(a *upcall.Attributes) {
			a.AuthMode, a.KeyPairs = upcall.X509, []upcall.KeyPair{{Certificate: 1, PrivateKey: -2}}
		}, unix.EACCES, "reason=named_identity"},
		{"the other role, without its daemon", func(a *upcall.Attributes) { a.Role = upcall.Server }, unix.EOPNOTSUPP, "missing=rpctlssd"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := upcalltest.SocketPair(t)
			h := start(t, rpctlscd.Program(), s.trust())
			a := clientRequest(upcall.Unauthenticated)
			tt.mutate(&a)
			p := h.kernel.Submit(upcalltest.Spec{Attributes: a, Socket: c})
			if got := h.kernel.Wait(p, bound); got.Status != tt.want {
				t.Errorf("status %v, want %v", got.Status, tt.want)
			}
			wantLine(t, "client", h.log, tt.reason)
			// Who asks when the kernel has been told finds it.
			events := h.past.Events(history.Query{Limit: 9, Peer: a.PeerName})
			if tt.want == unix.EACCES && (len(events) != 1 || "reason="+events[0].Reason != tt.reason || events[0].Errno != "EACCES" || events[0].OK() || !events[0].Mutual) {
				t.Errorf("history: %+v", events)
			}
		})
	}
}

// peer runs f with the other end of a server's connection and returns the
// server's answer and log.
func TestServerAndABadPeer(t *testing.T) {
	fakeInstall(t)
	s := newSite(t)
	cfg := s.issue(t, "server", serverOptions()) + s.trust() + "first_record_timeout = \"200ms\"\n"
	clientTLS := func(change func(*tls.Config)) func(*net.TCPConn) {
		return func(c *net.TCPConn) {
			tc := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"sunrpc"}}
			change(tc)
			tls.Client(c, tc).Handshake()
		}
	}
	tests := []struct {
		name   string
		peer   func(*net.TCPConn)
		want   unix.Errno
		reason string
	}{
		{"says nothing", func(*net.TCPConn) {}, unix.ETIMEDOUT, "reason=no_client_hello"},
		{"closes", func(c *net.TCPConn) { c.Close() }, unix.ETIMEDOUT, "reason=closed"},
		{"resets", func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, unix.ETIMEDOUT, "reason=reset"},
		{"talks HTTP", func(c *net.TCPConn) { c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }, unix.EACCES, "reason=not_tls"},
		{"sends a record that is too long", func(c *net.TCPConn) { c.Write([]byte{22, 3, 1, 0xff, 0xff, 0}) }, unix.EACCES, "reason=record_overflow"},
		{"has TLS 1.2 only", clientTLS(func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }), unix.EACCES, "reason=protocol_version"},
		{"wants another protocol", clientTLS(func(c *tls.Config) { c.NextProtos = []string{"h2"} }), unix.EACCES, "reason=alpn"},
		{"names no protocol", clientTLS(func(c *tls.Config) { c.NextProtos = nil }), 0, "reason=ok"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, srv := upcalltest.SocketPair(t)
			h := start(t, rpctlssd.Program(), cfg)
			p := h.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
			go tt.peer(c)
			if a := h.kernel.Wait(p, bound); a.Status != tt.want {
				t.Errorf("status %v, want %v\n%s", a.Status, tt.want, h.log)
			}
			wantLine(t, "server", h.log, tt.reason)
		})
	}
}

// Without kernel TLS the handshake's success must not be reported.
func TestInstallFailureIsReported(t *testing.T) {
	t.Cleanup(agent.SetInstall(func(*ktls.Session, syscall.Conn) error {
		return &ktls.InstallError{Op: "TLS_RX", Cipher: ktls.AES128GCM, Err: unix.EINVAL}
	}))
	s := newSite(t)
	c, srv := upcalltest.SocketPair(t)
	h := start(t, rpctlssd.Program(), s.issue(t, "server", serverOptions()))
	p := h.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
	go tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()
	if a := h.kernel.Wait(p, bound); a.Status != unix.EACCES {
		t.Errorf("status %v", a.Status)
	}
	wantLine(t, "server", h.log, "reason=no_kernel_tls .*TLS_RX")
}

// A server that demands a certificate says so, hangs up, and keys cannot be installed
// any more: its word is the reason, not that the connection is gone.
func TestLastWord(t *testing.T) {
	s := newSite(t)
	identity := s.ca.MustIssue(t, serverOptions())
	c, srv := upcalltest.SocketPair(t)
	gone := make(chan struct{})
	t.Cleanup(agent.SetInstall(func(*ktls.Session, syscall.Conn) error {
		<-gone
		return &ktls.InstallError{Op: "TCP_ULP", Cipher: ktls.AES128GCM, Err: unix.ENOTCONN}
	}))
	h := start(t, rpctlscd.Program(), s.trust())
	p := h.kernel.Submit(upcalltest.Spec{Attributes: clientRequest(upcall.Unauthenticated), Socket: c})
	go func() {
		defer close(gone)
		defer srv.Close()
		tls.Server(srv, &tls.Config{
			Certificates: []tls.Certificate{identity.TLS()}, NextProtos: []string{"sunrpc"}, ClientAuth: tls.RequireAnyClientCert,
			SessionTicketsDisabled: true,
		}).Handshake()
	}()
	if a := h.kernel.Wait(p, bound); a.Status != unix.EACCES {
		t.Errorf("status %v", a.Status)
	}
	wantLine(t, "client", h.log, "reason=peer_alert .*certificate_required")
}

// panicky is a role with a defect.
type panicky struct{ inPlan bool }

func (panicky) Role() upcall.Role { return upcall.Client }

func (p panicky) Plan(*upcall.Request) (agent.Plan, error) {
	if p.inPlan {
		panic("a defect in Plan")
	}
	return agent.Plan{}, unix.EIO
}

func (p panicky) Judge(_ *upcall.Request, res agent.Result) agent.Verdict {
	if !p.inPlan {
		panic("a defect in Judge")
	}
	return agent.Verdict{Status: unix.ETIMEDOUT}
}

// A defect costs the request that met it, which is answered, and nothing else.
func TestPanicsAreContained(t *testing.T) {
	for _, tt := range []panicky{{inPlan: true}, {inPlan: false}} {
		log := new(logBuffer)
		a := agent.New(agent.Config{Role: tt, Log: slog.New(logging.NewText(log, "d", slog.LevelDebug))})
		k, link := upcalltest.New(t)
		l := upcall.NewListener(link, upcall.Config{Limit: 1})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- l.Run(ctx, a.Handle) }()
		for range 2 {
			c, _ := upcalltest.SocketPair(t)
			p := k.Submit(upcalltest.Spec{Attributes: clientRequest(upcall.Unauthenticated), Socket: c})
			if got := k.Wait(p, bound); got.Status != unix.ETIMEDOUT {
				t.Errorf("%+v: status %v", tt, got.Status)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		wantLine(t, "daemon", log, "panic while serving a request.*a defect in")
	}
}
