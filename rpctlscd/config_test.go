// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/config"
	"rpctls/internal/config/configtest"
	"rpctls/internal/names"
)

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpctlscd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

func TestLoadRefuses(t *testing.T) {
	const trust = "trust = \"/ca.pem\"\n"
	tests := []struct{ name, text, want string }{
		{"nothing", "", "trust is missing"},
		{"a certificate without its key", trust + "certificate = \"/c.pem\"\n", "private_key is not"},
		{"an unknown policy", trust + "reconnect = \"maybe\"\n", `"maybe" is none of retry, fail`},
		{"a block for nobody", trust + "[[server]]\ntrust = \"system\"\n", "server 1: match is missing"},
		{"a block with half an identity", trust + "[[server]]\nmatch = [\"*\"]\ncertificate = \"/c\"\n", "server 1: certificate is set"},
		{"an empty pin", trust + "[[server]]\nmatch = [\"*\"]\npin = []\n", "server 1: pin is empty"},
		{"a pin that is none", trust + "[[server]]\nmatch = [\"*\"]\npin = [\"sha256:00\"]\n", `"sha256:00" is not`},
		{"a pattern that is none", trust + "[[server]]\nmatch = [\"a b\"]\n", `"a b" is neither`},
		{"a key of the server's", trust + "client_certificate = \"none\"\n", `unknown key "client_certificate"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := load(t, tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "rpctlscd.toml") {
				t.Errorf("got %v, want %q and the file", err, tt.want)
			}
		})
	}
}

func TestLoad(t *testing.T) {
	want := Config{Settings: config.Defaults(), Reconnect: ReconnectFail}
	want.Trust, want.CRL, want.CRLStale = "/ca", []config.Path{"/crl"}, config.StaleWarn
	var p names.Pattern
	if err := p.UnmarshalText([]byte("*.test")); err != nil {
		t.Fatal(err)
	}
	want.Servers = []ServerConfig{{Match: []names.Pattern{p}, Trust: "system", Pin: []Pin{{31: 0xff}}}}
	got, err := load(t, "trust = \"/ca\"\ncrl = [\"/crl\"]\ncrl_stale = \"warn\"\nreconnect = \"fail\"\n"+
		"[[server]]\nmatch = [\"*.test\"]\ntrust = \"system\"\npin = [\"sha256:"+strings.Repeat("00", 31)+"ff\"]\n")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(names.Pattern{}), configtest.Comparer); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The reference file shows every key there is, and no other.
func TestReferenceFile(t *testing.T) {
	configtest.Reference(t, "../packaging/config/rpctlscd.toml", reflect.TypeFor[file]())
}
