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
	"rpctls/internal/pin"
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
		{"an identity without a name", trust + "[[identity]]\ncertificate = \"/c\"\nprivate_key = \"/k\"\n", "identity 1: name is missing"},
		{"an identity without a key", trust + "[[identity]]\nname = \"a\"\ncertificate = \"/c\"\n", "identity 1: private_key is missing"},
		{"an identity that leads elsewhere", trust + "[[identity]]\nname = \"../a\"\ncertificate = \"/c\"\nprivate_key = \"/k\"\n", "cannot be the name"},
		{"two identities of a name", trust + strings.Repeat("[[identity]]\nname = \"a\"\ncertificate = \"/c\"\nprivate_key = \"/k\"\n", 2), `identity 2: there are two called "a"`},
		{"no namespace", trust + "namespaces = []\n", `"host" is missing`},
		{"namespaces but not the host's", trust + "namespaces = [\"/run/netns/*\"]\n", `"host" is missing`},
		{"a namespace by a name without a path", trust + "namespaces = [\"host\", \"blue\"]\n", `"blue" is neither an absolute path nor "host"`},
		{"a pattern for a directory", trust + "namespaces = [\"host\", \"/run/*/net\"]\n", "only the last part"},
		{"a namespace block for nobody", trust + "namespaces = [\"host\"]\n[[namespace]]\ncrl = []\n", "namespace 1: match is missing"},
		{"a namespace block for the host", trust + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"host\"]\ncrl = []\n", `namespace 1: match: "host" is what`},
		{"a namespace block that says nothing", trust + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/run/netns/a\"]\n", "namespace 1: it sets nothing"},
		{"a namespace block with half an identity", trust + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/a\"]\ncertificate = \"/c\"\n", "namespace 1: certificate is set"},
		{"a namespace block and no namespaces", trust + "[[namespace]]\nmatch = [\"/run/netns/a\"]\ntrust = \"system\"\n", "namespaces is not set"},
		{"an unknown key of a namespace block", trust + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/a\"]\nalpn = \"prefer\"\n", `unknown key "namespace.alpn"`},
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
	want := Config{Settings: config.Defaults(), Reconnect: ReconnectFail, IdentityDirectory: "/ids"}
	want.Trust, want.CRL, want.CRLStale = "/ca", []config.Path{"/crl"}, config.StaleWarn
	var p names.Pattern
	if err := p.UnmarshalText([]byte("*.test")); err != nil {
		t.Fatal(err)
	}
	want.Servers = []ServerConfig{{Match: []names.Pattern{p}, Trust: "system", Pin: []pin.Pin{{31: 0xff}}}}
	want.Identities = []IdentityConfig{{"lab", "/lab.pem", "/lab.key"}}
	got, err := load(t, "identity_directory = \"/ids\"\ntrust = \"/ca\"\ncrl = [\"/crl\"]\ncrl_stale = \"warn\"\nreconnect = \"fail\"\n"+
		"[[server]]\nmatch = [\"*.test\"]\ntrust = \"system\"\npin = [\"sha256:"+strings.Repeat("00", 31)+"ff\"]\n"+
		"[[identity]]\nname = \"lab\"\ncertificate = \"/lab.pem\"\nprivate_key = \"/lab.key\"\n")
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
