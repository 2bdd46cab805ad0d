// SPDX-License-Identifier: BSD-3-Clause

package policy_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"rpctls/internal/policy"
)

// FuzzParse: rules that are accepted say who they are for, mean the same when
// they are written out, one block after the other, and decide by the first that
// is said to match.
func FuzzParse(f *testing.F) {
	f.Add(allow("dns", "a.example.com", "*.b", "*") + deny("source", "192.0.2.0/24", "::ffff:192.0.2.1"))
	f.Add("deny = [{subject = ['CN=a+O=b, 1.2.3=#0c0161,*'], name = 'x'}, {}]\n[[allow]]\nissuer = ['CN=a\\\\2c\\\\ ']\n")
	f.Add(allow("uri", "spiffe://example.com/a/*", "urn:a:b") + allow("email", "*@*.example.com", "a b@c"))
	f.Add(deny("spki", "sha256:"+strings.Repeat("ab", 32)) + allow("fingerprint", strings.TrimSuffix(strings.Repeat("AB:", 32), ":")) + allow("eku", "rpcTLSClient", "1.2.3"))
	f.Add("[[\"allow\"]] # [[deny]]\n\"dns\" = ['''\na''']\n[x]\n[[x.allow]]\n")
	f.Add("[allow]\nip = ['::/0']\n[[deny]]\n")
	cert := subject{
		dns: []string{"a.example.com", "*.b"}, ips: []string{"192.0.2.1"}, uris: []string{"spiffe://example.com/a/b"}, emails: []string{"x@y.example.com"},
		name: backup, issuer: site,
	}.certificate(f)
	from := netip.MustParseAddr("192.0.2.7")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parse(text)
		if err != nil {
			return
		}
		var again strings.Builder
		for i, r := range p.Rules() {
			block := map[string]any{}
			if r.Name != "" {
				block["name"] = r.Name
			}
			fields := r.Fields()
			for _, field := range fields {
				block[field.Name] = field.Values
				if len(field.Values) == 0 {
					t.Errorf("rule %d: %s is empty", i+1, field.Name)
				}
			}
			if len(fields) == 0 || !strings.HasPrefix(r.Place, "rpctlssd.toml:") {
				t.Errorf("rule %d: %v", i+1, r)
			}
			b, err := toml.Marshal(map[string]any{string(r.Action): []any{block}})
			if err != nil {
				t.Fatal(err)
			}
			again.Write(b)
		}
		q, err := parse(again.String())
		if err != nil {
			t.Fatalf("%v, written as\n%s", err, again.String())
		}
		if len(p.Rules()) != len(q.Rules()) {
			t.Fatalf("%d rules, written as\n%s", len(p.Rules()), again.String())
		}
		for i := range p.Rules() {
			a, b := p.Rules()[i], q.Rules()[i]
			a.Place, b.Place = "", ""
			if !reflect.DeepEqual(a, b) {
				t.Errorf("rule %d: %+v, written as\n%s%+v", i+1, a, again.String(), b)
			}
		}
		d := p.Decide(cert, from)
		for i, miss := range p.Misses(cert, from) {
			if miss == "" {
				if d.Number != i+1 || d.Allowed != (p.Rules()[i].Action == policy.Allow) {
					t.Errorf("%+v, but rule %d matches", d, i+1)
				}
				return
			}
		}
		if d.Number != 0 || d.Allowed != (p.Default() == policy.Allow) {
			t.Errorf("%+v, but no rule matches", d)
		}
	})
}
