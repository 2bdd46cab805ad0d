// SPDX-License-Identifier: BSD-3-Clause

package policy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"rpctls/internal/config"
	"rpctls/internal/pin"
	"rpctls/internal/policy"
)

// parse reads rules as the daemon does.
func parse(text string) (*policy.Policy, error) {
	var f policy.File
	if err := config.Parse("rpctlssd.toml", []byte(text), &f); err != nil {
		return nil, err
	}
	if err := f.Source("/etc/rpctls/rpctlssd.toml", []byte(text)); err != nil {
		return nil, err
	}
	return policy.New(f.Rules())
}

// A subject is what a certificate of the table says.
type subject struct {
	dns, ips, uris, emails []string
	name                   pkix.Name
	rawName                []byte // instead of name
	issuer                 pkix.Name
	ekus                   []asn1.ObjectIdentifier
}

var key = func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func (s subject) certificate(t testing.TB) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		Subject: s.name, RawSubject: s.rawName, DNSNames: s.dns, EmailAddresses: s.emails, UnknownExtKeyUsage: s.ekus,
	}
	for _, ip := range s.ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	for _, u := range s.uris {
		parsed, err := url.Parse(u)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = append(template.URIs, parsed)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, &x509.Certificate{Subject: s.issuer}, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func cn(name string) pkix.Name { return pkix.Name{CommonName: name} }

// der is a name with values of any type.
func der(t testing.TB, attributes ...any) []byte {
	t.Helper()
	var seq []pkix.RelativeDistinguishedNameSET
	for i := 0; i < len(attributes); i += 2 {
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{Type: attributes[i].(asn1.ObjectIdentifier), Value: attributes[i+1]}})
	}
	b, err := asn1.Marshal(seq)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var (
	oidCN = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidO  = asn1.ObjectIdentifier{2, 5, 4, 10}

	backup = pkix.Name{CommonName: "backup", Organization: []string{"Example"}, Country: []string{"DE"}}
	site   = pkix.Name{CommonName: "Site CA", Organization: []string{"Example"}}

	clientAuth = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	anyEKU     = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
	rpcClient  = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 33}
	private    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
)

// allow and deny are a rule with one field.
func allow(field string, values ...string) string { return rule("allow", field, values...) }
func deny(field string, values ...string) string  { return rule("deny", field, values...) }

func rule(action, field string, values ...string) string {
	for i, v := range values {
		values[i] = "'" + v + "'"
	}
	return fmt.Sprintf("[[%s]]\n%s = [%s]\n", action, field, strings.Join(values, ", "))
}

