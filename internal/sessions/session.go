// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessions

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	"rpctls/certs"
	"rpctls/internal/names"
	"rpctls/internal/sockdiag"
)

// Bounds of one session.
const (
	maxChain = 10       // certificates, as many as certs.Verify takes
	maxDER   = 64 << 10 // bytes of them together
	maxName  = 1024     // bytes of the peer's
)

// A Session is what a daemon knows of one that it has set up. It does not change.
type Session struct {
	sockdiag.ID
	// Role is the daemon's side: "client" or "server".
	Role string
	// PeerName is the name that the mount uses; empty on servers.
	PeerName string
	// Mutual: both sides showed a certificate.
	Mutual bool
	// Cipher is the kernel's number of it.
	Cipher uint16
	// Began is when the keys were given to the kernel.
	Began time.Time
	// Namespace is the kernel's cookie of the network namespace; 0: that of the
	// daemon itself.
	Namespace uint64
	// Generation is that of what the peer was judged by, in the process that
	// judged it; 0 after a restart.
	Generation uint64

	// chain is what the peer sent, its own certificate first, in DER; empty if
	// it sent none. Many sessions share certificates.
	chain []unique.Handle[string]
}

// SetChain remembers the peer's certificates, from the beginning and as many as
// there is room for. Whoever sent more than that will not pass when it is judged
// again: nobody gets out of that by sending much.
func (s *Session) SetChain(chain []*x509.Certificate) {
	s.chain = nil
	left := maxDER
	for _, cert := range chain[:min(len(chain), maxChain)] {
		if left -= len(cert.Raw); left < 0 {
			break
		}
		s.chain = append(s.chain, unique.Make(string(cert.Raw)))
	}
	if len(chain) > 0 && s.chain == nil {
		s.chain = append(s.chain, unique.Make("too large"))
	}
}

// Chain returns the peer's certificates, its own first; none if it sent none.
func (s *Session) Chain() (chain []*x509.Certificate, err error) {
	for _, der := range s.chain {
		cert, err := x509.ParseCertificate([]byte(der.Value()))
		if err != nil {
			return nil, fmt.Errorf("a certificate of session %s: %w", s.Name(), err)
		}
		chain = append(chain, cert)
	}
	return chain, nil
}

// Name is how a person names a session: its cookie, hexadecimal.
func (s *Session) Name() string { return Name(s.ID) }

// Name is that of any connection.
func Name(id sockdiag.ID) string { return strconv.FormatUint(id.Cookie, 16) }

// ParseName is the inverse of [Name].
func ParseName(s string) (cookie uint64, err error) {
	cookie, err = strconv.ParseUint(s, 16, 64)
	if err != nil || cookie == 0 {
		return 0, fmt.Errorf("%q is not the ID of a session", certs.Printable(s))
	}
	return cookie, nil
}

// check refuses what a file cannot say.
func (s *Session) check() error {
	switch {
	case s.Role != "client" && s.Role != "server":
		return errors.New("neither a client's nor a server's")
	case len(s.PeerName) > maxName:
		return errors.New("the peer's name is too long")
	case s.Began.IsZero():
		return errors.New("it has not begun")
	}
	return s.ID.Check()
}

// An Info is a session as the control socket and listings have it.
type Info struct {
	Name     string         `json:"id"`
	Role     string         `json:"role"`
	PeerName string         `json:"peer_name,omitempty"`
	Local    netip.AddrPort `json:"local"`
	Peer     netip.AddrPort `json:"peer"`
	Mutual   bool           `json:"mutual"`
	Began    time.Time      `json:"began"`
	// Certificate is the peer's; nil if it sent none.
	Certificate *Certificate `json:"certificate,omitempty"`
}

// A Certificate is the peer's own, in words.
type Certificate struct {
	Subject     string    `json:"subject"`
	Serial      string    `json:"serial"`          // hexadecimal
	Fingerprint string    `json:"sha256"`          // of the certificate, hexadecimal
	Names       []string  `json:"names,omitempty"` // DNS names and addresses, the first eight
	NotAfter    time.Time `json:"not_after"`
}

