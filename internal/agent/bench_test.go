// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent_test

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"strings"
	"testing"

	"rpctls/certs/certstest"
	"rpctls/ktls"
	"rpctls/rpc"
	"rpctls/rpctlssd"
	"rpctls/upcall/upcalltest"
)

// BenchmarkServer is the path of a server's request, from the kernel's
// announcement to its DONE, beside the handshake alone that package ktls would
// do for anybody. The client is in both.
func BenchmarkServer(b *testing.B) {
	fakeInstall(b)
	s := newSite(b)
	serverID := s.issue(b, "server", serverOptions())
	client := s.ca.MustIssue(b, certstest.Options{DNS: []string{"client.test"}})
	clientConfig := &tls.Config{
		Certificates: []tls.Certificate{client.TLS()}, InsecureSkipVerify: true,
		NextProtos: []string{rpc.ALPN}, CurvePreferences: []tls.CurveID{tls.X25519},
	}
	daemon := func(b *testing.B, config string) {
		h := startAt(b, rpctlssd.Program(), config, slog.LevelInfo)
		b.ReportAllocs()
		for b.Loop() {
			peer, srv := upcalltest.SocketPair(b)
			p := h.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
			if err := tls.Client(peer, clientConfig).Handshake(); err != nil {
				b.Fatal(err)
			}
			if a := h.kernel.Wait(p, bound); a.Status != 0 {
				b.Fatal(a.Status)
			}
			peer.Close()
			srv.Close()
		}
	}
	b.Run("daemon", func(b *testing.B) { daemon(b, serverID+s.trust()) })
	// Where clients are matters, and a hundred rules are asked in vain.
	b.Run("daemon with a policy", func(b *testing.B) {
		daemon(b, serverID+s.trust()+strings.Repeat("[[deny]]\ndns = [\"*.laptops.test\"]\nsubject = [\"CN=x,*\"]\nsource = [\"127.0.0.0/8\"]\n", 100)+"[[allow]]\nsource = [\"127.0.0.0/8\"]\n")
	})
	b.Run("handshake alone", func(b *testing.B) {
		cert, err := tls.LoadX509KeyPair(s.path("server/cert.pem"), s.path("server/key.pem"))
		if err != nil {
			b.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(s.ca.PEM())
		cfg := &tls.Config{
			Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert,
			ClientCAs: pool, NextProtos: []string{rpc.ALPN},
		}
		b.ReportAllocs()
		for b.Loop() {
			peer, srv := upcalltest.SocketPair(b)
			done := make(chan error, 1)
			go func() {
				session, err := ktls.Handshake(srv, ktls.RoleServer, cfg, ktls.Options{})
				if err == nil {
					session.Wipe()
				}
				done <- err
			}()
			if err := tls.Client(peer, clientConfig).Handshake(); err != nil {
				b.Fatal(err)
			}
			if err := <-done; err != nil {
				b.Fatal(err)
			}
			peer.Close()
			srv.Close()
		}
	})
}
