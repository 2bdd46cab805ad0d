// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rpctls/internal/config"
	"rpctls/internal/netns"
)

// A check says what the unit lacks, in one line, unless there is a drop-in that
// gives it, or nothing is needed.
func TestCheckNamespaces(t *testing.T) {
	if netns.CanEnter() == nil {
		// As root it has all that it needs, and there is nothing to say.
		old := canEnter
		canEnter = func() error { return netns.ErrNoRight }
		defer func() { canEnter = old }()
	}
	dir := t.TempDir()
	defer func(old []string) { unitDirectories = old }(unitDirectories)
	unitDirectories = []string{dir}
	p := Program[config.Settings, int]{Name: "rpctlssd", Settings: func(s config.Settings) config.Settings { return s }}
	parse := func(texts ...string) (s config.Settings) {
		for _, text := range texts {
			pattern, err := netns.ParsePattern(text)
			if err != nil {
				t.Fatal(err)
			}
			s.Namespaces = append(s.Namespaces, pattern)
		}
		return s
	}
	if w := p.checkNamespaces(config.Settings{}); len(w) != 0 {
		t.Errorf("without namespaces: %q", w)
	}
	if w := p.checkNamespaces(parse("host")); len(w) != 0 {
		t.Errorf("with the host's: %q", w)
	}
	all := parse("host", "/run/netns/*")
	w := p.checkNamespaces(all)
	if len(w) != 1 || !strings.Contains(w[0], "CAP_SYS_ADMIN") || !strings.Contains(w[0], "namespaces.conf") || strings.Contains(w[0], "\n") {
		t.Errorf("with others: %q", w)
	}
	drop := filepath.Join(dir, "rpctlssd.service.d")
	if err := os.Mkdir(drop, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(drop, "other.conf"), []byte("[Service]\nNice=0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if w := p.checkNamespaces(all); len(w) != 1 {
		t.Errorf("with another drop-in: %q", w)
	}
	text, err := os.ReadFile("../../packaging/systemd/namespaces.conf")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(drop, "namespaces.conf"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if w := p.checkNamespaces(all); len(w) != 0 {
		t.Errorf("with the drop-in: %q", w)
	}
}
