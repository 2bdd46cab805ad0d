// SPDX-License-Identifier: BSD-3-Clause

package netns

import (
	"path"
	"strings"
	"testing"
)

func TestParsePattern(t *testing.T) {
	for _, good := range []string{"host", "/run/netns/blue", "/run/netns/*", "/run/netns/[a-c]?", "/x", "/run/netns/.hidden"} {
		if p, err := ParsePattern(good); err != nil || p.String() != good {
			t.Errorf("%q: %v, %v", good, p, err)
		}
	}
	for _, bad := range []string{
		"", "Host", "blue", "run/netns/*", "/", "/run//netns/x", "/run/netns/", "/run/netns/../x", "/run/*/x", "/run/[/x", "/run/netns/[",
		"/run/netns/a\nb", "/" + strings.Repeat("x", maxPattern),
	} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("%q is taken: %v", bad, p)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/run/netns/*", "/run/netns/blue", true},
		{"/run/netns/*", "/run/netns/.blue", false},
		{"/run/netns/*", "/run/netns/blue/x", false},
		{"/run/netns/*", "/run/other/blue", false},
		{"/run/netns/.*", "/run/netns/.blue", true},
		{"/run/netns/blue", "/run/netns/blue", true},
		{"/run/netns/blue", "/run/netns/blues", false},
		{"host", "host", false},
	} {
		p, err := ParsePattern(tt.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Match(tt.path); got != tt.want {
			t.Errorf("%s matches %s: %t", tt.pattern, tt.path, got)
		}
	}
	if (Pattern{}).Match("") || MatchAny(nil, []string{"/x"}) {
		t.Error("nothing matches something")
	}
}

// FuzzPattern: what is taken is the same when it is read again, has one form, and
// means paths of one directory only.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"host", "/run/netns/*", "/run/netns/b[lm]ue", `/run/netns/\*`, "/run/../x", "/a\x00b", "/[", "/*/x"} {
		f.Add(s, "/run/netns/blue")
	}
	f.Fuzz(func(t *testing.T, s, name string) {
		p, err := ParsePattern(s)
		if err != nil {
			if p != (Pattern{}) {
				t.Errorf("an error with %v", p)
			}
			return
		}
		var q Pattern
		if err := q.UnmarshalText([]byte(p.String())); err != nil || q != p {
			t.Errorf("%q read again is %v, %v", s, q, err)
		}
		if p.Match(name) && path.Dir(name) != path.Dir(s) {
			t.Errorf("%q matches %q in another directory", s, name)
		}
		if p.IsHost() && p.Match(name) {
			t.Errorf("the host's is %q", name)
		}
	})
}
