// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"rpctls/internal/config"
	"rpctls/internal/config/configtest"
	"rpctls/internal/names"
)

// table is a part of a configuration file.
type table = map[string]any

// put sets the keys that have a value.
func put(t table, values map[string]string) {
	for key, value := range values {
		if value != "" {
			t[key] = value
		}
	}
}

// written returns the file that says all of c.
func written(c Config) table {
	t := table{
		"crl":       c.CRL,
		"crl_stale": string(c.CRLStale), "alpn": string(c.ALPN), "reconnect": string(c.Reconnect),
		"log_level": strings.ToLower(c.LogLevel.String()), "runtime_directory": string(c.RuntimeDirectory),
		"identity_directory": string(c.IdentityDirectory),
	}
	put(t, map[string]string{"certificate": string(c.Certificate), "private_key": string(c.PrivateKey), "trust": string(c.Trust)})
	var servers []table
	for _, s := range c.Servers {
		block := table{}
		put(block, map[string]string{"certificate": string(s.Certificate), "private_key": string(s.PrivateKey), "trust": string(s.Trust)})
		var match, pin []string
		for _, p := range s.Match {
			match = append(match, p.String())
		}
		for _, p := range s.Pin {
			pin = append(pin, p.String())
		}
		block["match"] = match
		if pin != nil {
			block["pin"] = pin
		}
		if s.CRL != nil {
			block["crl"] = *s.CRL
		}
		servers = append(servers, block)
	}
	var identities []table
	for _, id := range c.Identities {
		identities = append(identities, table{"name": id.Name, "certificate": string(id.Certificate), "private_key": string(id.PrivateKey)})
	}
	if identities != nil {
		t["identity"] = identities
	}
	if servers != nil {
		t["server"] = servers
	}
	return t
}

// FuzzLoad: any configuration with any drop-in is refused with the file's name,
// or means the same when it is written out.
func FuzzLoad(f *testing.F) {
	reference, err := os.ReadFile("../packaging/config/rpctlscd.toml")
	if err != nil {
		f.Fatal(err)
	}
	const main = "trust = \"/ca\"\ncertificate = \"/c\"\nprivate_key = \"/k\"\n"
	f.Add(string(reference), "")
	f.Add(main, "reconnect = \"fail\"\ncrl = [\"/crl\"]\ncrl_stale = \"warn\"\nalpn = \"require\"\nlog_level = \"debug\"\n")
	f.Add(main+"[[server]]\nmatch = [\"*.Example.com.\", \"2001:db8::/32\", \"::ffff:192.0.2.1\"]\ntrust = \"system\"\npin = [\"sha256:"+strings.Repeat("aB", 32)+"\"]\n",
		"[[server]]\nmatch = [\"*\"]\ncrl = []\ncertificate = \"/d\"\nprivate_key = \"/e\"\n")
	f.Add(main+"identity_directory = \"/ids/\"\n", "[[identity]]\nname = \"a.b\"\ncertificate = \"/d\"\nprivate_key = \"/e\"\n")
	f.Add(main, "[server]\nmatch = [\"*\"]\n")
	f.Add("trust = \"\"\n", "runtime_directory = \"/run/../x\"\n")
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
		if c.Trust == "" || (c.Certificate == "") != (c.PrivateKey == "") {
			t.Errorf("trust %q, certificate %q, key %q", c.Trust, c.Certificate, c.PrivateKey)
		}
		for i, s := range c.Servers {
			if len(s.Match) == 0 || (s.Certificate == "") != (s.PrivateKey == "") || s.Pin != nil && len(s.Pin) == 0 {
				t.Errorf("server %d: %+v", i+1, s)
			}
		}
		for _, p := range append([]config.Path{c.RuntimeDirectory}, c.CRL...) {
			if !filepath.IsAbs(string(p)) {
				t.Errorf("path %q", p)
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
