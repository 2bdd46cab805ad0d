// SPDX-License-Identifier: BSD-3-Clause

package rpctlssd

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/config"
	"rpctls/internal/config/configtest"
	"rpctls/internal/names"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpctlssd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

const identity = "certificate = \"/s.pem\"\nprivate_key = \"/s.key\"\n"

func TestLoadRefuses(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"nothing", "", "certificate is missing"},
		{"a certificate without its key", "certificate = \"/s.pem\"\n", "private_key is not"},
		{"a key without its certificate", "private_key = \"/s.key\"\n", "certificate is not"},
		{"asking without trust", identity + "client_certificate = \"request\"\n", "needs trust"},
		{"requiring without trust", identity + "client_certificate = \"require\"\n", "needs trust"},
		{"trust that is never used", identity + "trust = \"/ca\"\nclient_certificate = \"none\"\n", "never uses it"},
		{"revocation without trust", identity + "crl = [\"/crl\"]\n", "crl is set but trust is not"},
		{"an unknown policy", identity + "client_certificate = \"maybe\"\n", `"maybe" is none of`},
		{"an identity for nobody", identity + "[[identity]]\ncertificate = \"/a\"\nprivate_key = \"/b\"\n", "identity 1: match is missing"},
		{"an identity without a certificate", identity + "[[identity]]\nmatch = [\"a\"]\n", "identity 1: certificate is missing"},
		{"an identity without a key", identity + "[[identity]]\nmatch = [\"a\"]\ncertificate = \"/a\"\n", "identity 1: certificate is set"},
		{"a key of the client's", identity + "reconnect = \"retry\"\n", `unknown key "reconnect"`},
		{"a time without a unit", identity + "first_record_timeout = \"1\"\n", "is not a duration"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "rpctlssd.toml") {
				t.Errorf("got %v, want %q and the file", err, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	settings := config.Defaults()
	settings.Certificate, settings.PrivateKey = "/s.pem", "/s.key"
	trusting := settings
	trusting.Trust = "system"
	var a names.Pattern
	if err := a.UnmarshalText([]byte("a.test")); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, text string
		want       Config
	}{
		{"the least", identity, Config{Settings: settings, ClientCertificate: CertificateNone, FirstRecordTimeout: time.Second}},
		{"trust asks for certificates", identity + "trust = \"system\"\n", Config{Settings: trusting, ClientCertificate: CertificateRequest, FirstRecordTimeout: time.Second}},
		{
			"everything else", identity + "trust = \"system\"\nclient_certificate = \"require\"\nfirst_record_timeout = \"80ms\"\n" +
				"[[identity]]\nmatch = [\"a.test\"]\ncertificate = \"/a.pem\"\nprivate_key = \"/a.key\"\n",
			Config{
				Settings: trusting, ClientCertificate: CertificateRequire, FirstRecordTimeout: 80 * time.Millisecond,
				Identities: []IdentityConfig{{[]names.Pattern{a}, "/a.pem", "/a.key"}},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(names.Pattern{}), configtest.Comparer); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// The reference file shows every key there is, and no other.
func TestReferenceFile(t *testing.T) {
	configtest.Reference(t, "../packaging/config/rpctlssd.toml", reflect.TypeFor[file]())
}
