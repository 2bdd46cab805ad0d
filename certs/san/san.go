// SPDX-License-Identifier: BSD-3-Clause

package san

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// max bounds the names of one certificate.
const max = 100

// Names are the names of one certificate, in order, without duplicates. The
// zero value is no name.
type Names struct {
	list []string // spelled as String does
}

const (
	kindDNS  = "dns:"
	kindIP   = "ip:"
	kindUser = "user:"
)

// Parse takes names as people write them: "nfs.example.com", "192.0.2.1",
// "[2001:db8::1]", and as String spells them.
func Parse(texts ...string) (Names, error) {
	var n Names
	for _, text := range texts {
		name, err := parse(text)
		if err != nil {
			return Names{}, err
		}
		if err := n.add(name); err != nil {
			return Names{}, err
		}
	}
	return n, nil
}

func (n *Names) add(name string) error {
	if slices.Contains(n.list, name) {
		return nil
	}
	if len(n.list) == max {
		return fmt.Errorf("more than %d names", max)
	}
	n.list = append(n.list, name)
	return nil
}

func parse(text string) (string, error) {
	if s, ok := strings.CutPrefix(text, kindDNS); ok {
		return parseDNS(s)
	}
	if s, ok := strings.CutPrefix(text, kindIP); ok {
		return parseIP(s)
	}
	if s, ok := strings.CutPrefix(text, kindUser); ok {
		return parseUser(s)
	}
	if strings.Contains(text, "@") {
		return "", fmt.Errorf("%s is not the name of a host (a user is written %s)", quote(text), quote(kindUser+text))
	}
	if strings.ContainsAny(text, ":[") || allNumeric(text) {
		return parseIP(text)
	}
	return parseDNS(text)
}

// allNumeric tells a mistyped address from a host name: no top-level domain is
// a number (RFC 3696 section 2).
func allNumeric(s string) bool {
	last := s[strings.LastIndexByte(s, '.')+1:]
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func parseIP(s string) (string, error) {
	literal := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		literal = s[1 : len(s)-1]
	}
	addr, err := netip.ParseAddr(literal)
	if err != nil {
		return "", fmt.Errorf("%s is not an IP address (nor a host name, and a port does not belong here)", quote(s))
	}
	if addr.Zone() != "" {
		return "", fmt.Errorf("%s: an address with a zone means something on one host only", quote(s))
	}
	if addr.IsUnspecified() || addr.IsMulticast() {
		return "", fmt.Errorf("%s is not the address of a host", quote(s))
	}
	return kindIP + addr.Unmap().String(), nil
}

func parseDNS(s string) (string, error) {
	host := strings.TrimSuffix(strings.ToLower(s), ".")
	if err := checkHost(strings.TrimPrefix(host, "*.")); err != nil {
		return "", fmt.Errorf("%s %w", quote(s), err)
	}
	if rest, wild := strings.CutPrefix(host, "*."); wild && !strings.Contains(rest, ".") {
		return "", fmt.Errorf("%s would stand for a whole top-level domain", quote(s))
	}
	return kindDNS + host, nil
}

func checkHost(host string) error {
	if len(host) > 253 {
		return errors.New("is longer than a host name may be (253)")
	}
	for label := range strings.SplitSeq(host, ".") {
		switch {
		case label == "":
			return errors.New("is not a host name: empty label")
		case len(label) > 63:
			return errors.New("is not a host name: label of more than 63 characters")
		case label[0] == '-' || label[len(label)-1] == '-':
			return errors.New("is not a host name: label begins or ends with a hyphen")
		case strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "":
			return errors.New("is not a host name: want letters, digits, hyphens and dots (an international name in its xn-- form)")
		}
	}
	if allNumeric(host) {
		return errors.New("is neither an address nor a host name")
	}
	return nil
}

// parseUser takes what FreeBSD's rpc.tlsservd looks up: a user of the server
// and the domain that its nfsuserd has.
func parseUser(s string) (string, error) {
	user, domain, ok := strings.Cut(s, "@")
	if !ok || user == "" || len(user) > 64 ||
		strings.Trim(user, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		return "", fmt.Errorf("%s is not user@domain", quote(s))
	}
	domain = strings.ToLower(domain)
	if err := checkHost(domain); err != nil {
		return "", fmt.Errorf("%s is not user@domain: %s %w", quote(s), quote(domain), err)
	}
	return kindUser + user + "@" + domain, nil
}

// quote bounds what comes from outside.
func quote(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return strconv.QuoteToASCII(s)
}

// Len returns the number of names.
func (n Names) Len() int { return len(n.list) }

// Strings returns the names, each with its kind.
func (n Names) Strings() []string { return slices.Clone(n.list) }

