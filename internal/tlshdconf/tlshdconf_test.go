// SPDX-License-Identifier: BSD-3-Clause

package tlshdconf_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/tlshdconf"
	"rpctls/rpctlscd"
	"rpctls/rpctlssd"
)

// The files of a host that runs tlshd.
var host = fstest.MapFS{
	"pki/ca.pem":      {Data: []byte("x"), Mode: 0o644},
	"pki/crl.pem":     {Data: []byte("x"), Mode: 0o644},
	"pki/host.pem":    {Data: []byte("x"), Mode: 0o644},
	"pki/host.key":    {Data: []byte("x"), Mode: 0o640},
	"pki/open.key":    {Data: []byte("x"), Mode: 0o644},
	"pki/root.key":    {Data: []byte("x"), Mode: 0o600},
	"pki/empty.pem":   {Mode: 0o644},
	`pki/a "b" \.pem`: {Data: []byte("x"), Mode: 0o644},
}

func stat(path string) (fs.FileInfo, error) { return host.Stat(strings.TrimPrefix(path, "/")) }

// Like the file that ktls-utils installs: groups, and keys in comments.
const shipped = `# comment
[debug]
loglevel=0
tls=0
nl=0

[authenticate]
#keyrings= <keyring>;<keyring>;<keyring>

[authenticate.client]
#x509.truststore= <pathname>

[authenticate.server]
#x509.truststore= <pathname>
`

func TestConvert(t *testing.T) {
	tests := []struct {
		name           string
		text           string
		client, server string
		notes          []string // parts
	}{
		{"as shipped", shipped, `trust = "system"` + "\n", "", []string{"[authenticate.client] names no x509.truststore", "no rpctlssd.toml is made"}},
		{"everything", `
[debug]
loglevel = 3
tls=1
nl = 0
delay_done=5
[authenticate]
keyrings= .mine;.nfs
[authenticate.client]
x509.truststore= /pki/ca.pem
x509.crl=/pki/crl.pem
x509.certificate= /pki/host.pem
x509.private_key= /pki/host.key
x509.pq.certificate= /pki/pq.pem
x509.pq.private_key= /pki/pq.key
[authenticate.server]
x509.truststore=/pki/ca.pem
x509.certificate=/pki/host.pem
x509.private_key=/pki/host.key
x509.tags=on
`,
			"trust = \"/pki/ca.pem\"\ncrl = [\"/pki/crl.pem\"]\ncertificate = \"/pki/host.pem\"\nprivate_key = \"/pki/host.key\"\nlog_level = \"debug\"\n",
			"certificate = \"/pki/host.pem\"\nprivate_key = \"/pki/host.key\"\ntrust = \"/pki/ca.pem\"\nlog_level = \"debug\"\n",
			[]string{"x509.crl: rpctls refuses a peer whose CA has no current list", "[debug] tls has no counterpart", "[debug] delay_done has no counterpart",
				"keyrings has no counterpart", "x509.pq.certificate has no counterpart", "x509.pq.private_key has no counterpart",
				`line 20: ["authenticate.server"] "x509.tags" is not known`}},
		{"missing files", "[authenticate.client]\nx509.truststore=/pki/none.pem\nx509.crl=/pki/empty.pem\n", "trust = \"/pki/none.pem\"\ncrl = [\"/pki/empty.pem\"]\n", "",
			[]string{"none.pem: file does not exist: tlshd went on without it, rpctls does not start", "/pki/empty.pem is empty", "x509.crl: ", "[authenticate.server] has no certificate"}},
		{"half an identity", "[authenticate.client]\nx509.truststore=/pki/ca.pem\nx509.certificate=/pki/host.pem\n", "trust = \"/pki/ca.pem\"\n", "",
			[]string{"has only one of", "no rpctlssd.toml"}},
		{"a key in a token", "[authenticate.server]\nx509.certificate=/pki/host.pem\nx509.private_key=pkcs11:token=x;object=y\n[authenticate.client]\nx509.truststore=/pki/ca.pem", "trust = \"/pki/ca.pem\"\n", "",
			[]string{"keys in tokens are not supported", "no rpctlssd.toml"}},
		{"permissions", "[authenticate.server]\nx509.certificate=./pki/host.pem\nx509.private_key=/pki/open.key\n[authenticate.client]\nx509.truststore=/pki/ca.pem\nx509.certificate=/pki/host.pem\nx509.private_key=/pki/root.key",
			"trust = \"/pki/ca.pem\"\ncertificate = \"/pki/host.pem\"\nprivate_key = \"/pki/root.key\"\n",
			"certificate = \"/pki/host.pem\"\nprivate_key = \"/pki/open.key\"\ntrust = \"system\"\n",
			[]string{"/pki/root.key has mode 0600: the daemons run as user rpctls", "is relative", "/pki/open.key has mode 0644: rpctls refuses", "any CA of the system can vouch for a client"}},
		{"quoting, blanks, the last of two", "[authenticate.client]\nx509.truststore=/pki/other\n  x509.truststore \t= /pki/a\\s\"b\" \\\\.pem  \r\n", `trust = "/pki/a \"b\" \\.pem"` + "\n", "", []string{"no rpctlssd.toml"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := tlshdconf.Parse([]byte(tt.text))
			if err != nil {
				t.Fatal(err)
			}
			r := tlshdconf.Convert(f, stat)
			if diff := cmp.Diff(tt.client, r.Client); diff != "" {
				t.Errorf("client (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.server, r.Server); diff != "" {
				t.Errorf("server (-want +got):\n%s", diff)
			}
			if len(r.Notes) != len(tt.notes) {
				t.Fatalf("notes %q, want %d", r.Notes, len(tt.notes))
			}
			for i, want := range tt.notes {
				if !strings.Contains(r.Notes[i], want) {
					t.Errorf("note %q, want %q", r.Notes[i], want)
				}
			}
			daemonsRead(t, r)
		})
	}
}

// daemonsRead lets the daemons themselves read the result.
func daemonsRead(t *testing.T, r tlshdconf.Result) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "rpctlscd.toml")
	if err := os.WriteFile(path, []byte(r.Client), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := rpctlscd.Load(path); err != nil {
		t.Error(err)
	}
	if r.Server == "" {
		return
	}
	path = filepath.Join(dir, "rpctlssd.toml")
	if err := os.WriteFile(path, []byte(r.Server), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := rpctlssd.Load(path); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"loglevel=1":                 "line 1: a setting before the first [group]",
		"\n[debug\n":                 "line 2: malformed [group]",
		"[]":                         "line 1: malformed [group]",
		"[debug]\nloglevel\n":        "line 2: neither [group]",
		"[debug]\n=1\n":              "line 2: neither [group]",
		"[a]\nb=\\x\n":               `line 2: unknown escape "\\x"`,
		"[a]\nb=c\\\n":               "line 2: a backslash at the end",
		"[a]\nb=\xff\n":              "not UTF-8",
		strings.Repeat("#", 1<<20+1): "more than",
	} {
		if f, err := tlshdconf.Parse([]byte(text)); err == nil || f != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
	}
}

func FuzzConvert(f *testing.F) {
	f.Add([]byte(shipped))
	f.Add([]byte("[authenticate.server]\nx509.certificate=/pki/host.pem\nx509.private_key=/pki/host.key\nx509.crl=\\s\\t\n[debug]\nloglevel=1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := tlshdconf.Parse(data)
		if (file == nil) != (err != nil) {
			t.Fatalf("value %v with error %v", file, err)
		}
		if err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("unfit error %q", err)
			}
			return
		}
		daemonsRead(t, tlshdconf.Convert(file, stat))
	})
}
