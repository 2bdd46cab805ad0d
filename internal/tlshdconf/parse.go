// SPDX-License-Identifier: BSD-3-Clause

package tlshdconf

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// maxSize bounds a file, in bytes.
const maxSize = 1 << 20

// A Setting is one line.
type Setting struct {
	Group, Key, Value string
	Line              int
}

// A File holds the settings in order. Of several for the same key the last one
// counts, as in GKeyFile.
type File struct{ Settings []Setting }

// Get returns the value of a key.
func (f *File) Get(group, key string) (value string, ok bool) {
	for _, s := range f.Settings {
		if s.Group == group && s.Key == key {
			value, ok = s.Value, true
		}
	}
	return value, ok
}

// Parse reads a file. Errors begin with the line.
func Parse(data []byte) (*File, error) {
	switch {
	case len(data) > maxSize:
		return nil, fmt.Errorf("more than %d bytes", maxSize)
	case !utf8.Valid(data):
		return nil, errors.New("not UTF-8")
	}
	f := new(File)
	group := ""
	n := 0
	for text := range strings.Lines(string(data)) {
		n++
		line := strings.TrimLeft(strings.TrimRight(text, "\r\n"), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		var err error
		if line[0] == '[' {
			group, err = parseGroup(line)
		} else {
			var s Setting
			s, err = parseSetting(line)
			if err == nil && group == "" {
				err = errors.New("a setting before the first [group]")
			}
			s.Group, s.Line = group, n
			f.Settings = append(f.Settings, s)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return f, nil
}

func parseGroup(line string) (string, error) {
	name, ok := strings.CutSuffix(strings.TrimRight(line[1:], " \t"), "]")
	if !ok || name == "" || strings.ContainsAny(name, "[]") || hasControl(name) {
		return "", errors.New("malformed [group]")
	}
	return name, nil
}

func hasControl(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0
}

func parseSetting(line string) (Setting, error) {
	key, value, ok := strings.Cut(line, "=")
	key = strings.TrimRight(key, " \t")
	if !ok || key == "" || hasControl(key) {
		return Setting{}, errors.New("neither [group], key = value nor # comment")
	}
	// GKeyFile keeps blanks at the end, and tlshd then looks for a file
	// that has them in its name. Nobody means that.
	value, err := unescape(strings.Trim(value, " \t"))
	return Setting{Key: key, Value: value}, err
}

// unescape undoes what g_key_file_get_string undoes.
func unescape(s string) (string, error) {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			out.WriteByte(s[i])
			continue
		}
		i++
		if i == len(s) {
			return "", errors.New("a backslash at the end of a value")
		}
		const escapes, meanings = `sntr\`, " \n\t\r\\"
		j := strings.IndexByte(escapes, s[i])
		if j < 0 {
			return "", fmt.Errorf("unknown escape %s", strconv.QuoteToASCII(s[i-1:i+1]))
		}
		out.WriteByte(meanings[j])
	}
	return out.String(), nil
}
