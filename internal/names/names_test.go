// SPDX-License-Identifier: BSD-3-Clause

package names

import "testing"

func pattern(t *testing.T, s string) Pattern {
	t.Helper()
	var p Pattern
	if err := p.UnmarshalText([]byte(s)); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPatternRefuses(t *testing.T) {
	for _, s := range []string{"", ".", "a..b", "*.", "*a.b", "a.*.b", "192.0.2.1/24", "192.0.2.0/33", "::ffff:10.0.0.0/104", "fe80::1%eth0", "a b", "host:2049", "[::1]", "ä.example"} {
		var p Pattern
		if err := p.UnmarshalText([]byte(s)); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
}

func TestMatch(t *testing.T) {
	tests := []struct {
		pattern, host string
		want          bool
	}{
		{"nfs.example.com", "nfs.example.com", true},
		{"nfs.example.com", "NFS.Example.COM.", true},
		{"NFS.example.com.", "nfs.example.com", true},
		{"nfs.example.com", "nfs.example.com.evil", false},
		{"nfs.example.com", "xnfs.example.com", false},
		{"*.example.com", "a.example.com", true},
		{"*.example.com", "a.b.example.com", true},
		{"*.example.com", "example.com", false},
		{"*.example.com", "aexample.com", false},
		{"*.example.com", ".example.com", false},
		{"*", "anything", true},
		{"*", "192.0.2.1", true},
		{"192.0.2.7", "192.0.2.7", true},
		{"192.0.2.7", "::ffff:192.0.2.7", true},
		{"192.0.2.7", "192.0.2.8", false},
		{"192.0.2.0/24", "192.0.2.200", true},
		{"192.0.2.0/24", "192.0.3.1", false},
		{"192.0.2.0/24", "host192", false},
		{"2001:db8::/32", "[2001:db8:0:0:0:0:0:1]", true},
		{"2001:db8::1", "2001:0db8:0000:0000:0000:0000:0000:0001%eth0", true},
		{"2001:db8::/32", "2001:db9::1", false},
		{"2001:db8::/32", "192.0.2.1", false},
	}
	for _, tt := range tests {
		if got := pattern(t, tt.pattern).Match(tt.host); got != tt.want {
			t.Errorf("%q matches %q: %v, want %v", tt.pattern, tt.host, got, tt.want)
		}
	}
}

func TestAny(t *testing.T) {
	ps := []Pattern{pattern(t, "*"), pattern(t, "a")}
	if !Any(ps, "", "x") || Any(ps, "", "") || Any(nil, "x") {
		t.Error("Any")
	}
}

func TestAddr(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "[::1]": "::1", "::1": "::1", "fe80::1%2": "fe80::1", "[fe80::1%eth0]": "fe80::1",
		"::ffff:10.0.0.1": "10.0.0.1",
	} {
		if a, ok := Addr(in); !ok || a.String() != want {
			t.Errorf("%q: %v, %v", in, a, ok)
		}
	}
	for _, in := range []string{"", "[::1", "nfs", "[nfs]", "1.2.3"} {
		if a, ok := Addr(in); ok {
			t.Errorf("%q: %v", in, a)
		}
	}
}
