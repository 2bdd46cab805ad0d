// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type sample struct {
	Common
	Timeout *DurationValue `toml:"timeout"`
	Server  []sampleBlock  `toml:"server"`
}

type sampleBlock struct {
	Match []string `toml:"match"`
}

func TestParseRefusesAndLocates(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"unknown key", "trust = \"/ca\"\ncertificat = \"/c\"\n", `f.toml:2:1: unknown key "certificat"`},
		{"unknown key in a block", "[[server]]\nmatch = [\"a\"]\nport = 1\n", `f.toml:3:1: unknown key "server.port"`},
		{"syntax", "trust = \n", "f.toml:1:"},
		{"wrong type", "log_level = 3\n", `"3" is none of`},
		{"relative path", "\ncertificate = \"server.pem\"\n", `f.toml:2:15: certificate: "server.pem" is not an absolute path`},
		{"trust that is neither", "trust = \"sytem\"\n", `f.toml:1:9: trust: "sytem" is neither an absolute path nor "system"`},
		{"level", "log_level = \"verbose\"\n", `f.toml:1:13: log_level: "verbose" is none of debug, info, warn, error`},
		{"alpn", "alpn = \"on\"\n", `"on" is none of prefer, require`},
		{"crl_stale", "crl_stale = \"ignore\"\n", `"ignore" is none of refuse, warn`},
		{"duration without a unit", "timeout = \"1\"\n", `"1" is not a duration`},
		{"negative duration", "timeout = \"-1s\"\n", `"-1s" is not a duration`},
		{"key twice", "trust = \"/a\"\ntrust = \"/b\"\n", "f.toml:"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := Parse("f.toml", []byte(tt.text), new(sample))
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "f.toml:") {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func load(path string) (Settings, []string, error) {
	s := Defaults()
	var blocks []string
	err := Load(path, func(_ string, f sample) error {
		s.Merge(f.Common)
		for _, b := range f.Server {
			blocks = append(blocks, b.Match...)
		}
		return nil
	})
	return s, blocks, err
}

// Later drop-ins win for single values, and blocks add up.
func TestDropIns(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.toml")
	write(t, path, "trust = \"/a\"\nalpn = \"require\"\n[[server]]\nmatch = [\"one\"]\n")
	write(t, filepath.Join(path[:len(path)-5]+".d", "20.toml"), "trust = \"/c\"\n[[server]]\nmatch = [\"three\"]\n")
	write(t, filepath.Join(path[:len(path)-5]+".d", "10.toml"), "trust = \"system\"\n[[server]]\nmatch = [\"two\"]\n")
	write(t, filepath.Join(path[:len(path)-5]+".d", "30.toml.bak"), "nonsense")
	write(t, filepath.Join(path[:len(path)-5]+".d", ".40.toml"), "nonsense")
	s, blocks, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Defaults()
	want.Trust, want.ALPN = "/c", ALPNRequire
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"one", "two", "three"}, blocks); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestLoadFailsClosed(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := load(filepath.Join(dir, "none.toml")); err == nil || !strings.Contains(err.Error(), "none.toml") {
		t.Errorf("missing file: %v", err)
	}
	big := filepath.Join(dir, "big.toml")
	write(t, big, strings.Repeat("#", maxFile+1))
	if _, _, err := load(big); err == nil {
		t.Error("a huge file was read")
	}
	path := filepath.Join(dir, "a.toml")
	write(t, path, "trust = \"/a\"\n")
	write(t, filepath.Join(dir, "a.d", "x.toml"), "truts = \"/a\"\n")
	if _, _, err := load(path); err == nil || !strings.Contains(err.Error(), "x.toml:1:1") {
		t.Errorf("bad drop-in: %v", err)
	}
}

func TestDuration(t *testing.T) {
	var s sample
	if err := Parse("f", []byte("timeout = \"250ms\""), &s); err != nil || time.Duration(s.Timeout.V) != 250*time.Millisecond {
		t.Errorf("%v, %v", s.Timeout, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("trust = \"system\"\n[[server]]\nmatch = [\"*\"]\n"))
	f.Add([]byte("a.b.c = {x = [1, '''\n'''], y = 1979-05-27}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := Parse("f", b, new(sample)); err != nil && !strings.HasPrefix(err.Error(), "f") {
			t.Errorf("not located: %v", err)
		}
	})
}
