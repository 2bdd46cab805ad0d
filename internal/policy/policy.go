// SPDX-License-Identifier: BSD-3-Clause

package policy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"rpctls/internal/pin"
)

// An Action is what a rule does with those that it matches.
type Action string

// The actions.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// A Match says whom a rule is about. A field that is nil says nothing; one that
// is set is about those that one of its values fits, and a Match is about those
// that all its fields are about.
type Match struct {
	DNS         []DNS             `toml:"dns"`         // subject alternative names
	IP          []Prefix          `toml:"ip"`          // the same
	URI         []URI             `toml:"uri"`         // the same
	Email       []Email           `toml:"email"`       // the same
	Subject     []DN              `toml:"subject"`     // of the client's certificate
	Issuer      []DN              `toml:"issuer"`      // the same
	SPKI        []pin.Pin         `toml:"spki"`        // of its public key
	Fingerprint []pin.Fingerprint `toml:"fingerprint"` // of the whole certificate
	EKU         []EKU             `toml:"eku"`         // what it says itself
	Source      []Prefix          `toml:"source"`      // the client's address
}

// A Rule is one of a policy.
type Rule struct {
	Action Action
	Name   string // for people; may be empty
	Place  string // "rpctlssd.toml:12"
	Match

	certField string // the first that a client without a certificate misses
}

// String names the rule: its action and its name, and where it stands.
func (r *Rule) String() string {
	s := string(r.Action) + " rule"
	if r.Name != "" {
		s += " '" + r.Name + "'" // double quotes would be escaped in the log
	}
	if r.Place != "" {
		s += " (" + r.Place + ")"
	}
	return s
}

// A Field is a field of a rule in writing.
type Field struct {
	Name   string   `json:"field"`
	Values []string `json:"values"`
}

// Fields returns the fields that are set.
func (m *Match) Fields() (fields []Field) {
	add := func(name string, values []string) {
		if values != nil {
			fields = append(fields, Field{name, values})
		}
	}
	add("dns", texts(m.DNS))
	add("ip", texts(m.IP))
	add("uri", texts(m.URI))
	add("email", texts(m.Email))
	add("subject", texts(m.Subject))
	add("issuer", texts(m.Issuer))
	add("spki", texts(m.SPKI))
	add("fingerprint", texts(m.Fingerprint))
	add("eku", texts(m.EKU))
	add("source", texts(m.Source))
	return fields
}

func texts[T fmt.Stringer](values []T) (list []string) {
	if values != nil {
		list = []string{}
	}
	for _, v := range values {
		list = append(list, v.String())
	}
	return list
}

// Limits of a policy.
const (
	maxRules  = 1024
	maxValues = 256   // of one field
	maxTotal  = 16384 // of all fields of all rules
	maxName   = 64
	// maxNames bounds the subject alternative names of one kind in a
	// certificate, because each is compared with each value.
	maxNames = 256
)

// A Policy is a list of rules. It does not change. The zero value has none, and
// allows everybody.
type Policy struct {
	rules                         []Rule
	needsSource, needsCertificate bool
	allows                        bool // there is an allow rule
}

// New makes a policy of rules in order. Errors name the rule.
func New(rules []Rule) (*Policy, error) {
	if len(rules) > maxRules {
		return nil, fmt.Errorf("%d rules, more than %d", len(rules), maxRules)
	}
	p := &Policy{rules: slices.Clone(rules)}
	seen := make(map[string]bool)
	total := 0
	for i := range p.rules {
		r := &p.rules[i]
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("%v: %w", r, err)
		}
		if r.Name != "" && seen[r.Name] {
			return nil, fmt.Errorf("%v: there are two rules of that name", r)
		}
		seen[r.Name] = true
		p.needsSource = p.needsSource || r.Source != nil
		for _, f := range r.Fields() {
			total += len(f.Values)
		}
		if f := r.Fields()[0]; f.Name != "source" {
			r.certField, p.needsCertificate = f.Name, true
		}
		p.allows = p.allows || r.Action == Allow
	}
	if total > maxTotal {
		return nil, fmt.Errorf("%d values in all rules, more than %d", total, maxTotal)
	}
	return p, nil
}

