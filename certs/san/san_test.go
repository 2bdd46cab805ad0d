// SPDX-License-Identifier: BSD-3-Clause

package san_test

import (
	"crypto/x509/pkix"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs/san"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"nfs.example.com":           "dns:nfs.example.com",
		"NFS.Example.COM.":          "dns:nfs.example.com",
		"*.example.com":             "dns:*.example.com",
		"nfs":                       "dns:nfs",
		"nfs_1":                     "dns:nfs_1",
		"xn--bcher-kva.example":     "dns:xn--bcher-kva.example",
		"192.0.2.1":                 "ip:192.0.2.1",
		"2001:DB8:0::1":             "ip:2001:db8::1",
		"[2001:db8::1]":             "ip:2001:db8::1",
		"::ffff:192.0.2.1":          "ip:192.0.2.1",
		"dns:nfs":                   "dns:nfs",
		"ip:192.0.2.1":              "ip:192.0.2.1",
		"user:alice@Example.com":    "user:alice@example.com",
		"user:al.i-c_e@example.com": "user:al.i-c_e@example.com",
	} {
		n, err := san.Parse(in)
		if err != nil || !slices.Equal(n.Strings(), []string{want}) {
			t.Errorf("%q: %q, %v, want %q", in, n.Strings(), err, want)
		}
		for _, spelled := range []string{n.String(), want} {
			if again, err := san.Parse(spelled); err != nil || !again.Equal(n) {
				t.Errorf("%q, spelled %q: %q, %v", in, spelled, again, err)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                        "empty label",
		"a..b":                    "empty label",
		"nfs.example.com:2049":    "a port does not belong here",
		"nfs:/export":             "not an IP address",
		"-a.example":              "hyphen",
		"a b":                     "want letters",
		"a,b":                     "want letters",
		"bücher.example":          "xn--",
		"a.*.b":                   "want letters",
		"*":                       "want letters",
		"*.com":                   "top-level domain",
		"192.0.2":                 "not an IP address",
		"192.0.2.256":             "not an IP address",
		"0.0.0.0":                 "not the address of a host",
		"ff02::1":                 "not the address of a host",
		"fe80::1%eth0":            "zone",
		"dns:192.0.2.1":           "neither an address nor a host name",
		"alice@example.com":       "user:alice@example.com",
		"user:alice":              "not user@domain",
		"user:@example.com":       "not user@domain",
		"user:a b@example.com":    "not user@domain",
		"user:a@b@example.com":    "not user@domain",
		strings.Repeat("a", 64):   "63",
		strings.Repeat("a.", 130): "253",
	} {
		n, err := san.Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) || n.Len() != 0 {
			t.Errorf("%q: %q, %v, want %q", in, n, err, want)
		}
	}
	many := make([]string, 0, 101)
	for i := range 101 {
		many = append(many, "h"+strings.Repeat("x", i%60)+strings.Repeat("y", i/60))
	}
	if _, err := san.Parse(many...); err == nil {
		t.Error("101 names accepted")
	}
}

func TestExtension(t *testing.T) {
	names := must(t)(san.Parse("nfs.example.com", "192.0.2.1", "2001:db8::1", "user:alice@example.com", "nfs.example.com"))
	ext, err := names.Extension(true)
	if err != nil {
		t.Fatal(err)
	}
	// Encoded by openssl 3 from DNS:nfs.example.com, IP:192.0.2.1,
	// IP:2001:db8::1, otherName:1.3.6.1.4.1.2238.1.1.1;UTF8:alice@example.com.
	want := "304c" + "820f6e66732e6578616d706c652e636f6d" + "8704c0000201" + "871020010db8000000000000000000000001" +
		"a021060a2b06010401913e010101" + "a0130c11616c696365406578616d706c652e636f6d"
	if diff := cmp.Diff(want, hex.EncodeToString(ext.Value)); diff != "" {
		t.Errorf("DER (-want +got):\n%s", diff)
	}
	got, err := san.FromExtensions([]pkix.Extension{ext})
	if err != nil || !got.Equal(names) || got.Len() != 4 {
		t.Errorf("decoded: %v, %v", got, err)
	}
	if diff := cmp.Diff([]string{"nfs.example.com", "192.0.2.1", "2001:db8::1"}, got.Hosts()); diff != "" {
		t.Errorf("hosts (-want +got):\n%s", diff)
	}
	if _, err := (san.Names{}).Extension(false); err == nil {
		t.Error("an empty extension was made")
	}
}

func FuzzExtension(f *testing.F) {
	ext, err := must(f)(san.Parse("nfs.example.com", "192.0.2.1", "user:alice@example.com")).Extension(false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ext.Value)
	f.Fuzz(func(t *testing.T, der []byte) {
		names, err := san.FromExtensions([]pkix.Extension{{Id: ext.Id, Value: der}})
		if err != nil {
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("unfit error: %q", err)
			}
			return
		}
		again, err := san.Parse(names.Strings()...)
		if err != nil || !again.Equal(names) {
			t.Errorf("%q does not parse: %v", names, err)
		}
		if strings.ContainsAny(strings.Join(names.Strings(), ""), " ,\t\n") {
			t.Errorf("%q would not fit a column", names)
		}
	})
}

func must(tb testing.TB) func(san.Names, error) san.Names {
	return func(n san.Names, err error) san.Names {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return n
	}
}