// TestDecide is the table: who is let in, and by which rule.
func TestDecide(t *testing.T) {
	host := subject{dns: []string{"a.example.com"}, name: cn("a")}
	wild := subject{dns: []string{"*.example.com"}}
	numbered := subject{ips: []string{"192.0.2.7", "2001:db8::7"}}
	workload := subject{uris: []string{"spiffe://example.com/nfs/reader"}}
	person := subject{emails: []string{"Alice@Example.com"}}
	officer := subject{name: backup, issuer: site}
	none := (*subject)(nil)
	tests := []struct {
		name    string
		rules   string
		who     *subject
		from    string
		allowed bool
		by      int // 0: none
	}{
		// Defaults.
		{"no rules, a certificate", "", &host, "192.0.2.1", true, 0},
		{"no rules, no certificate", "", none, "192.0.2.1", true, 0},
		{"no rules, no address", "", &host, "", true, 0},
		{"deny rules alone let others in", deny("dns", "b.example.com"), &host, "", true, 0},
		{"an allow rule keeps others out", allow("dns", "b.example.com"), &host, "", false, 0},
		{"an allow rule behind a deny rule keeps others out", deny("dns", "b.example.com") + allow("dns", "c.example.com"), &host, "", false, 0},
		{"a deny rule behind an allow rule does not let others in", allow("dns", "c.example.com") + deny("dns", "b.example.com"), &host, "", false, 0},

		// Order.
		{"the first decides: deny", deny("dns", "a.example.com") + allow("dns", "*.example.com"), &host, "", false, 1},
		{"the first decides: allow", allow("dns", "*.example.com") + deny("dns", "a.example.com"), &host, "", true, 1},
		{"the second, if the first does not match", deny("dns", "b.example.com") + allow("dns", "*.example.com"), &host, "", true, 2},
		{"deny, allow, deny", deny("dns", "b.example.com") + allow("dns", "c.example.com") + deny("dns", "a.example.com") + allow("dns", "*.example.com"), &host, "", false, 3},
		{"allow, deny, allow", allow("dns", "b.example.com") + deny("dns", "c.example.com") + allow("dns", "a.example.com"), &host, "", true, 3},
		{"allow twice, then deny", allow("dns", "b.example.com") + allow("dns", "a.example.com") + deny("dns", "a.example.com"), &host, "", true, 2},
		{"deny twice, then allow", deny("dns", "b.example.com") + deny("dns", "a.example.com") + allow("dns", "a.example.com"), &host, "", false, 2},
		{"written in one line", "deny = [{dns = ['a.example.com']}]\nallow = [{dns = ['*']}]\n", &host, "", false, 1},
		{"written in one line, the other way", "allow = [{dns = ['*']}]\ndeny = [{dns = ['a.example.com']}]\n", &host, "", true, 1},
		{"names of blocks in quotes", "[[\"deny\"]]\ndns = ['a.example.com']\n[[ 'allow' ]]\ndns = ['*']\n", &host, "", false, 1},
		{"a catch-all in front", deny("source", "0.0.0.0/0", "::/0") + allow("dns", "*"), &host, "192.0.2.1", false, 1},
		{"a catch-all behind", allow("dns", "a.example.com") + deny("source", "0.0.0.0/0", "::/0"), &host, "192.0.2.1", true, 1},

		// Several fields and values.
		{"both fields fit", "[[allow]]\ndns = ['a.example.com']\nsource = ['192.0.2.0/24']\n", &host, "192.0.2.1", true, 1},
		{"the first field does not", "[[allow]]\ndns = ['b.example.com']\nsource = ['192.0.2.0/24']\n", &host, "192.0.2.1", false, 0},
		{"the second field does not", "[[allow]]\ndns = ['a.example.com']\nsource = ['192.0.2.0/24']\n", &host, "198.51.100.1", false, 0},
		{"a deny rule with a field that does not fit", "[[deny]]\ndns = ['a.example.com']\nsource = ['192.0.2.0/24']\n", &host, "198.51.100.1", true, 0},
		{"any value will do", allow("dns", "x.example.com", "y.example.com", "a.example.com"), &host, "", true, 1},
		{"any name will do", allow("dns", "a.example.com"), &subject{dns: []string{"x", "y", "a.example.com"}}, "", true, 1},
		{"three fields", "[[allow]]\nsubject = ['CN=backup,O=Example,C=DE']\nissuer = ['CN=Site CA,O=Example']\nsource = ['::1']\n", &officer, "::1", true, 1},
		{"three fields, one off", "[[allow]]\nsubject = ['CN=backup,O=Example,C=DE']\nissuer = ['CN=Site CA']\nsource = ['::1']\n", &officer, "::1", false, 0},

		// dns.
		{"dns: the case", allow("dns", "A.Example.COM"), &host, "", true, 1},
		{"dns: the case in the certificate", allow("dns", "a.example.com"), &subject{dns: []string{"A.EXAMPLE.com"}}, "", true, 1},
		{"dns: the root's dot", allow("dns", "a.example.com."), &host, "", true, 1},
		{"dns: a domain", allow("dns", "*.example.com"), &host, "", true, 1},
		{"dns: a domain, deeper", allow("dns", "*.example.com"), &subject{dns: []string{"x.y.example.com"}}, "", true, 1},
		{"dns: a domain is not its own member", allow("dns", "*.example.com"), &subject{dns: []string{"example.com"}}, "", false, 0},
		{"dns: the end of a label is no domain", allow("dns", "*.example.com"), &subject{dns: []string{"a.badexample.com"}}, "", false, 0},
		{"dns: the beginning of a name is not the name", allow("dns", "a.example.com"), &subject{dns: []string{"a.example.com.evil.test"}}, "", false, 0},
		{"dns: any", allow("dns", "*"), &host, "", true, 1},
		{"dns: any, without one", allow("dns", "*"), &officer, "", false, 0},
		{"dns: the common name does not count", allow("dns", "a.example.com"), &subject{name: cn("a.example.com")}, "", false, 0},
		{"dns: a certificate's wildcard is not each of its hosts", allow("dns", "a.example.com"), &wild, "", false, 0},
		{"dns: a certificate's wildcard by itself", allow("dns", "*.example.com"), &wild, "", true, 1},
		{"dns: a deny rule is meant for a wildcard that covers it", deny("dns", "a.example.com"), &wild, "", false, 1},
		{"dns: a wildcard covers one label", deny("dns", "b.a.example.com"), &wild, "", true, 0},
		{"dns: a wildcard elsewhere covers nothing here", deny("dns", "a.example.org"), &wild, "", true, 0},
		{"dns: no name at all, below a domain", allow("dns", "*.example.com"), &subject{dns: []string{"a b.example.com"}}, "", false, 0},
		{"dns: an empty label, below a domain", allow("dns", "*.example.com"), &subject{dns: []string{"a..example.com"}}, "", false, 0},
		{"dns: no name at all, denied by a domain", deny("dns", "*.example.com"), &subject{dns: []string{"a b.example.com"}}, "", false, 1},
		{"dns: an address is no name", allow("dns", "*"), &subject{dns: []string{"192.0.2.7"}}, "", false, 0},
		{"dns: no certificate", allow("dns", "*"), none, "", false, 0},
		{"dns: no certificate, denied", deny("dns", "*"), none, "", true, 0},

		// ip.
		{"ip: IPv4", allow("ip", "192.0.2.7"), &numbered, "", true, 1},
		{"ip: another", allow("ip", "192.0.2.8"), &numbered, "", false, 0},
		{"ip: IPv6", allow("ip", "2001:db8::7"), &numbered, "", true, 1},
		{"ip: written otherwise", allow("ip", "2001:0DB8:0::0007"), &numbered, "", true, 1},
		{"ip: a network", allow("ip", "192.0.2.0/28"), &numbered, "", true, 1},
		{"ip: another network", allow("ip", "192.0.2.16/28"), &numbered, "", false, 0},
		{"ip: IPv4 in IPv6's form", allow("ip", "::ffff:192.0.2.7"), &numbered, "", true, 1},
		{"ip: all of IPv6 is not IPv4", allow("ip", "::/0"), &subject{ips: []string{"192.0.2.7"}}, "", false, 0},
		{"ip: it is not the source", allow("ip", "198.51.100.1"), &numbered, "198.51.100.1", false, 0},
		{"ip: a dNSName that looks like one", allow("ip", "192.0.2.7"), &subject{dns: []string{"192.0.2.7"}}, "", false, 0},
		{"ip: denied", deny("ip", "2001:db8::/32"), &numbered, "", false, 1},
		{"ip: no certificate", allow("ip", "0.0.0.0/0"), none, "192.0.2.1", false, 0},

		// uri.
		{"uri: as it is", allow("uri", "spiffe://example.com/nfs/reader"), &workload, "", true, 1},
		{"uri: another path", allow("uri", "spiffe://example.com/nfs/writer"), &workload, "", false, 0},
		{"uri: the path's case", allow("uri", "spiffe://example.com/NFS/reader"), &workload, "", false, 0},
		{"uri: the host's case", allow("uri", "SPIFFE://Example.com/nfs/reader"), &workload, "", true, 1},
		{"uri: another host", allow("uri", "spiffe://example.org/nfs/reader"), &workload, "", false, 0},
		{"uri: below a path", allow("uri", "spiffe://example.com/nfs/*"), &workload, "", true, 1},
		{"uri: below a path, deeper", allow("uri", "spiffe://example.com/*"), &workload, "", true, 1},
		{"uri: the path itself is not below it", allow("uri", "spiffe://example.com/nfs/reader/*"), &workload, "", false, 0},
		{"uri: the beginning of a segment is not below", allow("uri", "spiffe://example.com/nf/*"), &workload, "", false, 0},
		{"uri: below another host", allow("uri", "spiffe://example/*"), &workload, "", false, 0},
		{"uri: out of the path", allow("uri", "spiffe://example.com/nfs/*"), &subject{uris: []string{"spiffe://example.com/nfs/../root"}}, "", false, 0},
		{"uri: out of the path, encoded", allow("uri", "spiffe://example.com/nfs/*"), &subject{uris: []string{"spiffe://example.com/nfs/%2e%2e/root"}}, "", false, 0},
		{"uri: a query below a path", allow("uri", "spiffe://example.com/nfs/*"), &subject{uris: []string{"spiffe://example.com/nfs/a?b"}}, "", false, 0},
		{"uri: denied whatever it tries", deny("uri", "spiffe://example.com/nfs/*"), &subject{uris: []string{"spiffe://example.com/nfs/../root?b"}}, "", false, 1},
		{"uri: without a host", allow("uri", "urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"), &subject{uris: []string{"urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6"}}, "", true, 1},
		{"uri: no certificate", deny("uri", "spiffe://example.com/*"), none, "", true, 0},

		// email.
		{"email: as it is", allow("email", "Alice@example.com"), &person, "", true, 1},
		{"email: another user", allow("email", "bob@example.com"), &person, "", false, 0},
		{"email: the user's case", allow("email", "alice@example.com"), &person, "", false, 0},
		{"email: the user's case, denied", deny("email", "alice@example.com"), &person, "", false, 1},
		{"email: all of a host", allow("email", "*@example.com"), &person, "", true, 1},
		{"email: all of another host", allow("email", "*@mail.example.com"), &person, "", false, 0},
		{"email: all below a domain", allow("email", "*@*.com"), &person, "", true, 1},
		{"email: the host is not below itself", allow("email", "*@*.example.com"), &person, "", false, 0},
		{"email: an attribute of the subject does not count", allow("email", "*@example.com"),
			&subject{rawName: der(t, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, "alice@example.com")}, "", false, 0},

		// subject and issuer.
		{"subject: whole", allow("subject", "CN=backup,O=Example,C=DE"), &officer, "", true, 1},
		{"subject: types in small letters, spaces behind commas", allow("subject", "cn=backup, o=Example, c=DE"), &officer, "", true, 1},
		{"subject: types as numbers", allow("subject", "2.5.4.3=backup,2.5.4.10=Example,2.5.4.6=DE"), &officer, "", true, 1},
		{"subject: part of it is not the whole", allow("subject", "CN=backup"), &officer, "", false, 0},
		{"subject: another order", allow("subject", "C=DE,O=Example,CN=backup"), &officer, "", false, 0},
		{"subject: some attributes", allow("subject", "O=Example,*"), &officer, "", true, 1},
		{"subject: some attributes, in any order", allow("subject", "C=DE,CN=backup, *"), &officer, "", true, 1},
		{"subject: some attributes, one is missing", allow("subject", "O=Example,OU=Ops,*"), &officer, "", false, 0},
		{"subject: some attributes that are all", allow("subject", "CN=a,*"), &host, "", true, 1},
		{"subject: a value's case", allow("subject", "O=example,*"), &officer, "", false, 0},
		{"subject: the beginning of a value", allow("subject", "O=Exam,*"), &officer, "", false, 0},
		{"subject: another type", allow("subject", "OU=Example,*"), &officer, "", false, 0},
		{"subject: a comma in a value", allow("subject", `CN=Smith\, John`), &subject{name: cn("Smith, John")}, "", true, 1},
		{"subject: a comma in a value makes no attribute", allow("subject", "O=Example,*"), &subject{name: cn("x,O=Example")}, "", false, 0},
		{"subject: as the log writes what it knows no name for", allow("subject", "1.2.3.4=#130161"), &subject{rawName: der(t, asn1.ObjectIdentifier{1, 2, 3, 4}, "a")}, "", true, 1},
		{"subject: the string's type does not count", allow("subject", "CN=#0c0161"), &host, "", true, 1},
		{"subject: an old string", allow("subject", "CN=a"), &subject{rawName: der(t, oidCN, asn1.RawValue{Tag: 20, Bytes: []byte("a")})}, "", true, 1},
		{"subject: an old string of who knows what alphabet", allow("subject", "CN=#1401e9"), &subject{rawName: der(t, oidCN, asn1.RawValue{Tag: 20, Bytes: []byte{0xe9}})}, "", true, 1},
		{"subject: an old string is not read as Latin-1", allow("subject", "CN=é"), &subject{rawName: der(t, oidCN, asn1.RawValue{Tag: 20, Bytes: []byte{0xe9}})}, "", false, 0},
		{"subject: wide characters", allow("subject", "CN=aé"), &subject{rawName: der(t, oidCN, asn1.RawValue{Tag: 30, Bytes: []byte{0, 'a', 0, 0xe9}})}, "", true, 1},
		{"subject: empty, some attributes", allow("subject", "CN=a,*"), &subject{dns: []string{"a"}}, "", false, 0},
		{"subject: two of a type", allow("subject", "O=B,*"), &subject{rawName: der(t, oidO, "A", oidO, "B")}, "", true, 1},
		{"subject: denied", deny("subject", "CN=backup,*"), &officer, "", false, 1},
		{"issuer: whole", allow("issuer", "CN=Site CA,O=Example"), &officer, "", true, 1},
		{"issuer: another", allow("issuer", "CN=Other CA,O=Example"), &officer, "", false, 0},
		{"issuer: it is not the subject", allow("issuer", "CN=backup,*"), &officer, "", false, 0},
		{"issuer: no certificate", deny("issuer", "CN=Site CA,*"), none, "", true, 0},

		// eku.
		{"eku: by name", allow("eku", "clientAuth"), &subject{ekus: []asn1.ObjectIdentifier{clientAuth}}, "", true, 1},
		{"eku: by number", allow("eku", "1.3.6.1.5.5.7.3.2"), &subject{ekus: []asn1.ObjectIdentifier{clientAuth}}, "", true, 1},
		{"eku: RFC 9289's", allow("eku", "rpcTLSClient"), &subject{ekus: []asn1.ObjectIdentifier{rpcClient}}, "", true, 1},
		{"eku: RFC 9289's is not TLS's", allow("eku", "rpcTLSClient"), &subject{ekus: []asn1.ObjectIdentifier{clientAuth}}, "", false, 0},
		{"eku: any other number", allow("eku", "1.3.6.1.4.1.99999.1"), &subject{ekus: []asn1.ObjectIdentifier{clientAuth, private}}, "", true, 1},
		{"eku: what is for anything is not for this", allow("eku", "rpcTLSClient"), &subject{ekus: []asn1.ObjectIdentifier{anyEKU}}, "", false, 0},
		{"eku: what is for anything, by name", deny("eku", "anyExtendedKeyUsage"), &subject{ekus: []asn1.ObjectIdentifier{anyEKU}}, "", false, 1},
		{"eku: none", allow("eku", "clientAuth"), &host, "", false, 0},

		// source.
		{"source: a network", allow("source", "192.0.2.0/24"), &host, "192.0.2.255", true, 1},
		{"source: beside it", allow("source", "192.0.2.0/24"), &host, "192.0.3.0", false, 0},
		{"source: IPv6", allow("source", "2001:db8::/32"), &host, "2001:db8:ffff::1", true, 1},
		{"source: a zone says nothing", allow("source", "fe80::/10"), &host, "fe80::1%eth0", true, 1},
		{"source: IPv4 in IPv6's form", allow("source", "192.0.2.0/24"), &host, "::ffff:192.0.2.9", true, 1},
		{"source: no certificate", allow("source", "192.0.2.0/24"), none, "192.0.2.9", true, 1},
		{"source: no certificate, denied", deny("source", "192.0.2.0/24"), none, "192.0.2.9", false, 1},
		{"source: not known", allow("source", "0.0.0.0/0", "::/0"), &host, "", false, 0},
		{"source: not known, denied", deny("source", "192.0.2.9"), &host, "", false, 0},
		{"source: not known, and another rule would allow", allow("dns", "*") + deny("source", "192.0.2.9"), &host, "", false, 0},
		{"source: with a field of a certificate, without one", "[[allow]]\ndns = ['*']\nsource = ['::/0']\n", none, "::1", false, 0},
	}
	if len(tests) < 100 {
		t.Errorf("%d cases", len(tests))
	}
	seen := make(map[string]bool)
	for _, tt := range tests {
		if seen[tt.name] {
			t.Errorf("two cases called %s", tt.name)
		}
		seen[tt.name] = true
		t.Run(tt.name, func(t *testing.T) {
			p, err := parse(tt.rules)
			if err != nil {
				t.Fatal(err)
			}
			var cert *x509.Certificate
			if tt.who != nil {
				cert = tt.who.certificate(t)
			}
			var from netip.Addr
			if tt.from != "" {
				from = netip.MustParseAddr(tt.from)
			}
			d := p.Decide(cert, from)
			if d.Allowed != tt.allowed || d.Number != tt.by || (d.Rule == nil) != (tt.by == 0) || d.Why == "" {
				t.Errorf("%+v, want %v by %d", d, tt.allowed, tt.by)
			}
			if (d.Err() == nil) != tt.allowed {
				t.Errorf("error %v", d.Err())
			}
			// What is told of each rule agrees.
			misses := p.Misses(cert, from)
			for i, field := range misses {
				if before := tt.by == 0 && from.IsValid() == (tt.from != "") && !(p.NeedsSource() && tt.from == "") || i+1 < tt.by; before && field == "" {
					t.Errorf("rule %d: said to match", i+1)
				}
			}
			if tt.by > 0 && misses[tt.by-1] != "" {
				t.Errorf("rule %d: said to miss by %s", tt.by, misses[tt.by-1])
			}
		})
	}
}

