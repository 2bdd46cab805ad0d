// SPDX-License-Identifier: BSD-3-Clause

package policy

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"rpctls/internal/names"
)

// A DNS matches dNSName subject alternative names: a host name, "*." and a
// domain for every name in it at any depth, or "*" for any.
type DNS struct{ pattern names.Pattern }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *DNS) UnmarshalText(b []byte) error {
	if err := d.pattern.UnmarshalText(b); err != nil {
		return err
	}
	if d.pattern.IsAddress() {
		*d = DNS{}
		return fmt.Errorf("%q is an address: that is for ip or source", b)
	}
	return nil
}

// String returns the pattern.
func (d DNS) String() string { return d.pattern.String() }

// exact returns the host name that d is, or "".
func (d DNS) exact() string {
	if s := d.String(); !strings.HasPrefix(s, "*") {
		return s
	}
	return ""
}

// match compares with a name in a certificate. There, "*." stands for one label
// (RFC 6125 section 6.4.3): to an allow rule it is a name like any other, and a
// deny rule is meant for whatever it could stand for.
func (d DNS) match(in host, deny bool) bool {
	return in.matches(d.pattern.String(), deny)
}

// A host is a host name in a certificate, as it is compared.
type host struct {
	text  string // in small letters, without the root's dot
	valid bool   // it is one, or "*." and one
}

func readHost(s string) host {
	h := host{text: strings.ToLower(strings.TrimSuffix(s, "."))}
	var p names.Pattern
	rest := strings.TrimPrefix(h.text, "*.")
	h.valid = len(s) <= 254 && !strings.HasPrefix(rest, "*") && p.UnmarshalText([]byte(rest)) == nil && !p.IsAddress()
	return h
}

// matches compares with the text of a pattern that is no address.
func (h host) matches(pattern string, deny bool) bool {
	if !h.valid && !deny {
		return false
	}
	if pattern == "*" {
		return true
	}
	if domain, ok := strings.CutPrefix(pattern, "*"); ok {
		return len(h.text) > len(domain) && strings.HasSuffix(h.text, domain)
	}
	if domain, ok := strings.CutPrefix(h.text, "*"); ok && deny {
		_, rest, _ := strings.Cut(pattern, ".")
		return len(domain) == len(rest)+1 && domain[0] == '.' && domain[1:] == rest
	}
	return h.text == pattern
}

// A Prefix is an address or a network.
type Prefix struct {
	prefix netip.Prefix
	text   string
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Prefix) UnmarshalText(b []byte) error {
	var n names.Pattern
	err := n.UnmarshalText(b)
	prefix, ok := n.Prefix()
	if !ok {
		if err == nil || !strings.ContainsAny(string(b), "/:") {
			err = fmt.Errorf("%q is neither an address nor a network", b)
		}
		return err
	}
	*p = Prefix{prefix, string(b)}
	return nil
}

// String returns the prefix as written.
func (p Prefix) String() string { return p.text }

func (p Prefix) match(a netip.Addr, _ bool) bool { return p.prefix.Contains(a) }

