// SPDX-License-Identifier: BSD-3-Clause

package netns

import (
	"fmt"
	"path"
	"strings"
	"unicode"
)

// Host is the pattern of the namespace that the daemon itself runs in.
const Host = "host"

// maxPattern bounds a pattern, in bytes (PATH_MAX).
const maxPattern = 4095

// meta are what makes the last part of a path a pattern of path.Match.
const meta = `*?[\`

// A Pattern is "host", or the absolute path of a namespace's name, the last part
// of which may be a pattern of [path.Match]. The zero Pattern matches nothing.
type Pattern struct{ text string }

// ParsePattern reads a pattern.
func ParsePattern(s string) (Pattern, error) {
	if s == Host {
		return Pattern{s}, nil
	}
	switch dir, last := path.Split(s); {
	case !path.IsAbs(s):
		return Pattern{}, fmt.Errorf(`%q is neither an absolute path nor "host"`, s)
	case len(s) > maxPattern:
		return Pattern{}, fmt.Errorf("a path of %d bytes", len(s))
	case path.Clean(s) != s || last == "":
		return Pattern{}, fmt.Errorf("%q is not the path of a file in its shortest form", s)
	case strings.ContainsFunc(s, unicode.IsControl):
		return Pattern{}, fmt.Errorf("%q has control characters", s)
	case strings.ContainsAny(dir, meta):
		return Pattern{}, fmt.Errorf("%q: only the last part of the path may be a pattern", s)
	}
	if _, err := path.Match(s, ""); err != nil {
		return Pattern{}, fmt.Errorf("%q: %w", s, err)
	}
	return Pattern{s}, nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (p *Pattern) UnmarshalText(b []byte) (err error) {
	*p, err = ParsePattern(string(b))
	return err
}

func (p Pattern) String() string { return p.text }

// IsHost reports whether it is "host".
func (p Pattern) IsHost() bool { return p.text == Host }

// Match reports whether a path is meant. As in a shell, names that begin with a
// dot are not meant by a pattern that does not.
func (p Pattern) Match(name string) bool {
	if p.text == "" || p.IsHost() {
		return false
	}
	if _, last := path.Split(name); strings.HasPrefix(last, ".") && !strings.HasPrefix(path.Base(p.text), ".") {
		return false
	}
	ok, err := path.Match(p.text, name)
	return err == nil && ok
}

// literal reports whether it stands for one path.
func (p Pattern) literal() bool { return !strings.ContainsAny(p.text, meta) }

// MatchAny reports whether any of the patterns means any of the paths.
func MatchAny(patterns []Pattern, paths []string) bool {
	for _, p := range patterns {
		for _, name := range paths {
			if p.Match(name) {
				return true
			}
		}
	}
	return false
}

// Join is a list of patterns for a person.
func Join(patterns []Pattern) string {
	var list []string
	for _, p := range patterns {
		list = append(list, p.text)
	}
	return strings.Join(list, ", ")
}
