// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package probe

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/ktls"
)

// A Certificate is one of the server's chain.
type Certificate struct {
	Subject     string    `json:"subject"`
	Issuer      string    `json:"issuer"`
	Serial      string    `json:"serial"`
	Names       []string  `json:"names,omitempty"` // subject alternative names
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	Fingerprint string    `json:"fingerprint"` // SHA-256 of the certificate
	Pin         string    `json:"pin"`         // as `pin` in rpctlscd.toml has it
}

// Limits of what is kept of a server's words.
const (
	maxChain = 10
	maxNames = 64
	maxText  = 600
)

// describe takes down what was agreed on.
func (s *Session) describe(cs tls.ConnectionState) {
	s.Version = tls.VersionName(cs.Version)
	s.Cipher = tls.CipherSuiteName(cs.CipherSuite)
	s.Group = cs.CurveID.String()
	s.ALPN = printable(cs.NegotiatedProtocol)
	for i, cert := range cs.PeerCertificates {
		if i == maxChain {
			break
		}
		s.Chain = append(s.Chain, describe(cert))
	}
}

func describe(cert *x509.Certificate) Certificate {
	pin := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	c := Certificate{
		Subject: certs.Subject(cert), Issuer: printable(cert.Issuer.String()), Serial: fmt.Sprintf("%x", cert.SerialNumber),
		NotBefore: cert.NotBefore.UTC(), NotAfter: cert.NotAfter.UTC(),
		Fingerprint: certs.Fingerprint(cert), Pin: "sha256:" + hex.EncodeToString(pin[:]),
	}
	add := func(name string) {
		if len(c.Names) < maxNames {
			c.Names = append(c.Names, printable(name))
		}
	}
	for _, n := range cert.DNSNames {
		add(n)
	}
	for _, ip := range cert.IPAddresses {
		add(ip.String())
	}
	for _, u := range cert.URIs {
		add(u.String())
	}
	for _, m := range cert.EmailAddresses {
		add(m)
	}
	return c
}

// printable is one line of a bounded length that a terminal only shows.
func printable(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// handshake is crypto/tls's, in user space, with errors as package reason knows
// them.
func handshake(ctx context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error) {
	spy := &alertSpy{Conn: conn}
	c := tls.Client(spy, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = os.ErrDeadlineExceeded
		} else if a := spy.sent.Load(); a >= 0 && spy.spoke.Load() {
			err = &ktls.AlertError{Alert: ktls.Alert(a), Err: err}
		}
		return nil, explain(err)
	}
	return c, nil
}

// explain gives an error of crypto/tls the form of one of package ktls.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if a, ok := ktls.RemoteAlert(err); ok {
		return &ktls.HandshakeError{Role: ktls.RoleClient, Err: &ktls.AlertError{Alert: a, Remote: true}}
	}
	if _, ok := errors.AsType[*certs.VerifyError](err); ok {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return &ktls.HandshakeError{Role: ktls.RoleClient, Err: io.EOF}
	}
	if _, ok := errors.AsType[*ktls.AlertError](err); ok {
		return &ktls.HandshakeError{Role: ktls.RoleClient, Err: err}
	}
	if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		return &ktls.HandshakeError{Role: ktls.RoleClient, Err: err}
	}
	return err
}

// An alertSpy notices the alert that this side sends before there are keys: the
// error of crypto/tls does not say which it was. A client's first record is its
// ClientHello, in clear like an alert that answers a ServerHello.
type alertSpy struct {
	net.Conn
	sent  alertNumber
	spoke atomic.Bool
}

// alertNumber is an alert's number plus one, so that zero is none.
type alertNumber struct{ v atomic.Int32 }

func (n *alertNumber) Load() int32   { return n.v.Load() - 1 }
func (n *alertNumber) Store(a uint8) { n.v.Store(int32(a) + 1) }

// Of a record of one alert (RFC 8446 sections 5.1 and 6).
const (
	recordAlert = 21
	alertRecord = 5 + 2
)

// Write implements net.Conn.
func (s *alertSpy) Write(b []byte) (int, error) {
	if len(b) == alertRecord && b[0] == recordAlert {
		s.sent.Store(b[alertRecord-1])
	}
	s.spoke.Store(true)
	return s.Conn.Write(b)
}

// A ticketCounter counts session tickets and remembers none.
type ticketCounter struct{ n atomic.Int32 }

func (t *ticketCounter) Get(string) (*tls.ClientSessionState, bool) { return nil, false }

func (t *ticketCounter) Put(_ string, s *tls.ClientSessionState) {
	if s != nil {
		t.n.Add(1)
	}
}

func (t *ticketCounter) count() int { return int(t.n.Load()) }

// Reserved ports, which exports demand unless they say "insecure" (exports(5)).
const lowestReserved, highestReserved = 665, 1023

// dialer connects from a reserved port if this process may.
func dialer() *net.Dialer {
	return &net.Dialer{Control: func(network, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { bindReserved(network, int(fd)) })
	}}
}

// bindReserved tries; without a reserved port the kernel chooses another.
func bindReserved(network string, fd int) {
	const ports = highestReserved - lowestReserved + 1
	first := rand.IntN(ports)
	for i := range ports {
		port := lowestReserved + (first+i)%ports
		var to unix.Sockaddr = &unix.SockaddrInet4{Port: port}
		if network == "tcp6" {
			to = &unix.SockaddrInet6{Port: port}
		}
		if err := unix.Bind(fd, to); err != unix.EADDRINUSE {
			return // done, or not allowed
		}
	}
}
