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

	"rpctls/internal/config/configtest"
	"rpctls/internal/names"
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
	options := []cmp.Option{cmp.AllowUnexported(names.Pattern{}), configtest.Comparer}
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
		for i, id := range c.Identities {
			if len(id.Match) == 0 || id.Certificate == "" || id.PrivateKey == "" {
				t.Errorf("identity %d: %+v", i+1, id)
			}
		}
		text, err := toml.Marshal(written(c))
		if err != nil {
			t.Fatal(err)
		}
		again, err := load(t, string(text), "")
		if err != nil {
			t.Fatalf("%v, written as\n%s", err, text)
		}
		if diff := cmp.Diff(c, again, options...); diff != "" {
			t.Errorf("written as\n%s\n(-want +got):\n%s", text, diff)
		}
	})
}