// plain writes an address in the one way that prefixes are compared with.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// A URI matches uniformResourceIdentifier subject alternative names: one as it
// is, but for the case of scheme and host, or with "/*" at the end whatever is
// below that path.
type URI struct {
	text  string
	below bool // text ends in "/", and something has to follow
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (u *URI) UnmarshalText(b []byte) error {
	base, below := strings.CutSuffix(string(b), "/*")
	if below {
		base += "/"
	}
	parsed, err := url.Parse(base)
	switch {
	case err != nil:
		return fmt.Errorf("%q is not a URI", b)
	case !parsed.IsAbs():
		return fmt.Errorf("%q is not a URI: it has no scheme", b)
	case strings.Contains(base, "*"):
		return fmt.Errorf(`%q: "*" can only stand for all of a path's end, as in "spiffe://example.com/nfs/*"`, b)
	case below && (parsed.Opaque != "" || parsed.Host == "" || parsed.RawQuery != "" || parsed.Fragment != "" || dotted(parsed)):
		return fmt.Errorf(`%q: only below a host and a path can be "/*"`, b)
	}
	*u = URI{uriText(parsed), below}
	return nil
}

// String returns the pattern.
func (u URI) String() string {
	if u.below {
		return u.text + "*"
	}
	return u.text
}

func uriText(u *url.URL) string {
	c := *u
	c.Host = strings.ToLower(c.Host)
	return c.String()
}

// dotted reports whether a path, taken for one, might lead elsewhere.
func dotted(u *url.URL) bool {
	return u.Path != "" && u.Path != "/" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/")
}

// A uri is one in a certificate, as it is compared.
type uri struct {
	text  string
	plain bool // what is below a path of it really is
}

func readURI(u *url.URL) uri {
	return uri{uriText(u), u.RawQuery == "" && !u.ForceQuery && u.Fragment == "" && !dotted(u)}
}

func (u URI) match(in uri, deny bool) bool {
	if !u.below {
		return in.text == u.text
	}
	return (in.plain || deny) && len(in.text) > len(u.text) && strings.HasPrefix(in.text, u.text)
}

// An Email matches rfc822Name subject alternative names: "user@host", or
// "*@host" for all users. The host may be "*." and a domain.
type Email struct {
	user string // "*": any
	host names.Pattern
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *Email) UnmarshalText(b []byte) error {
	i := strings.LastIndex(string(b), "@")
	var host names.Pattern
	if i <= 0 || host.UnmarshalText(b[i+1:]) != nil || host.IsAddress() {
		return fmt.Errorf(`%q is not "user@host", and neither "*@host"`, b)
	}
	user := string(b[:i])
	if user != "*" && strings.Contains(user, "*") {
		return fmt.Errorf(`%q: "*" stands for all users or for none`, b)
	}
	*e = Email{user, host}
	return nil
}

// String returns the pattern.
func (e Email) String() string { return e.user + "@" + e.host.String() }

// A mailbox is one in a certificate, as it is compared.
type mailbox struct {
	user string // "": it is none
	host host
}

func readMailbox(s string) mailbox {
	i := strings.LastIndex(s, "@")
	if i < 0 {
		return mailbox{}
	}
	return mailbox{s[:i], readHost(s[i+1:])}
}

// match compares users as they are written (RFC 5321 section 2.4).
func (e Email) match(in mailbox, deny bool) bool {
	user := e.user == "*" || e.user == in.user || deny && strings.EqualFold(e.user, in.user)
	return user && in.user != "" && in.host.matches(e.host.String(), deny)
}

// An EKU is an extended key usage: one of the names below, or numbers with dots.
type EKU struct {
	text string
	oid  asn1.ObjectIdentifier
}

var ekuNames = map[string]asn1.ObjectIdentifier{
	"anyExtendedKeyUsage": {2, 5, 29, 37, 0},                 // RFC 5280 section 4.2.1.12
	"serverAuth":          {1, 3, 6, 1, 5, 5, 7, 3, 1},       // the same
	"clientAuth":          {1, 3, 6, 1, 5, 5, 7, 3, 2},       // the same
	"codeSigning":         {1, 3, 6, 1, 5, 5, 7, 3, 3},       // the same
	"emailProtection":     {1, 3, 6, 1, 5, 5, 7, 3, 4},       // the same
	"rpcTLSClient":        {1, 3, 6, 1, 5, 5, 7, 3, 33},      // RFC 9289 section 5.2.1
	"rpcTLSServer":        {1, 3, 6, 1, 5, 5, 7, 3, 34},      // the same
	"kdcClient":           {1, 3, 6, 1, 5, 2, 3, 4},          // RFC 4556 section 3.2.2
	"smartcardLogon":      {1, 3, 6, 1, 4, 1, 311, 20, 2, 2}, // Microsoft's
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (e *EKU) UnmarshalText(b []byte) error {
	if oid, ok := ekuNames[string(b)]; ok {
		*e = EKU{string(b), oid}
		return nil
	}
	oid, err := parseOID(string(b))
	if err != nil {
		return fmt.Errorf("%q is neither numbers with dots nor one of %s", b, strings.Join(sortedNames(ekuNames), ", "))
	}
	*e = EKU{string(b), oid}
	return nil
}

// String returns the name or number as written.
func (e EKU) String() string { return e.text }

// match looks for the usage itself: a certificate for any usage, or without the
// extension, has not been given this one.
func (e EKU) match(cert *x509.Certificate) bool {
	return slices.ContainsFunc(cert.UnknownExtKeyUsage, e.oid.Equal) || slices.ContainsFunc(cert.ExtKeyUsage, func(u x509.ExtKeyUsage) bool {
		oid, ok := ekuKnown[u]
		return ok && e.oid.Equal(oid)
	})
}

// ekuKnown are those that crypto/x509 has names for, which it does not leave
// among the unknown ones.
var ekuKnown = map[x509.ExtKeyUsage]asn1.ObjectIdentifier{
	x509.ExtKeyUsageAny:                            {2, 5, 29, 37, 0},
	x509.ExtKeyUsageServerAuth:                     {1, 3, 6, 1, 5, 5, 7, 3, 1},
	x509.ExtKeyUsageClientAuth:                     {1, 3, 6, 1, 5, 5, 7, 3, 2},
	x509.ExtKeyUsageCodeSigning:                    {1, 3, 6, 1, 5, 5, 7, 3, 3},
	x509.ExtKeyUsageEmailProtection:                {1, 3, 6, 1, 5, 5, 7, 3, 4},
	x509.ExtKeyUsageIPSECEndSystem:                 {1, 3, 6, 1, 5, 5, 7, 3, 5},
	x509.ExtKeyUsageIPSECTunnel:                    {1, 3, 6, 1, 5, 5, 7, 3, 6},
	x509.ExtKeyUsageIPSECUser:                      {1, 3, 6, 1, 5, 5, 7, 3, 7},
	x509.ExtKeyUsageTimeStamping:                   {1, 3, 6, 1, 5, 5, 7, 3, 8},
	x509.ExtKeyUsageOCSPSigning:                    {1, 3, 6, 1, 5, 5, 7, 3, 9},
	x509.ExtKeyUsageMicrosoftServerGatedCrypto:     {1, 3, 6, 1, 4, 1, 311, 10, 3, 3},
	x509.ExtKeyUsageNetscapeServerGatedCrypto:      {2, 16, 840, 1, 113730, 4, 1},
	x509.ExtKeyUsageMicrosoftCommercialCodeSigning: {1, 3, 6, 1, 4, 1, 311, 2, 1, 22},
	x509.ExtKeyUsageMicrosoftKernelCodeSigning:     {1, 3, 6, 1, 4, 1, 311, 61, 1, 1},
}

// parseOID reads numbers with dots, without leading zeros.
func parseOID(s string) (oid asn1.ObjectIdentifier, err error) {
	if len(s) > 128 {
		return nil, strconv.ErrSyntax
	}
	for number := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil || number != strconv.FormatUint(n, 10) {
			return nil, strconv.ErrSyntax
		}
		oid = append(oid, int(n))
	}
	if len(oid) < 2 || oid[0] > 2 || oid[0] < 2 && oid[1] > 39 {
		return nil, strconv.ErrSyntax
	}
	return oid, nil
}

func sortedNames[V any](m map[string]V) (list []string) {
	for name := range m {
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}