func (r *Rule) check() error {
	if r.Action != Allow && r.Action != Deny {
		return fmt.Errorf("unknown action %q", r.Action)
	}
	if len(r.Name) > maxName || strings.ContainsFunc(r.Name, func(c rune) bool { return c < ' ' || c > '~' || c == '"' || c == '\\' }) {
		return fmt.Errorf("name is not up to %d printable ASCII characters without quotes and backslashes", maxName)
	}
	fields := r.Fields()
	if len(fields) == 0 {
		return errors.New(`it says nothing about whom it is for; source = ["0.0.0.0/0", "::/0"] is everybody`)
	}
	for _, f := range fields {
		switch {
		case len(f.Values) == 0:
			return fmt.Errorf("%s is empty: leave it out to say nothing about it", f.Name)
		case len(f.Values) > maxValues:
			return fmt.Errorf("%s has %d values, more than %d", f.Name, len(f.Values), maxValues)
		}
	}
	return nil
}

// Rules returns the rules in order. They are not to be changed.
func (p *Policy) Rules() []Rule { return p.rules }

// NeedsSource reports whether decisions depend on the client's address.
func (p *Policy) NeedsSource() bool { return p.needsSource }

// Default is what becomes of those whom no rule matches: with an allow rule in
// the policy, whoever is not allowed is denied.
func (p *Policy) Default() Action {
	if p.allows {
		return Deny
	}
	return Allow
}

// HostNames returns the host names in allow rules: those of clients that are to
// be expected.
func (p *Policy) HostNames() (list []string) {
	for _, r := range p.rules {
		if r.Action != Allow {
			continue
		}
		for _, d := range r.DNS {
			if name := d.exact(); name != "" && !slices.Contains(list, name) {
				list = append(list, name)
			}
		}
	}
	return list
}

// CertificateRule returns the first rule that only somebody with a certificate
// can match, or nil.
func (p *Policy) CertificateRule() *Rule {
	for i := range p.rules {
		if p.rules[i].certField != "" {
			return &p.rules[i]
		}
	}
	return nil
}

// A Decision is what a policy says of a client.
type Decision struct {
	Allowed bool
	// Rule decided, and is number Number from 1; nil and 0 if none matched,
	// or none could be asked.
	Rule   *Rule
	Number int
	Why    string // in words
}

// Err returns nil if the client is allowed, else a *[Refusal].
func (d Decision) Err() error {
	if d.Allowed {
		return nil
	}
	return &Refusal{d}
}

// A Refusal is the error of a client that is not wanted.
type Refusal struct{ Decision Decision }

func (r *Refusal) Error() string { return "policy: " + r.Decision.Why }

// TLSAlert returns access_denied: "a valid certificate or PSK was received, but
// when access control was applied, the sender decided not to proceed" (RFC 8446
// section 6.2).
func (r *Refusal) TLSAlert() uint8 { return 49 }

// Decide says whether a client is wanted. The certificate is the client's own,
// and must have been verified; nil is a client without one. The address is where
// it comes from; if that is not known, the zero Addr, nobody is allowed by a
// policy that asks for it.
func (p *Policy) Decide(cert *x509.Certificate, from netip.Addr) Decision {
	if len(p.rules) == 0 {
		return Decision{Allowed: true, Why: "there are no rules"}
	}
	if p.needsSource && !from.IsValid() {
		return Decision{Why: "the client's address is not known, and rules ask for it"}
	}
	if p.needsCertificate && cert != nil {
		if n := max(len(cert.DNSNames), len(cert.IPAddresses), len(cert.URIs), len(cert.EmailAddresses)); n > maxNames {
			return Decision{Why: fmt.Sprintf("the certificate has %d names of one kind, more than %d", n, maxNames)}
		}
	}
	c := p.read(cert, from)
	for i := range p.rules {
		r := &p.rules[i]
		if c.misses(r) != "" {
			continue
		}
		d := Decision{Allowed: r.Action == Allow, Rule: r, Number: i + 1, Why: "allowed by " + r.String()}
		if !d.Allowed {
			d.Why = "refused by " + r.String()
		}
		return d
	}
	if p.Default() == Allow {
		return Decision{Allowed: true, Why: "no deny rule matches"}
	}
	if cert == nil && p.needsCertificate {
		return Decision{Why: "no allow rule matches a client without a certificate"}
	}
	return Decision{Why: "no allow rule matches"}
}