// Keys and certificates are compared as a whole; the digests are those of the
// certificate at hand.
func TestDigests(t *testing.T) {
	cert := subject{dns: []string{"a"}}.certificate(t)
	other := subject{dns: []string{"a"}}.certificate(t) // the same key, another signature
	p, err := parse(allow("fingerprint", strings.Repeat("00", 32), pin.FingerprintOf(cert).String()))
	if err != nil {
		t.Fatal(err)
	}
	if !p.Decide(cert, netip.Addr{}).Allowed || p.Decide(other, netip.Addr{}).Allowed || p.Decide(nil, netip.Addr{}).Allowed {
		t.Error("fingerprint")
	}
	if p, err = parse(allow("spki", pin.Of(cert).String())); err != nil {
		t.Fatal(err)
	}
	if !p.Decide(cert, netip.Addr{}).Allowed || !p.Decide(other, netip.Addr{}).Allowed || p.Decide(nil, netip.Addr{}).Allowed {
		t.Error("spki")
	}
	if p, err = parse(deny("spki", "sha256:"+strings.Repeat("00", 32))); err != nil {
		t.Fatal(err)
	}
	if !p.Decide(cert, netip.Addr{}).Allowed {
		t.Error("another spki")
	}
}

// A name that cannot be read counts against the client.
func TestUnreadableName(t *testing.T) {
	cert := subject{name: backup}.certificate(t)
	cert.RawSubject = cert.RawSubject[:len(cert.RawSubject)-1]
	for text, allowed := range map[string]bool{
		allow("subject", "CN=backup,*"): false,
		deny("subject", "CN=other"):     false,
		deny("issuer", "CN=other"):      true,
	} {
		p, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(cert, netip.Addr{}); d.Allowed != allowed {
			t.Errorf("%s%+v", text, d)
		}
	}
}

