// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"slices"
	"time"

	"rpctls/certs"
	"rpctls/internal/config"
	"rpctls/internal/daemon"
	"rpctls/internal/forward"
	"rpctls/internal/policy"
)

// clients is who is let in.
type clients struct {
	asking         ClientCertificate
	alpn           config.ALPN
	trust          *certs.Trust // nil: clients are not asked
	policy         *policy.Policy
	requireAddress bool
	addressNames   []string
	table          *forward.Table
	unexpected     int // names that are too many to be looked up ahead
}

func loadClients(c Config, f *certs.Files, table *forward.Table) (cl clients, err error) {
	cl = clients{asking: c.ClientCertificate, alpn: c.ALPN, requireAddress: c.RequireAddressMatch, addressNames: c.AddressNames, table: table}
	if c.ClientCertificate != CertificateNone {
		if cl.trust, err = daemon.LoadTrust(c.Settings, f); err != nil {
			return clients{}, err
		}
	}
	cl.policy, err = policy.New(c.Rules)
	return cl, err
}

// expect has the names looked up that can be known before clients come.
func (cl *clients) expect() {
	if cl.requireAddress {
		cl.unexpected = cl.table.Expect(slices.Concat(cl.addressNames, cl.policy.HostNames()))
	} else {
		cl.table.Expect(nil)
	}
}

// needsSource reports whether it matters where clients are.
func (cl *clients) needsSource() bool { return cl.requireAddress || cl.policy.NeedsSource() }

// judge says whether a client is let in that has sent the chain (its own
// certificate first; empty if it has none) from an address: nil, or an error that
// package reason knows. It waits for nothing. It is for handshakes, before any
// key is installed, and for sessions whose client was let in by a configuration
// that is no longer in use.
//
// That a client is not known yet to be where its names are
// (reason.AddressUnknown) refuses a handshake, and is no verdict on a session:
// ask again later.
func (cl *clients) judge(chain []*x509.Certificate, from netip.Addr, now time.Time) error {
	from = from.Unmap().WithZone("")
	if len(chain) == 0 && cl.asking != CertificateRequire {
		return cl.policy.Decide(nil, from).Err()
	}
	if cl.trust == nil {
		return errors.New("client sent a certificate that was not asked for")
	}
	// It refuses a chain without a certificate.
	if _, err := cl.trust.Verify(chain, certs.ClientAuth, "", now); err != nil {
		return err
	}
	if err := cl.policy.Decide(chain[0], from).Err(); err != nil {
		return err
	}
	return cl.checkAddress(chain[0], from)
}

// checkAddress comes last, for only certificates that are wanted otherwise make
// us look names up.
func (cl *clients) checkAddress(cert *x509.Certificate, from netip.Addr) error {
	if !cl.requireAddress || from.IsValid() && slices.ContainsFunc(cert.IPAddresses, func(ip net.IP) bool {
		a, ok := netip.AddrFromSlice(ip)
		return ok && a.Unmap() == from
	}) {
		return nil
	}
	if !from.IsValid() {
		return &forward.MismatchError{Answer: forward.Answer{Verdict: forward.No, Why: "the client's address is not known"}}
	}
	if answer := cl.table.Check(cert.DNSNames, from); answer.Verdict != forward.Yes {
		return &forward.MismatchError{From: from, Answer: answer}
	}
	return nil
}

// A Judge says whom rpctlssd would let in, for a tool: it holds what the daemon
// holds of a configuration but the server's own certificates and keys.
type Judge struct{ clients }

// NewJudge loads the files that c names about clients.
func NewJudge(c Config, f *certs.Files) (*Judge, error) {
	cl, err := loadClients(c, f, forward.New(forward.System()))
	if err != nil {
		return nil, err
	}
	return &Judge{cl}, nil
}

// Policy returns the rules.
func (j *Judge) Policy() *policy.Policy { return j.policy }

// NeedsSource reports whether it matters where a client is.
func (j *Judge) NeedsSource() bool { return j.needsSource() }

// RequiresAddress reports whether a client's address must be its certificate's.
func (j *Judge) RequiresAddress() bool { return j.requireAddress }

// Judge judges as the daemon does. Unlike it, it waits for look-ups.
func (j *Judge) Judge(ctx context.Context, chain []*x509.Certificate, from netip.Addr, now time.Time) error {
	err := j.judge(chain, from, now)
	if m, ok := errors.AsType[*forward.MismatchError](err); ok && m.Unknown() {
		j.table.LookUp(ctx, chain[0].DNSNames)
		err = j.judge(chain, from, now)
	}
	return err
}
