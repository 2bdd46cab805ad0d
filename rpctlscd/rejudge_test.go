// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/config"
	"rpctls/internal/pin"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
)

// A session with a server is judged by trust, CRLs, name and pins, as the block
// that is its now says.
func TestRejudge(t *testing.T) {
	dir, ca := t.TempDir(), certstest.MustCA(t, certstest.CAOptions{})
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: "other"})
	host := ca.MustIssue(t, certstest.Options{CommonName: "server", DNS: []string{"server.test"}})
	for name, b := range map[string][]byte{
		"ca.pem": ca.PEM(), "other.pem": other.PEM(),
		"list.crl": ca.MustCRL(t, certstest.Serials(host), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust := fmt.Sprintf("trust = %q\n", dir+"/ca.pem")
	pinned := pin.Of(host.Cert)
	for _, tt := range []struct {
		name, config, peer string
		want               reason.Reason
	}{
		{"good", trust, "server.test", reason.OK},
		{"revoked", trust + fmt.Sprintf("crl = [%q]\n", dir+"/list.crl"), "server.test", reason.Revoked},
		{"another CA", fmt.Sprintf("trust = %q\n", dir+"/other.pem"), "server.test", reason.UnknownCA},
		{"another name", trust, "other.test", reason.WrongName},
		{"pinned", trust + "[[server]]\nmatch = [\"server.test\"]\npin = [\"" + pinned.String() + "\"]\n", "server.test", reason.OK},
		{"pinned to another", trust + "[[server]]\nmatch = [\"192.0.2.0/24\"]\npin = [\"sha256:" + strings.Repeat("00", 32) + "\"]\n", "server.test", reason.PinMismatch},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(dir, "rpctlscd.toml")
			if err := os.WriteFile(path, []byte(tt.config), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Load(path)
			if err != nil {
				t.Fatal(err)
			}
			live, err := certs.NewLive(func(f *certs.Files) (*Loaded, error) { return Build(c, f) })
			if err != nil {
				t.Fatal(err)
			}
			r := &Role{live: live}
			s := &sessions.Session{ID: sockdiag.ID{Remote: netip.MustParseAddrPort("192.0.2.1:2049")}, PeerName: tt.peer}
			if err := r.Rejudge(s, host.Chain(), time.Now()); reason.Of(err) != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
			// The handshake says the same.
			plan := live.Get().find(tt.peer, "192.0.2.1").plan(tt.peer, false, config.ALPNPrefer)
			if err := plan.TLS.VerifyConnection(tls.ConnectionState{PeerCertificates: host.Chain()}); reason.Of(err) != tt.want {
				t.Errorf("in the handshake: %v, want %s", err, tt.want)
			}
		})
	}
	t.Run("staple", func(t *testing.T) {
		trust, err := certs.NewTrust([]*x509.Certificate{ca.Cert})
		if err != nil {
			t.Fatal(err)
		}
		plan := server{trust: trust}.plan("server.test", false, config.ALPNPrefer)
		for status, want := range map[int]reason.Reason{ocsp.Good: reason.OK, ocsp.Revoked: reason.Revoked} {
			b, err := ocsp.CreateResponse(ca.Cert, ca.Cert, ocsp.Response{
				Status: status, SerialNumber: host.Cert.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
			}, ca.Key)
			if err != nil {
				t.Fatal(err)
			}
			if err := plan.TLS.VerifyConnection(tls.ConnectionState{PeerCertificates: host.Chain(), OCSPResponse: b}); reason.Of(err) != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}
