// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent_test

import (
	"log/slog"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/sessions"
	"rpctls/rpctlscd"
	"rpctls/rpctlssd"
	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

// What succeeds is remembered before the kernel hears of it, with the certificate
// and by what finds the socket; what fails is not.
func TestSessionsAreRemembered(t *testing.T) {
	fakeInstall(t)
	s, other := newSite(t), newSite(t)
	serverID := s.issue(t, "server", serverOptions())
	clientID := s.issue(t, "client", certstest.Options{CommonName: "the client"})
	for _, tt := range []struct {
		name           string
		client, server string
		mode           upcall.AuthMode
		status         unix.Errno
		certificate    string // of the client
	}{
		{name: "mutual TLS", client: s.trust() + clientID, server: serverID + s.trust(), mode: upcall.X509, certificate: "CN=the client"},
		{name: "TLS", client: s.trust(), server: serverID + s.trust(), mode: upcall.Unauthenticated},
		{name: "refused", client: other.trust(), server: serverID + s.trust(), mode: upcall.Unauthenticated, status: unix.EACCES},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, srv := upcalltest.SocketPair(t)
			registry := func() *sessions.Registry {
				return sessions.New(sessions.Config{Directory: t.TempDir(), Daemon: "test", Log: slog.New(slog.DiscardHandler)})
			}
			known := map[string]*sessions.Registry{"client": registry(), "server": registry()}
			ch := startWith(t, rpctlscd.Program(), tt.client, slog.LevelDebug, known["client"])
			sh := startWith(t, rpctlssd.Program(), tt.server, slog.LevelDebug, known["server"])
			sp := sh.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
			cp := ch.kernel.Submit(upcalltest.Spec{Attributes: clientRequest(tt.mode), Socket: c})
			if a := ch.kernel.Wait(cp, bound); a.Status != tt.status {
				t.Fatalf("client's status %v", a.Status)
			}
			sh.kernel.Wait(sp, bound)
			for role, r := range known {
				list := r.Sessions()
				if tt.status != 0 {
					if len(list) != 0 {
						t.Errorf("%s remembers %+v", role, list[0])
					}
					continue
				}
				if len(list) != 1 {
					t.Fatalf("%s remembers %d sessions", role, len(list))
				}
				conn, peer := c, srv
				if role == "server" {
					conn, peer = srv, c
				}
				var cookie uint64
				raw, err := conn.SyscallConn()
				if err != nil {
					t.Fatal(err)
				}
				if err := raw.Control(func(fd uintptr) { cookie, err = unix.GetsockoptUint64(int(fd), unix.SOL_SOCKET, unix.SO_COOKIE) }); err != nil {
					t.Fatal(err)
				}
				i := list[0].Info()
				if err != nil || list[0].Cookie != cookie || i.Local.String() != conn.LocalAddr().String() || i.Peer.String() != peer.LocalAddr().String() {
					t.Errorf("%s: %+v, cookie %x, %v", role, i, cookie, err)
				}
				if i.Role != role || list[0].Generation != 1 || i.Mutual != (tt.mode == upcall.X509) || i.Began.IsZero() || list[0].Cipher == 0 {
					t.Errorf("%s: %+v", role, i)
				}
				switch {
				case role == "client":
					chain, err := list[0].Chain()
					if err != nil || i.PeerName != "server.test" || i.Certificate == nil || i.Certificate.Fingerprint != certs.Fingerprint(chain[0]) || i.Certificate.Subject != "CN=the server" {
						t.Errorf("client: %+v, %v", i, err)
					}
				case tt.certificate == "" && i.Certificate != nil, tt.certificate != "" && (i.Certificate == nil || i.Certificate.Subject != tt.certificate):
					t.Errorf("server: %+v", i)
				}
			}
		})
	}
}
