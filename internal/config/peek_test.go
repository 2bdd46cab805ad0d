// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"os"
	"path/filepath"
	"testing"
)

func TestRuntimeDirectory(t *testing.T) {
	const usual = "/run/rpctls"
	for _, tt := range []struct {
		name, main, dropIn, want string
		bad                      bool
	}{
		{"not said", "trust = \"/ca\"\nunknown = 1\n", "", usual, false},
		{"said", "runtime_directory = \"/a/../b\"\n", "", "/b", false},
		{"said later", "runtime_directory = \"/a\"\n", "runtime_directory = \"/c\"\n", "/c", false},
		{"no TOML", "runtime_directory = \"/a\"\n[", "", usual, true},
		{"no path", "runtime_directory = \"a\"\n", "", usual, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x.toml")
			if err := os.WriteFile(path, []byte(tt.main), 0o600); err != nil {
				t.Fatal(err)
			}
			if tt.dropIn != "" {
				if err := os.Mkdir(filepath.Join(dir, "x.d"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "x.d", "a.toml"), []byte(tt.dropIn), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := RuntimeDirectory(path); got != tt.want || (err != nil) != tt.bad {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
	if got, err := RuntimeDirectory("/nowhere/x.toml"); got != usual || err == nil {
		t.Errorf("%s, %v", got, err)
	}
}