func TestManyNames(t *testing.T) {
	var s subject
	for i := range 257 {
		s.dns = append(s.dns, fmt.Sprintf("h%d.example.com", i))
	}
	cert := s.certificate(t)
	for text, allowed := range map[string]bool{
		"": true, deny("source", "192.0.2.1"): true, deny("dns", "x"): false, allow("dns", "*"): false,
	} {
		p, err := parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if d := p.Decide(cert, netip.MustParseAddr("192.0.2.9")); d.Allowed != allowed {
			t.Errorf("%s%+v", text, d)
		}
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"nobody", "[[allow]]\n", `allow rule (rpctlssd.toml:1): it says nothing about whom`},
		{"nobody, with a name", "\n[[deny]]\nname = 'x'\n", `deny rule 'x' (rpctlssd.toml:2): it says nothing`},
		{"an empty list", "[[allow]]\ndns = []\n", "dns is empty"},
		{"an empty list beside another", "[[allow]]\ndns = ['*']\nsource = []\n", "source is empty"},
		{"two of a name", "[[allow]]\nname='a'\ndns=['*']\n[[deny]]\nname='a'\ndns=['*']\n", `deny rule 'a' (rpctlssd.toml:4): there are two`},
		{"a name with quotes", "[[allow]]\nname='a\"b'\ndns=['*']\n", "name is not"},
		{"a long name", "[[allow]]\nname='" + strings.Repeat("a", 65) + "'\ndns=['*']\n", "name is not"},
		{"an unknown field", "[[allow]]\ncn = ['a']\n", `rpctlssd.toml:2:1: unknown key "allow.cn"`},
		{"no list", "[[allow]]\ndns = 'a'\n", "rpctlssd.toml:2"},
		{"no block", "[allow]\ndns = ['a']\n", "please write each as [[allow]]"},
		{"dns: an address", allow("dns", "192.0.2.1"), "is an address"},
		{"dns: a network", allow("dns", "192.0.2.0/24"), "is an address"},
		{"dns: a star in the middle", allow("dns", "a.*.example.com"), "is neither a host name"},
		{"dns: nothing", allow("dns", ""), "is neither a host name"},
		{"ip: a name", allow("ip", "a.example.com"), "neither an address nor a network"},
		{"ip: any", allow("ip", "*"), "neither an address nor a network"},
		{"ip: bits beyond", allow("ip", "192.0.2.1/24"), "bits beyond"},
		{"source: a zone", allow("source", "fe80::1%eth0"), "has a zone"},
		{"source: an IPv4 network in IPv6's form", allow("source", "::ffff:192.0.2.0/120"), "write it as IPv4"},
		{"uri: relative", allow("uri", "/nfs"), "no scheme"},
		{"uri: a star in the middle", allow("uri", "spiffe://example.com/*/a"), "can only stand"},
		{"uri: a star at the end of a segment", allow("uri", "spiffe://example.com/a*"), "can only stand"},
		{"uri: below nothing", allow("uri", "urn:/*"), "only below a host"},
		{"uri: below a way out", allow("uri", "spiffe://example.com/a/../*"), "only below a host"},
		{"uri: none", allow("uri", "spiffe://[::1"), "is not a URI"},
		{"email: no user", allow("email", "@example.com"), "user@host"},
		{"email: no host", allow("email", "alice"), "user@host"},
		{"email: a star in the user", allow("email", "a*@example.com"), "for all users or for none"},
		{"email: an address", allow("email", "a@192.0.2.1"), "user@host"},
		{"subject: empty", allow("subject", ""), "without \\\"=\\\""},
		{"subject: a star alone", allow("subject", "*"), "without"},
		{"subject: an unknown type", allow("subject", "XX=a"), "neither numbers"},
		{"subject: no value", allow("subject", "CN="), "without a value"},
		{"subject: a star in a value", allow("subject", "CN=a*"), "needs a backslash"},
		{"subject: quotes", allow("subject", `CN="a"`), "needs a backslash"},
		{"subject: a lonely backslash", allow("subject", `CN=a\z`), "backslash before nothing"},
		{"subject: spaces around the value", allow("subject", "CN= a"), "a space at an end"},
		{"subject: spaces behind the value", allow("subject", "CN=a ,O=b"), "a space at an end"},
		{"subject: something behind the star", allow("subject", "CN=a,*,O=b"), "neither numbers"},
		{"subject: bad hexadecimal", allow("subject", "CN=#zz"), "is not the DER"},
		{"subject: more than DER", allow("subject", "CN=#13016100"), "is not the DER"},
		{"subject: a comma at the end", allow("subject", "CN=a,"), "without"},
		{"spki: no pin", allow("spki", strings.Repeat("00", 32)), "is not \\\"sha256:\\\""},
		{"fingerprint: SHA-1", allow("fingerprint", strings.Repeat("00", 20)), "is not the SHA-256"},
		{"eku: an unknown name", allow("eku", "clientauth"), "neither numbers"},
		{"eku: no number", allow("eku", "1"), "neither numbers"},
		{"eku: a zero in front", allow("eku", "1.3.06"), "neither numbers"},
		{"many values", allow("source", strings.Split(strings.Repeat("192.0.2.1 ", 257), " ")[:257]...), "257 values, more than 256"},
		{"many values in all", strings.Repeat(allow("source", strings.Fields(strings.Repeat("192.0.2.1 ", 256))...), 65), "16640 values in all rules"},
		{"many rules", strings.Repeat(allow("dns", "a"), 1025), "1025 rules, more than 1024"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := parse(tt.text)
			if err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(tt.want, `\"`, `"`)) {
				t.Errorf("got %v, %v, want %q", p, err, tt.want)
			}
		})
	}
}

// The text names the rule, and where it stands.
func TestRefusal(t *testing.T) {
	p, err := parse("[[allow]]\nname = 'ours'\ndns = ['a']\n\n[[deny]]\nname = 'no laptops'\ndns = ['*.laptops.test']\n[[deny]]\ndns = ['b']\n")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		dns, want string
	}{
		{"x.laptops.test", `policy: refused by deny rule 'no laptops' (rpctlssd.toml:5)`},
		{"b", "policy: refused by deny rule (rpctlssd.toml:8)"},
		{"c", "policy: no allow rule matches"},
	} {
		err := p.Decide(subject{dns: []string{tt.dns}}.certificate(t), netip.Addr{}).Err()
		if err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.dns, err, tt.want)
		}
		if a, ok := err.(interface{ TLSAlert() uint8 }); !ok || a.TLSAlert() != 49 {
			t.Errorf("%s: another alert", tt.dns)
		}
	}
	if d := p.Decide(nil, netip.Addr{}); d.Why != "no allow rule matches a client without a certificate" {
		t.Errorf("%+v", d)
	}
	if got := p.HostNames(); len(got) != 1 || got[0] != "a" {
		t.Errorf("host names %q", got)
	}
}
