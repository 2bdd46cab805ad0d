// SPDX-License-Identifier: BSD-3-Clause

package rpctlssd

import (
	"encoding"
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
	"rpctls/internal/policy"
)

// options let go-cmp look into what configurations are made of.
var options = []cmp.Option{
	cmp.AllowUnexported(names.Pattern{}, policy.Rule{}, policy.DNS{}, policy.Prefix{}, policy.URI{}, policy.Email{}, policy.DN{}, policy.EKU{}),
	cmp.Comparer(func(a, b policy.DN) bool { return reflect.DeepEqual(a, b) }),
	configtest.Comparer,
}

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rpctlssd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(path)
}

const trusted = "trust = \"system\"\n"

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
		{"no namespace", identity + "namespaces = []\n", `"host" is missing`},
		{"namespaces but not the host's", identity + "namespaces = [\"/run/netns/*\"]\n", `"host" is missing`},
		{"a namespace by a name without a path", identity + "namespaces = [\"host\", \"blue\"]\n", `"blue" is neither an absolute path nor "host"`},
		{"a pattern for a directory", identity + "namespaces = [\"host\", \"/run/*/net\"]\n", "only the last part"},
		{"a namespace block for nobody", identity + "namespaces = [\"host\"]\n[[namespace]]\ncertificate = \"/a\"\nprivate_key = \"/b\"\n", "namespace 1: match is missing"},
		{"a namespace block for the host", identity + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"host\"]\ncertificate = \"/a\"\nprivate_key = \"/b\"\n", `namespace 1: match: "host" is what`},
		{"a namespace block that says nothing", identity + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/run/netns/a\"]\n", "namespace 1: it sets nothing"},
		{"a namespace block with half an identity", identity + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/a\"]\ncertificate = \"/c\"\n", "namespace 1: certificate is set"},
		{"a namespace block and no namespaces", identity + "[[namespace]]\nmatch = [\"/run/netns/a\"]\ncertificate = \"/a\"\nprivate_key = \"/b\"\n", "namespaces is not set"},
		{"an unknown key of a namespace block", identity + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/a\"]\nalpn = \"prefer\"\n", `unknown key "namespace.alpn"`},
		{"trust of a namespace that is never used", identity + "namespaces = [\"host\"]\n[[namespace]]\nmatch = [\"/a\"]\ntrust = \"system\"\n", "namespace 1: trust is set but client_certificate"},
		{"a key of the client's", identity + "reconnect = \"retry\"\n", `unknown key "reconnect"`},
		{"a rule for nobody", identity + trusted + "[[allow]]\n", "allow rule (rpctlssd.toml:4): it says nothing"},
		{"a rule about certificates that nobody is asked for", identity + "[[deny]]\ndns = [\"a\"]\n", "deny rule (rpctlssd.toml:3): it is about certificates"},
		{"addresses of certificates that nobody is asked for", identity + "require_address_match = true\n", "require_address_match is set, and"},
		{"names that are not looked up", identity + trusted + "address_names = [\"a.test\"]\n", "address_names is set but"},
		{"names that are none", identity + trusted + "require_address_match = true\naddress_names = [\"*.test\"]\n", "is not the name of one host"},
		{"addresses for names", identity + trusted + "require_address_match = true\naddress_names = [\"::1\"]\n", "is not the name of one host"},
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
		{"the least", identity, Config{Settings: settings, ClientCertificate: CertificateNone, FirstRecordTimeout: defaultFirstRecord}},
		{"trust asks for certificates", identity + "trust = \"system\"\n", Config{Settings: trusting, ClientCertificate: CertificateRequest, FirstRecordTimeout: defaultFirstRecord}},
		{
			"everything else", identity + "trust = \"system\"\nclient_certificate = \"require\"\nfirst_record_timeout = \"80ms\"\n" +
				"[[identity]]\nmatch = [\"a.test\"]\ncertificate = \"/a.pem\"\nprivate_key = \"/a.key\"\n",
			Config{
				Settings: trusting, ClientCertificate: CertificateRequire, FirstRecordTimeout: 80 * time.Millisecond,
				Identities: []IdentityConfig{{[]names.Pattern{a}, "/a.pem", "/a.key"}},
			},
		},
	}
	ruled := policied(t, trusting)
	tests = append(tests, struct {
		name, text string
		want       Config
	}{
		"a policy, in order", identity + trusted + "require_address_match = true\naddress_names = [\"B.test.\"]\n" +
			"[[allow]]\nname = \"one\"\ndns = [\"a.test\"]\n[[deny]]\nsource = [\"192.0.2.0/24\"]\n[[allow]]\nip = [\"::1\"]\n", ruled,
	})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := load(t, tt.text)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, options...); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// policied is a configuration with a policy.
func policied(t *testing.T, settings config.Settings) Config {
	t.Helper()
	c := Config{Settings: settings, ClientCertificate: CertificateRequest, FirstRecordTimeout: defaultFirstRecord, RequireAddressMatch: true, AddressNames: []string{"b.test"}}
	c.Rules = make([]policy.Rule, 3)
	c.Rules[0].Action, c.Rules[0].Name, c.Rules[0].Place = policy.Allow, "one", "rpctlssd.toml:6"
	c.Rules[0].DNS = make([]policy.DNS, 1)
	c.Rules[1].Action, c.Rules[1].Place = policy.Deny, "rpctlssd.toml:9"
	c.Rules[1].Source = make([]policy.Prefix, 1)
	c.Rules[2].Action, c.Rules[2].Place = policy.Allow, "rpctlssd.toml:11"
	c.Rules[2].IP = make([]policy.Prefix, 1)
	for text, into := range map[string]encoding.TextUnmarshaler{
		"a.test": &c.Rules[0].DNS[0], "192.0.2.0/24": &c.Rules[1].Source[0], "::1": &c.Rules[2].IP[0],
	} {
		if err := into.UnmarshalText([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Rules of drop-ins come behind, in the order of the drop-ins' names.
func TestRulesOfDropIns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rpctlssd.toml")
	if err := os.Mkdir(strings.TrimSuffix(path, "toml")+"d", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		path: identity + trusted + "[[deny]]\nname = \"1\"\ndns = [\"a\"]\n[[allow]]\nname = \"2\"\ndns = [\"a\"]\n",
		filepath.Join(strings.TrimSuffix(path, "toml")+"d", "20.toml"): "[[deny]]\nname = \"5\"\ndns = [\"a\"]\n",
		filepath.Join(strings.TrimSuffix(path, "toml")+"d", "10.toml"): "[[allow]]\nname = \"3\"\ndns = [\"a\"]\n[[deny]]\nname = \"4\"\ndns = [\"a\"]\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	var order, places []string
	for _, r := range c.Rules {
		order, places = append(order, r.Name), append(places, r.Place)
	}
	if got := strings.Join(order, ""); got != "12345" {
		t.Errorf("order %s", got)
	}
	if got, want := strings.Join(places, " "), "rpctlssd.toml:4 rpctlssd.toml:7 10.toml:1 10.toml:4 20.toml:1"; got != want {
		t.Errorf("places %s, want %s", got, want)
	}
}

// The reference file shows every key there is, and no other.
func TestReferenceFile(t *testing.T) {
	configtest.Reference(t, "../packaging/config/rpctlssd.toml", reflect.TypeFor[file]())
}
