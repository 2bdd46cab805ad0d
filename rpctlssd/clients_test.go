// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/forward"
	"rpctls/internal/reason"
)

// hosts is a resolver.
type hosts map[string]string

func (h hosts) LookupAddresses(_ context.Context, name string) ([]netip.Addr, error) {
	if a, ok := h[name]; ok {
		return []netip.Addr{netip.MustParseAddr(a)}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// judged is what a configuration makes of clients.
func judged(t *testing.T, ca *certstest.CA, table *forward.Table, text string) *Loaded {
	t.Helper()
	dir := t.TempDir()
	ca.MustIssue(t, certstest.Options{DNS: []string{"server.test"}}).MustWriteFiles(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	text = fmt.Sprintf("certificate = %q\nprivate_key = %q\ntrust = %q\n", dir+"/cert.pem", dir+"/key.pem", dir+"/ca.pem") + text
	c, err := load(t, text)
	if err != nil {
		t.Fatal(err)
	}
	l, err := build(c, new(certs.Files), table)
	if err != nil {
		t.Fatal(err)
	}
	l.expect()
	return l
}

var (
	here  = netip.MustParseAddr("192.0.2.1")
	there = netip.MustParseAddr("198.51.100.1")
)

// A chain, an address and a time are judged, whether in a handshake or later.
func TestJudge(t *testing.T) {
	ca, other := certstest.MustCA(t, certstest.CAOptions{}), certstest.MustCA(t, certstest.CAOptions{})
	named := ca.MustIssue(t, certstest.Options{DNS: []string{"client.test"}}).Chain()
	numbered := ca.MustIssue(t, certstest.Options{IPs: []string{"192.0.2.1"}}).Chain()
	stranger := other.MustIssue(t, certstest.Options{DNS: []string{"client.test"}}).Chain()
	server := ca.MustIssue(t, certstest.Options{DNS: []string{"client.test"}, EKU: certstest.OIDs{certstest.ServerAuth}}).Chain()
	now := time.Now()
	const require, match = "client_certificate = \"require\"\n", "require_address_match = true\n"
	tests := []struct {
		name, config string
		chain        []*x509.Certificate
		from         netip.Addr
		now          time.Time
		want         reason.Reason
	}{
		{"no policy", "", named, here, now, reason.OK},
		{"no policy, no address", "", named, netip.Addr{}, now, reason.OK},
		{"no policy, no certificate", "", nil, here, now, reason.OK},
		{"certificate required, none", require, nil, here, now, reason.NoCertificate},
		{"a stranger", "", stranger, here, now, reason.UnknownCA},
		{"another purpose", "", server, here, now, reason.KeyUsage},
		{"later", "", named, here, now.AddDate(1, 0, 0), reason.Expired},
		{"a stranger whom a rule allows", "[[allow]]\ndns = [\"client.test\"]\n", stranger, here, now, reason.UnknownCA},
		{"allowed", "[[allow]]\ndns = [\"client.test\"]\n", named, here, now, reason.OK},
		{"not allowed", "[[allow]]\ndns = [\"client.test\"]\n", numbered, here, now, reason.Policy},
		{"denied", "[[deny]]\nsource = [\"192.0.2.0/24\"]\n", named, here, now, reason.Policy},
		{"denied without a certificate", "[[deny]]\nsource = [\"192.0.2.0/24\"]\n", nil, here, now, reason.Policy},
		{"denied elsewhere", "[[deny]]\nsource = [\"192.0.2.0/24\"]\n", nil, there, now, reason.OK},
		{"an address that the kernel writes as IPv6", "[[deny]]\nsource = [\"192.0.2.0/24\"]\n", named, netip.MustParseAddr("::ffff:192.0.2.1"), now, reason.Policy},
		{"an address in the certificate", match, numbered, here, now, reason.OK},
		{"the same as the kernel writes it", match, numbered, netip.MustParseAddr("::ffff:192.0.2.1"), now, reason.OK},
		{"another address in the certificate", match, numbered, there, now, reason.AddressMismatch},
		{"an address that is not known", match, numbered, netip.Addr{}, now, reason.AddressMismatch},
		{"a name that is not known", match, named, here, now, reason.AddressUnknown},
		{"a name that does not matter", match + "[[deny]]\ndns = [\"client.test\"]\n", named, here, now, reason.Policy},
		{"nothing to match", match, nil, here, now, reason.OK},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := judged(t, ca, forward.New(hosts{}), tt.config)
			if err := l.judge(tt.chain, tt.from, tt.now); reason.Of(err) != tt.want {
				t.Errorf("%s: %v, want %s", reason.Of(err), err, tt.want)
			}
		})
	}
}

// Only clients whose address matters get a TLS configuration of their own.
func TestTLSFor(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	for config, own := range map[string]bool{
		"": false, "[[deny]]\ndns = [\"a\"]\n": false, "[[deny]]\nsource = [\"::1\"]\n": true, "require_address_match = true\n": true,
	} {
		l := judged(t, ca, forward.New(hosts{}), config)
		if got := l.tlsFor(here) != l.tls; got != own {
			t.Errorf("%q: of its own: %v", config, got)
		}
	}
}

// Who is not known yet is at the next attempt, and who is expected at the first;
// a reload forgets nobody.
func TestAddressMatch(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	named := ca.MustIssue(t, certstest.Options{DNS: []string{"client.test"}}).Chain()
	other := ca.MustIssue(t, certstest.Options{DNS: []string{"other.test"}}).Chain()
	const match = "require_address_match = true\n"
	for _, tt := range []struct {
		name, config string
		first        reason.Reason
	}{
		{"not expected", match, reason.AddressUnknown},
		{"by name", match + "address_names = [\"client.test\"]\n", reason.OK},
		{"by a rule", match + "[[allow]]\ndns = [\"client.test\", \"other.test\"]\n", reason.OK},
		{"not by a domain", match + "[[allow]]\ndns = [\"*.test\"]\n", reason.AddressUnknown},
		{"not by a deny rule", match + "[[deny]]\ndns = [\"client.test.test\"]\n", reason.AddressUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table := forward.New(hosts{"client.test": "192.0.2.1", "other.test": "198.51.100.1"})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- table.Run(ctx, slog.New(slog.DiscardHandler)) }()
				defer func() { cancel(); <-done }()
				l := judged(t, ca, table, tt.config)
				synctest.Wait()
				now := named[0].NotBefore.Add(time.Hour)
				want := func(l *Loaded, chain []*x509.Certificate, r reason.Reason) {
					t.Helper()
					if err := l.judge(chain, here, now); reason.Of(err) != r {
						t.Errorf("%s: %v, want %s", reason.Of(err), err, r)
					}
				}
				want(l, named, tt.first)
				synctest.Wait()
				want(l, named, reason.OK)
				_ = l.judge(other, here, now)
				synctest.Wait()
				want(l, other, reason.AddressMismatch)
				want(judged(t, ca, table, match), named, reason.OK)
			})
		})
	}
}

// What a tool says is what the daemon would, but for who is not known yet.
func TestNewJudge(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, ca.PEM(), 0o644); err != nil {
		t.Fatal(err)
	}
	// The server's own files are not there.
	c, err := load(t, identity+fmt.Sprintf("trust = %q\nrequire_address_match = true\n", path))
	if err != nil {
		t.Fatal(err)
	}
	j, err := NewJudge(c, new(certs.Files))
	if err != nil {
		t.Fatal(err)
	}
	j.table = forward.New(hosts{"client.test": "192.0.2.1"})
	chain := ca.MustIssue(t, certstest.Options{DNS: []string{"client.test"}}).Chain()
	if err := j.Judge(t.Context(), chain, here, time.Now()); err != nil {
		t.Error(err)
	}
	if err := j.Judge(t.Context(), chain, there, time.Now()); reason.Of(err) != reason.AddressMismatch {
		t.Error(err)
	}
}
