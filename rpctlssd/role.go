// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/alpn"
	"rpctls/internal/config"
	"rpctls/internal/daemon"
	"rpctls/internal/names"
	"rpctls/internal/reason"
	"rpctls/rpc"
	"rpctls/upcall"
)

// Program is the daemon.
func Program() daemon.Program[Config, Loaded] {
	return daemon.Program[Config, Loaded]{
		Name:     "rpctlssd",
		About:    "answers the kernel's TLS handshakes for the NFS server",
		Load:     Load,
		Settings: func(c Config) config.Settings { return c.Settings },
		Build:    Build,
		Warnings: (*Loaded).Warnings,
		Role:     func(live *certs.Live[Loaded], _ *slog.Logger) agent.Role { return &Role{live: live} },
	}
}

// Loaded is what the configuration's files hold. It does not change.
type Loaded struct {
	plan       agent.Plan
	identities []*certs.Identity
	trust      *certs.Trust // nil: clients are not asked
}

// Build loads the files that c names.
func Build(c Config, f *certs.Files) (*Loaded, error) {
	l := new(Loaded)
	main, err := certs.LoadIdentity(f, string(c.Certificate), string(c.PrivateKey))
	if err != nil {
		return nil, err
	}
	l.identities = append(l.identities, main)
	type named struct {
		match    []names.Pattern
		identity *certs.Identity
	}
	var byName []named
	for _, ic := range c.Identities {
		id, err := certs.LoadIdentity(f, string(ic.Certificate), string(ic.PrivateKey))
		if err != nil {
			return nil, err
		}
		l.identities = append(l.identities, id)
		byName = append(byName, named{ic.Match, id})
	}
	if c.ClientCertificate != CertificateNone {
		if l.trust, err = daemon.LoadTrust(c.Settings, f); err != nil {
			return nil, err
		}
	}
	trust := l.trust
	l.plan = agent.Plan{
		FirstRecord: c.FirstRecordTimeout,
		TLS: &tls.Config{
			NextProtos: []string{rpc.ALPN},
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				for _, n := range byName {
					if names.Any(n.match, hello.ServerName) {
						return n.identity.Certificate(), nil
					}
				}
				return main.Certificate(), nil
			},
			ClientAuth: clientAuth[c.ClientCertificate],
			// crypto/tls judges nothing with these ClientAuth values: all of
			// it happens here, before the client's signature is checked and
			// long before any key reaches the kernel. Verify refuses a chain
			// without a certificate.
			VerifyConnection: func(cs tls.ConnectionState) error {
				if err := alpn.Check(c.ALPN, cs); err != nil {
					return err
				}
				if len(cs.PeerCertificates) == 0 && c.ClientCertificate != CertificateRequire {
					return nil
				}
				if trust == nil {
					return errors.New("client sent a certificate that was not asked for")
				}
				_, err := trust.Verify(cs.PeerCertificates, certs.ClientAuth, "", time.Now())
				return err
			},
		},
	}
	return l, nil
}

var clientAuth = map[ClientCertificate]tls.ClientAuthType{
	CertificateNone:    tls.NoClientCert,
	CertificateRequest: tls.RequestClientCert,
	CertificateRequire: tls.RequestClientCert, // and VerifyConnection insists
}

// Warnings says what will soon be, or is, wrong.
func (l *Loaded) Warnings(now time.Time) (w []string) {
	for _, id := range l.identities {
		w = append(w, id.Warnings(now)...)
	}
	if l.trust != nil {
		w = append(w, l.trust.Warnings(now)...)
	}
	return w
}

// Role is the server's [agent.Role].
type Role struct {
	live *certs.Live[Loaded]
}

// Role implements [agent.Role].
func (*Role) Role() upcall.Role { return upcall.Server }

// Plan implements [agent.Role].
func (r *Role) Plan(*upcall.Request) (agent.Plan, error) { return r.live.Get().plan, nil }

// Judge implements [agent.Role]. The kernel only distinguishes zero, but its
// trace events show the number.
func (*Role) Judge(_ *upcall.Request, res agent.Result) agent.Verdict {
	switch {
	case res.Err == nil && len(res.State.PeerCertificates) > 0:
		return agent.Verdict{RemoteAuth: []uint32{upcall.RemoteAuthenticated}}
	case res.Err == nil:
		return agent.Verdict{}
	case res.Reason.Definite():
		return agent.Verdict{Status: unix.EACCES}
	case res.Reason == reason.Internal, res.Reason == reason.OutOfResources:
		return agent.Verdict{Status: unix.EIO}
	}
	return agent.Verdict{Status: unix.ETIMEDOUT}
}
