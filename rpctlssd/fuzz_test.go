// SPDX-License-Identifier: BSD-3-Clause

package rpctlssd

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"rpctls/internal/policy"
)

// table is a part of a configuration file.
type table = map[string]any

// written returns the file that says all of c.
func written(c Config) table {
	t := table{
		"certificate": string(c.Certificate), "private_key": string(c.PrivateKey), "crl": c.CRL,
		"crl_stale": string(c.CRLStale), "alpn": string(c.ALPN), "client_certificate": string(c.ClientCertificate),
		"log_level": strings.ToLower(c.LogLevel.String()), "runtime_directory": string(c.RuntimeDirectory),
		"first_record_timeout": c.FirstRecordTimeout.String(),
	}
	if c.Trust != "" {
		t["trust"] = string(c.Trust)
	}
	if c.RequireAddressMatch {
		t["require_address_match"] = true
	}
	if c.AddressNames != nil {
		t["address_names"] = c.AddressNames
	}
	var identities []table
	for _, id := range c.Identities {
		var match []string
		for _, p := range id.Match {
			match = append(match, p.String())
		}
		identities = append(identities, table{"match": match, "certificate": string(id.Certificate), "private_key": string(id.PrivateKey)})
	}
	if identities != nil {
		t["identity"] = identities
	}
	return t
}

// writtenRules are the blocks of a policy, one after the other: in a table each
// action's would come together.
func writtenRules(rules []policy.Rule) (text []byte, err error) {
	for _, r := range rules {
		block := table{}
		if r.Name != "" {
			block["name"] = r.Name
		}
		for _, f := range r.Fields() {
			block[f.Name] = f.Values
		}
		b, err := toml.Marshal(table{string(r.Action): []table{block}})
		if err != nil {
			return nil, err
		}
		text = append(text, b...)
	}
	return text, nil
}

// FuzzLoad: any configuration with any drop-in is refused with the file's name,
// or means the same when it is written out.
func FuzzLoad(f *testing.F) {
	reference, err := os.ReadFile("../packaging/config/rpctlssd.toml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference), "")
	f.Add(identity, "trust = \"/ca\"\ncrl = [\"/crl\"]\ncrl_stale = \"warn\"\nalpn = \"require\"\nlog_level = \"debug\"\n")
	f.Add(identity+"trust = \"system\"\nclient_certificate = \"require\"\n", "client_certificate = \"request\"\nfirst_record_timeout = \"1m0.5s\"\n")
	f.Add(identity+"[[identity]]\nmatch = [\"A.example.\"]\ncertificate = \"/a\"\nprivate_key = \"/b\"\n",
		"[[identity]]\nmatch = [\"*\", \"::1\"]\ncertificate = \"/c\"\nprivate_key = \"/d\"\n")
	f.Add(identity+"trust = \"\"\nclient_certificate = \"none\"\n", "")
	f.Add(identity+"trust = \"/ca\"\n[[deny]]\nname = \"a\"\nsource = [\"192.0.2.0/24\"]\n[[allow]]\ndns = [\"A.example.\"]\nsubject = [\"CN=a\\\\, b,*\"]\n",
		"require_address_match = true\naddress_names = [\"C.test\"]\n[[deny]]\nuri = [\"spiffe://A/b/*\"]\neku = [\"rpcTLSClient\"]\nemail = [\"*@b\"]\n")
	dir := f.TempDir()
	path, dropIn := filepath.Join(dir, "a.toml"), filepath.Join(dir, "a.d", "b.toml")
	if err := os.Mkdir(filepath.Dir(dropIn), 0o700); err != nil {
		f.Fatal(err)
	}
	load := func(t *testing.T, main, more string) (Config, error) {
		for path, text := range map[string]string{path: main, dropIn: more} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return Load(path)
	}
	policies := []ClientCertificate{CertificateNone, CertificateRequest, CertificateRequire}
	f.Fuzz(func(t *testing.T, main, more string) {
		c, err := load(t, main, more)
		if err != nil {
			if diff := cmp.Diff(Config{}, c, options...); diff != "" {
				t.Errorf("a value with %v:\n%s", err, diff)
			}
			if !strings.HasPrefix(err.Error(), dir) {
				t.Errorf("not located: %v", err)
			}
			return
		}
		// Clients are asked if, and only if, it is known whom to believe.
		if c.Certificate == "" || c.PrivateKey == "" || c.FirstRecordTimeout <= 0 ||
			(c.ClientCertificate == CertificateNone) != (c.Trust == "") || !slices.Contains(policies, c.ClientCertificate) {
			t.Errorf("accepted: %+v", c)
		}
		if c.RequireAddressMatch && c.Trust == "" || len(c.AddressNames) > 0 && !c.RequireAddressMatch {
			t.Errorf("accepted: %+v", c)
		}
		for i, id := range c.Identities {
			if len(id.Match) == 0 || id.Certificate == "" || id.PrivateKey == "" {
				t.Errorf("identity %d: %+v", i+1, id)
			}
		}
		text, err := toml.Marshal(written(c))
		if err != nil {
			t.Fatal(err)
		}
		rules, err := writtenRules(c.Rules)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, rules...)
		again, err := load(t, string(text), "")
		if err != nil {
			t.Fatalf("%v, written as\n%s", err, text)
		}
		if len(again.Rules) != len(c.Rules) {
			t.Fatalf("%d rules instead of %d, written as\n%s", len(again.Rules), len(c.Rules), text)
		}
		for i := range c.Rules {
			if c.Rules[i].Place == "" {
				t.Errorf("rule %d stands nowhere", i+1)
			}
			c.Rules[i].Place, again.Rules[i].Place = "", "" // the one thing that is another
		}
		if diff := cmp.Diff(c, again, options...); diff != "" {
			t.Errorf("written as\n%s\n(-want +got):\n%s", text, diff)
		}
	})
}
