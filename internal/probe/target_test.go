// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package probe

import "testing"

func TestParseTarget(t *testing.T) {
	for s, want := range map[string]Target{
		"nfs.example.com":            {"nfs.example.com", 0, ""},
		"nfs.example.com:20049":      {"nfs.example.com", 20049, ""},
		"nfs.example.com/srv/a":      {"nfs.example.com", 0, "/srv/a"},
		"nfs.example.com:/srv/a":     {"nfs.example.com", 0, "/srv/a"},
		"nfs.example.com:2050/srv:a": {"nfs.example.com", 2050, "/srv:a"},
		"192.0.2.1:/":                {"192.0.2.1", 0, "/"},
		"2001:db8::1":                {"2001:db8::1", 0, ""},
		"2001:db8::1/srv":            {"2001:db8::1", 0, "/srv"},
		"[2001:db8::1]":              {"2001:db8::1", 0, ""},
		"[2001:db8::1]:/srv":         {"2001:db8::1", 0, "/srv"},
		"[2001:db8::1]:2050/srv":     {"2001:db8::1", 2050, "/srv"},
		"[2001:db8::1]/srv":          {"2001:db8::1", 0, "/srv"},
		"":                           {}, ":": {}, "/srv": {}, "a:": {}, "a:0": {}, "a:65536": {}, "a:x/y": {}, "[a": {}, "[a]x": {}, "a b": {}, ":/x": {},
	} {
		got, err := ParseTarget(s)
		if got != want || (err != nil) != (want == Target{}) {
			t.Errorf("%q: %+v, %v", s, got, err)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	f.Add("a:1/b")
	f.Add("[::1]:/")
	f.Add("::1:/")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTarget(s)
		if err == nil && (got.Host == "" || got.Export != "" && got.Export[0] != '/') {
			t.Errorf("%q: %+v", s, got)
		}
	})
}
