// SPDX-License-Identifier: BSD-3-Clause

package certcmd_test

import (
	"net/netip"
	"strings"
	"testing"

	"rpctls/certs/san"
	"rpctls/rpctlsctl/certcmd"
)

func TestFromHosts(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1 localhost\n127.0.1.1 nfs.example.com nfs\n": "nfs.example.com",
		"192.0.2.1\tnfs nfs.example.com # nfs.example.org\n":   "nfs.example.com",
		"192.0.2.1 other.example.com other\n":                  "",
		"192.0.2.1 nfs2.example.com\n":                         "",
		"# 192.0.2.1 nfs.example.com\n\n192.0.2.1\n":           "",
	} {
		if got := certcmd.FromHosts(strings.NewReader(text), "nfs"); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if got := certcmd.FromHosts(strings.NewReader("127.0.0.1 localhost.localdomain localhost"), "localhost"); got != "" {
		t.Errorf("localhost: %q", got)
	}
}

func TestPassingAddresses(t *testing.T) {
	// As Linux writes it: permanent, temporary, deprecated, link-local.
	const text = `20010db8000000000000000000000001 02 40 00 80     eth0
20010db800000000a1b2c3d4e5f60718 02 40 00 01     eth0
20010db8000000000000000000000002 02 40 00 20     eth0
fe80000000000000505400fffe123456 02 40 20 80     eth0
`
	got, err := certcmd.PassingAddresses(strings.NewReader(text))
	if err != nil || len(got) != 2 || !got[netip.MustParseAddr("2001:db8::a1b2:c3d4:e5f6:718")] || !got[netip.MustParseAddr("2001:db8::2")] {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"x", "20010db8000000000000000000000001 02 40 00 zz eth0\n", strings.Repeat("g", 32) + " 1 2 3 4 5\n"} {
		if _, err := certcmd.PassingAddresses(strings.NewReader(bad)); err == nil {
			t.Errorf("%q accepted", bad)
		}
	}
}

// Whatever this host is called, what Here returns can be certified.
func TestHere(t *testing.T) {
	names, err := certcmd.Here()
	if err != nil {
		t.Skip(err)
	}
	if _, err := san.Parse(names...); err != nil {
		t.Errorf("%q: %v", names, err)
	}
}
