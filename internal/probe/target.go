// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package probe

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Target is what a user names.
type Target struct {
	Host   string
	Port   uint16 // 0: none was named
	Export string // "" or absolute
}

// ParseTarget reads HOST[:PORT][/EXPORT], and HOST:/EXPORT as mount(8) has it. An
// IPv6 address is in brackets if something follows it.
func ParseTarget(s string) (t Target, err error) {
	rest := ""
	switch {
	case strings.HasPrefix(s, "["):
		var ok bool
		if t.Host, rest, ok = strings.Cut(s[1:], "]"); !ok {
			return Target{}, fmt.Errorf("%q: there is no closing bracket", s)
		}
	case strings.Count(strings.SplitN(s, "/", 2)[0], ":") > 1:
		// An address without brackets: only a path can follow.
		t.Host, rest, _ = strings.Cut(s, "/")
		if len(t.Host) < len(s) {
			rest = "/" + rest
		}
	default:
		i := strings.IndexAny(s, ":/")
		if i < 0 {
			i = len(s)
		}
		t.Host, rest = s[:i], s[i:]
	}
	if after, ok := strings.CutPrefix(rest, ":"); ok {
		digits, path, slash := strings.Cut(after, "/")
		rest = ""
		if slash {
			rest = "/" + path
		}
		switch n, err := strconv.ParseUint(digits, 10, 16); {
		case digits == "" && slash:
		case err != nil || n == 0:
			return Target{}, fmt.Errorf("%q: %q is no port", s, digits)
		default:
			t.Port = uint16(n)
		}
	}
	switch t.Export = rest; {
	case t.Host == "" || len(t.Host) > 255 || strings.ContainsAny(t.Host, " \t\r\n[]"):
		return Target{}, fmt.Errorf("%q: there is no name of a server", s)
	case t.Export != "" && t.Export[0] != '/':
		return Target{}, fmt.Errorf("%q: what follows the server is neither a port nor a path", s)
	case len(t.Export) > maxPath:
		return Target{}, errors.New("the path is too long")
	}
	return t, nil
}

// maxPath bounds a path in bytes.
const maxPath = 4096
