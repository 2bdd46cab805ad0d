// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"crypto/x509"
	"errors"
	"net/netip"
	"time"

	"rpctls/certs"
)

// judge decides whether a client may come in: by the chain that it sent, its own
// certificate first and empty if it sent none, and where it comes from. It is
// asked in the handshake, and of sessions that live when what decides has changed.
func (l *Loaded) judge(chain []*x509.Certificate, _ netip.Addr, now time.Time) error {
	if len(chain) == 0 && l.clientCertificate != CertificateRequire {
		return nil
	}
	if l.trust == nil {
		return errors.New("client sent a certificate that was not asked for")
	}
	// It refuses a chain without a certificate.
	_, err := l.trust.Verify(chain, certs.ClientAuth, "", now)
	return err
}