// String returns the names for people: those of hosts without their kind, which
// shows, and users with it; separated by ", ". Parse takes each of them.
func (n Names) String() string {
	var list []string
	for _, name := range n.list {
		if kind, rest := cut(name); kind != kindUser {
			name = rest
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}

// Hosts returns host names and addresses, without their kinds: what can be
// asked of x509.Certificate.VerifyHostname.
func (n Names) Hosts() []string {
	var hosts []string
	for _, name := range n.list {
		if kind, rest := cut(name); kind != kindUser {
			hosts = append(hosts, rest)
		}
	}
	return hosts
}

// DNS returns the host names, without their kind.
func (n Names) DNS() []string {
	var hosts []string
	for _, name := range n.list {
		if kind, rest := cut(name); kind == kindDNS {
			hosts = append(hosts, rest)
		}
	}
	return hosts
}

// First returns the first name without its kind, or "".
func (n Names) First() string {
	if len(n.list) == 0 {
		return ""
	}
	_, rest := cut(n.list[0])
	return rest
}

func cut(name string) (kind, rest string) {
	i := strings.IndexByte(name, ':') + 1
	return name[:i], name[i:]
}

// Has reports whether all of others are among the names.
func (n Names) Has(others Names) bool {
	for _, name := range others.list {
		if !slices.Contains(n.list, name) {
			return false
		}
	}
	return true
}

// Equal reports whether the names are the same, in whatever order.
func (n Names) Equal(others Names) bool {
	return len(n.list) == len(others.list) && n.Has(others)
}

// Of returns the names of a certificate. Names of other kinds are an error.
func Of(cert *x509.Certificate) (Names, error) { return FromExtensions(cert.Extensions) }

var (
	oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

	// FreeBSD's rpc.tlsservd(8), option -u.
	oidUser = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 2238, 1, 1, 1}
)

// The tags of GeneralName that are used.
const (
	tagOther = 0
	tagDNS   = 2
	tagIP    = 7
)

// Extension encodes the names. It must be critical where the subject is empty
// (RFC 5280 section 4.1.2.6).
func (n Names) Extension(critical bool) (pkix.Extension, error) {
	if len(n.list) == 0 {
		return pkix.Extension{}, errors.New("no name")
	}
	var general []asn1.RawValue
	for _, name := range n.list {
		value, err := encode(name)
		if err != nil {
			return pkix.Extension{}, fmt.Errorf("encode %s: %w", name, err)
		}
		general = append(general, value)
	}
	der, err := asn1.Marshal(general)
	return pkix.Extension{Id: oidSAN, Critical: critical, Value: der}, err
}

func encode(name string) (asn1.RawValue, error) {
	switch kind, rest := cut(name); kind {
	case kindDNS:
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagDNS, Bytes: []byte(rest)}, nil
	case kindIP:
		addr, err := netip.ParseAddr(rest)
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagIP, Bytes: addr.AsSlice()}, err
	default:
		id, err := asn1.Marshal(oidUser)
		if err != nil {
			return asn1.RawValue{}, err
		}
		text, err := asn1.MarshalWithParams(rest, "utf8")
		if err != nil {
			return asn1.RawValue{}, err
		}
		value, err := asn1.Marshal(asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 0, IsCompound: true, Bytes: text})
		return asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagOther, IsCompound: true, Bytes: append(id, value...)}, err
	}
}

// Known returns the names of a certificate and passes over those of other kinds,
// which other CAs may put into it.
func Known(cert *x509.Certificate) Names {
	var n Names
	for _, ext := range cert.Extensions {
		var general []asn1.RawValue
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		if _, err := asn1.Unmarshal(ext.Value, &general); err != nil {
			continue
		}
		for _, value := range general {
			if name, err := decode(value); err == nil && n.add(name) != nil {
				break // enough
			}
		}
	}
	return n
}

// FromExtensions returns the names in the extensions of a certificate or of a
// request for one. Names of other kinds are an error: what is not understood
// is not certified.
func FromExtensions(extensions []pkix.Extension) (Names, error) {
	var n Names
	for _, ext := range extensions {
		if !ext.Id.Equal(oidSAN) {
			continue
		}
		var general []asn1.RawValue
		if rest, err := asn1.Unmarshal(ext.Value, &general); err != nil || len(rest) > 0 {
			return Names{}, errors.New("malformed subject alternative name")
		}
		for _, value := range general {
			name, err := decode(value)
			if err != nil {
				return Names{}, fmt.Errorf("subject alternative name: %w", err)
			}
			if err := n.add(name); err != nil {
				return Names{}, fmt.Errorf("subject alternative name: %w", err)
			}
		}
	}
	return n, nil
}

func decode(value asn1.RawValue) (string, error) {
	if value.Class != asn1.ClassContextSpecific {
		return "", errors.New("malformed")
	}
	switch value.Tag {
	case tagDNS:
		return parseDNS(string(value.Bytes))
	case tagIP:
		addr, ok := netip.AddrFromSlice(value.Bytes)
		if !ok {
			return "", fmt.Errorf("address of %d bytes", len(value.Bytes))
		}
		return parseIP(addr.String())
	case tagOther:
		return decodeOther(value.Bytes)
	}
	return "", fmt.Errorf("name of a kind (GeneralName %d) that is neither a host's, an address nor a user's", value.Tag)
}

func decodeOther(der []byte) (string, error) {
	var id asn1.ObjectIdentifier
	rest, err := asn1.Unmarshal(der, &id)
	if err != nil {
		return "", errors.New("malformed otherName")
	}
	if !id.Equal(oidUser) {
		return "", fmt.Errorf("otherName of the unknown kind %s", id)
	}
	var explicit asn1.RawValue
	if rest, err = asn1.Unmarshal(rest, &explicit); err != nil || len(rest) > 0 ||
		explicit.Class != asn1.ClassContextSpecific || explicit.Tag != 0 {
		return "", errors.New("malformed otherName")
	}
	var text string
	if rest, err = asn1.UnmarshalWithParams(explicit.Bytes, &text, "utf8"); err != nil || len(rest) > 0 {
		return "", errors.New("malformed otherName: want a UTF8String")
	}
	return parseUser(text)
}