// Misses returns, for each rule, the first of its fields that does not fit the
// client, or "" if it matches: for people who want to know why a rule did not
// decide.
func (p *Policy) Misses(cert *x509.Certificate, from netip.Addr) (fields []string) {
	c := p.read(cert, from)
	for i := range p.rules {
		fields = append(fields, c.misses(&p.rules[i]))
	}
	return fields
}

// A client is whom rules are held against.
type client struct {
	cert *x509.Certificate // nil: none
	from netip.Addr

	// What the certificate says, in the forms that are compared.
	dns    []host
	ips    []netip.Addr
	uris   []uri
	emails []mailbox
	// These, once they have been asked for.
	subject, issuer *readOnce
}

type readOnce struct {
	name nameInCert
	err  error
}

// read prepares a client, so that a rule costs only comparisons.
func (p *Policy) read(cert *x509.Certificate, from netip.Addr) *client {
	c := &client{cert: cert, from: plain(from)}
	if cert == nil || !p.needsCertificate {
		return c
	}
	for _, s := range cert.DNSNames {
		c.dns = append(c.dns, readHost(s))
	}
	for _, ip := range cert.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			c.ips = append(c.ips, plain(a))
		}
	}
	for _, u := range cert.URIs {
		c.uris = append(c.uris, readURI(u))
	}
	for _, s := range cert.EmailAddresses {
		c.emails = append(c.emails, readMailbox(s))
	}
	return c
}

// misses returns the first field of r that does not fit, or "".
func (c *client) misses(r *Rule) string {
	deny := r.Action == Deny
	if r.Source != nil && !slices.ContainsFunc(r.Source, func(p Prefix) bool { return p.match(c.from, deny) }) {
		return "source"
	}
	if c.cert == nil {
		return r.certField
	}
	switch cert := c.cert; {
	case r.Fingerprint != nil && !slices.Contains(r.Fingerprint, pin.FingerprintOf(cert)):
		return "fingerprint"
	case r.SPKI != nil && !slices.Contains(r.SPKI, pin.Of(cert)):
		return "spki"
	case r.DNS != nil && !anyPair(r.DNS, c.dns, deny, DNS.match):
		return "dns"
	case r.IP != nil && !anyPair(r.IP, c.ips, deny, Prefix.match):
		return "ip"
	case r.URI != nil && !anyPair(r.URI, c.uris, deny, URI.match):
		return "uri"
	case r.Email != nil && !anyPair(r.Email, c.emails, deny, Email.match):
		return "email"
	case r.Subject != nil && !anyName(r.Subject, &c.subject, cert.RawSubject, deny):
		return "subject"
	case r.Issuer != nil && !anyName(r.Issuer, &c.issuer, cert.RawIssuer, deny):
		return "issuer"
	case r.EKU != nil && !slices.ContainsFunc(r.EKU, func(e EKU) bool { return e.match(cert) }):
		return "eku"
	}
	return ""
}

func anyPair[P, V any](patterns []P, values []V, deny bool, match func(P, V, bool) bool) bool {
	for _, p := range patterns {
		for _, v := range values {
			if match(p, v, deny) {
				return true
			}
		}
	}
	return false
}

func anyName(dns []DN, once **readOnce, der []byte, deny bool) bool {
	if *once == nil {
		name, err := readName(der)
		*once = &readOnce{name, err}
	}
	if (*once).err != nil {
		return deny
	}
	return slices.ContainsFunc(dns, func(d DN) bool { return d.match((*once).name) })
}
