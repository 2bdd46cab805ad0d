// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"encoding"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// FuzzLoad loads any file with any drop-in beside it: all that are to be read
// are, in order, or the error says where.
func FuzzLoad(f *testing.F) {
	const main = "trust = \"system\"\n[[server]]\nmatch = [\"a\"]\n"
	f.Add(main, "10.toml", "trust = \"/ca\"\n")
	f.Add(main, ".10.toml", "nonsense")
	f.Add(main, "10.toml~", "nonsense")
	f.Add(main, ".toml", "")
	f.Add(main, "10.toml", "trusst = \"/ca\"\n")
	f.Add("", "10.TOML", "[[server]]\nmatch = []\n")
	dir := f.TempDir()
	path, dropIns := filepath.Join(dir, "a.toml"), filepath.Join(dir, "a.d")
	f.Fuzz(func(t *testing.T, main, name, text string) {
		if filepath.Base(name) != name || name == ".." {
			t.Skip("not the name of a file")
		}
		if err := os.RemoveAll(dropIns); err != nil {
			t.Fatal(err)
		}
		write(t, path, main)
		if err := os.Mkdir(dropIns, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dropIns, name), []byte(text), 0o600); err != nil {
			t.Skip("an impossible name")
		}
		want := []string{path}
		if filepath.Ext(name) == ".toml" && name[0] != '.' {
			want = append(want, filepath.Join(dropIns, name))
		}
		var got []string
		err := Load(path, func(name string, _ sample) error {
			got = append(got, name)
			return nil
		})
		if err != nil && !slices.ContainsFunc(want, func(path string) bool { return strings.HasPrefix(err.Error(), path+":") }) {
			t.Errorf("not located: %v", err)
		}
		if diff := cmp.Diff(want, got); (diff == "") != (err == nil) {
			t.Errorf("error %v, read (-want +got):\n%s", err, diff)
		}
	})
}

// FuzzValues: a value that is accepted is accepted as it is then written, as
// the same value.
func FuzzValues(f *testing.F) {
	for _, text := range []string{"/a/../b//c", "system", "1h0m0.5s", "1ns", "2562047h48m", "debug", "prefer", "warn", "\x00", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		again(t, text, func(v Path) string { return string(v) })
		again(t, text, func(v Trust) string { return string(v) })
		again(t, text, func(v Duration) string { return time.Duration(v).String() })
		again(t, text, func(v Level) string { return strings.ToLower(slog.Level(v).String()) })
		again(t, text, func(v ALPN) string { return string(v) })
		again(t, text, func(v Stale) string { return string(v) })
	})
}

func again[T comparable, P interface {
	*T
	encoding.TextUnmarshaler
}](t *testing.T, text string, written func(T) string) {
	t.Helper()
	var first, second T
	if err := P(&first).UnmarshalText([]byte(text)); err != nil {
		if strings.ContainsFunc(err.Error(), func(r rune) bool { return r < ' ' }) {
			t.Errorf("control characters in %q", err)
		}
		return
	}
	if err := P(&second).UnmarshalText([]byte(written(first))); err != nil || first != second {
		t.Errorf("%q is %s, which is %s, %v", text, fmt.Sprint(first), fmt.Sprint(second), err)
	}
}
