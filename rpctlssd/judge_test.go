// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/forward"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
)

// place is a configuration with its files.
type place struct {
	dir string
	ca  *certstest.CA
}

func newPlace(t *testing.T) place {
	p := place{t.TempDir(), certstest.MustCA(t, certstest.CAOptions{})}
	p.ca.MustIssue(t, certstest.Options{CommonName: "server"}).MustWriteFiles(t, p.dir)
	p.write(t, "ca.pem", p.ca.PEM())
	return p
}

func (p place) write(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (p place) live(t *testing.T, more string) *certs.Live[Loaded] {
	t.Helper()
	p.write(t, "rpctlssd.toml", fmt.Appendf(nil, "certificate = %q\nprivate_key = %q\n%s", p.dir+"/cert.pem", p.dir+"/key.pem", more))
	c, err := Load(p.dir + "/rpctlssd.toml")
	if err != nil {
		t.Fatal(err)
	}
	live, err := certs.NewLive(func(f *certs.Files) (*Loaded, error) { return build(c, f, forward.New(forward.System())) })
	if err != nil {
		t.Fatal(err)
	}
	return live
}

// A session is judged as a handshake would be now, with what still applies.
func TestRejudge(t *testing.T) {
	p := newPlace(t)
	client := p.ca.MustIssue(t, certstest.Options{CommonName: "client"})
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "stranger"}).MustIssue(t, certstest.Options{})
	p.write(t, "list.crl", p.ca.MustCRL(t, certstest.Serials(client), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)))
	trust := fmt.Sprintf("trust = %q\n", p.dir+"/ca.pem")
	crl := trust + fmt.Sprintf("crl = [%q]\n", p.dir+"/list.crl")
	for _, tt := range []struct {
		name, config string
		chain        []*x509.Certificate
		want         reason.Reason
	}{
		{"good", trust, client.Chain(), reason.OK},
		{"revoked", crl, client.Chain(), reason.Revoked},
		{"unknown CA", trust, stranger.Chain(), reason.UnknownCA},
		{"none", crl, nil, reason.OK},
		{"none, and one is required now", trust + "client_certificate = \"require\"\n", nil, reason.NoCertificate},
		{"not asked any more", "client_certificate = \"none\"\n", client.Chain(), reason.OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &Role{live: p.live(t, tt.config)}
			s := &sessions.Session{ID: sockdiag.ID{Remote: netip.MustParseAddrPort("192.0.2.7:801")}}
			if err := r.Rejudge(s, tt.chain, time.Now()); reason.Of(err) != tt.want {
				t.Errorf("%v, want %s", err, tt.want)
			}
		})
	}
}

// A client may send an OCSP response with its certificate (RFC 8446 section
// 4.4.2.1).
func TestClientsStaple(t *testing.T) {
	p := newPlace(t)
	client := p.ca.MustIssue(t, certstest.Options{CommonName: "client"})
	verify := p.live(t, fmt.Sprintf("trust = %q\n", p.dir+"/ca.pem")).Get().tls.VerifyConnection
	for status, want := range map[int]reason.Reason{ocsp.Good: reason.OK, ocsp.Revoked: reason.Revoked} {
		b, err := ocsp.CreateResponse(p.ca.Cert, p.ca.Cert, ocsp.Response{
			Status: status, SerialNumber: client.Cert.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour),
		}, p.ca.Key)
		if err != nil {
			t.Fatal(err)
		}
		if err := verify(tls.ConnectionState{PeerCertificates: client.Chain(), OCSPResponse: b}); reason.Of(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if err := verify(tls.ConnectionState{PeerCertificates: client.Chain(), OCSPResponse: []byte("x")}); reason.Of(err) != reason.BadCertificate {
		t.Errorf("nonsense: %v", err)
	}
}
