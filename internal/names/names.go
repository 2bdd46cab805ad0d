// SPDX-License-Identifier: BSD-3-Clause

package names

import (
	"fmt"
	"net/netip"
	"strings"
)

// A Pattern matches hosts: "nfs1.example.com", "*.example.com" (one label or
// more in front), "192.0.2.7", "2001:db8::/32" or "*" for all.
type Pattern struct {
	text   string
	prefix netip.Prefix // valid for addresses and networks
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Pattern) UnmarshalText(b []byte) error {
	s := string(b)
	if a, err := netip.ParseAddr(s); err == nil {
		if a.Zone() != "" {
			return fmt.Errorf("%q has a zone", s)
		}
		a = a.Unmap()
		*p = Pattern{text: s, prefix: netip.PrefixFrom(a, a.BitLen())}
		return nil
	}
	if n, err := netip.ParsePrefix(s); err == nil {
		if n.Addr().Is4In6() {
			return fmt.Errorf("%q is an IPv4 network in IPv6's form: write it as IPv4", s)
		}
		if n != n.Masked() {
			return fmt.Errorf("%q has bits beyond its length: %v is meant?", s, n.Masked())
		}
		*p = Pattern{text: s, prefix: n}
		return nil
	}
	host := strings.ToLower(s)
	if !strings.HasPrefix(host, "*") {
		host = strings.TrimSuffix(host, ".") // the root's dot says nothing new
	}
	if host != "*" {
		for label := range strings.SplitSeq(strings.TrimPrefix(host, "*."), ".") {
			if !validLabel(label) {
				return fmt.Errorf(`%q is neither a host name, "*." and a domain, an address nor a network`, s)
			}
		}
	}
	*p = Pattern{text: host}
	return nil
}

// String returns the pattern as written.
func (p Pattern) String() string { return p.text }

// IsAddress reports whether the pattern is an address or a network.
func (p Pattern) IsAddress() bool { return p.prefix.IsValid() }

// Prefix returns the network, or the address as one, if the pattern is either.
func (p Pattern) Prefix() (prefix netip.Prefix, ok bool) { return p.prefix, p.prefix.IsValid() }

// Join writes patterns one behind the other, with commas.
func Join(patterns []Pattern) string {
	texts := make([]string, len(patterns))
	for i, p := range patterns {
		texts[i] = p.text
	}
	return strings.Join(texts, ",")
}

func validLabel(l string) bool {
	if l == "" || len(l) > 63 {
		return false
	}
	return strings.IndexFunc(l, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) < 0
}

// Match reports whether host, a name or an address literal, matches.
func (p Pattern) Match(host string) bool {
	if p.text == "*" {
		return true
	}
	if a, ok := Addr(host); ok {
		return p.prefix.IsValid() && p.prefix.Contains(a)
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if domain, ok := strings.CutPrefix(p.text, "*"); ok {
		return len(host) > len(domain) && strings.HasSuffix(host, domain)
	}
	return !p.prefix.IsValid() && host == p.text
}

// Any reports whether one of the patterns matches one of the hosts. Empty
// hosts match nothing.
func Any(patterns []Pattern, hosts ...string) bool {
	for _, p := range patterns {
		for _, h := range hosts {
			if h != "" && p.Match(h) {
				return true
			}
		}
	}
	return false
}

// Addr parses an address literal as mount(8) and the kernel write it: with or
// without brackets, with or without a zone, which is dropped.
func Addr(host string) (netip.Addr, bool) {
	if h, ok := strings.CutPrefix(host, "["); ok {
		host, ok = strings.CutSuffix(h, "]")
		if !ok {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}, false
	}
	return a.Unmap().WithZone(""), true
}

// Same reports whether two names, or address literals, are written differently
// at the most.
func Same(a, b string) bool {
	aa, aok := Addr(a)
	ba, bok := Addr(b)
	if aok || bok {
		return aok && bok && aa == ba
	}
	return a != "" && strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
}