// Bounds of the names of a certificate in an Info, which has to fit into an answer:
// how many, and bytes of one (RFC 1035 section 2.3.4).
const (
	maxNames = 8
	maxDNS   = 253
)

// Info describes the session.
func (s *Session) Info() Info {
	i := Info{Name: s.Name(), Role: s.Role, PeerName: s.PeerName, Local: s.Local, Peer: s.Remote, Mutual: s.Mutual, Began: s.Began}
	if len(s.chain) == 0 {
		return i
	}
	der := []byte(s.chain[0].Value())
	sum := sha256.Sum256(der)
	i.Certificate = &Certificate{Fingerprint: hex.EncodeToString(sum[:])}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		i.Certificate.Subject = "cannot be read"
		return i
	}
	c := i.Certificate
	c.Subject, c.NotAfter = certs.Subject(cert), cert.NotAfter
	c.Serial = hex.EncodeToString(cert.SerialNumber.Bytes())
	for _, n := range cert.DNSNames {
		if len(n) <= maxDNS { // else it is the name of nothing
			c.Names = append(c.Names, certs.Printable(n))
		}
	}
	for _, ip := range cert.IPAddresses {
		c.Names = append(c.Names, ip.String())
	}
	c.Names = slices.Clip(c.Names[:min(len(c.Names), maxNames)])
	return i
}

// A Selector says which sessions are meant: all that fit whatever of it is set.
type Selector struct {
	ID string `json:"id,omitempty"`
	// Peer is the name of a mount's server, an address, or a name in the
	// certificate.
	Peer string `json:"peer,omitempty"`
	// Fingerprint is the SHA-256 of the peer's certificate, hexadecimal, with or
	// without colons; its first eight digits are enough.
	Fingerprint string `json:"fingerprint,omitempty"`
}

// Check refuses a selector that selects everything, or can select nothing.
func (q Selector) Check() error {
	if q == (Selector{}) {
		return errors.New("which session is not said")
	}
	if q.ID != "" {
		if _, err := ParseName(q.ID); err != nil {
			return err
		}
	}
	if len(q.Peer) > maxName {
		return errors.New("the peer's name is too long")
	}
	if q.Fingerprint != "" {
		f := plain(q.Fingerprint)
		if len(f) < 8 || len(f) > 2*sha256.Size || strings.Trim(f, "0123456789abcdef") != "" {
			return fmt.Errorf("%q is not the SHA-256 of a certificate, nor eight digits of its beginning", certs.Printable(q.Fingerprint))
		}
	}
	return nil
}

func plain(fingerprint string) string {
	return strings.ToLower(strings.ReplaceAll(fingerprint, ":", ""))
}

// Match reports whether the session is meant.
func (q Selector) Match(i Info) bool {
	if q.ID != "" {
		cookie, err := ParseName(q.ID)
		if err != nil || strconv.FormatUint(cookie, 16) != i.Name {
			return false
		}
	}
	if q.Peer != "" && !i.isCalled(q.Peer) {
		return false
	}
	return q.Fingerprint == "" || i.Certificate != nil && strings.HasPrefix(i.Certificate.Fingerprint, plain(q.Fingerprint))
}

func (i Info) isCalled(name string) bool {
	if names.Same(name, i.PeerName) || names.Same(name, i.Peer.Addr().String()) || name == i.Peer.String() {
		return true
	}
	return i.Certificate != nil && slices.ContainsFunc(i.Certificate.Names, func(n string) bool { return names.Same(n, name) })
}

// String names a session in a log or a message.
func (i Info) String() string {
	who := i.Peer.String()
	if i.PeerName != "" {
		who = i.PeerName + " (" + who + ")"
	}
	side := "server session with client"
	if i.Role == "client" {
		side = "client session with server"
	}
	text := fmt.Sprintf("%s %s %s", side, i.Name, who)
	if i.Certificate != nil {
		text += ", " + i.Certificate.Subject
	}
	return text
}
