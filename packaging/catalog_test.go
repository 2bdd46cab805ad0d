// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"rpctls/internal/logging"
)

// parseCatalog reads a file for /usr/lib/systemd/catalog
// (https://systemd.io/CATALOG): for each message its headers and its text.
func parseCatalog(text string) (map[string]string, error) {
	entries := make(map[string]string)
	id, headers := "", false
	for n, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "#") && id == "" {
			continue
		}
		if rest, ok := strings.CutPrefix(line, "-- "); ok {
			if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(rest) {
				return nil, fmt.Errorf("line %d: %q is no message", n+1, rest)
			}
			if _, twice := entries[rest]; twice {
				return nil, fmt.Errorf("line %d: %s is the second", n+1, rest)
			}
			id, headers = rest, true
			entries[id] = ""
			continue
		}
		if id == "" {
			if line != "" {
				return nil, fmt.Errorf("line %d: %q belongs to nothing", n+1, line)
			}
			continue
		}
		if headers && line == "" {
			headers = false
		}
		if headers && !regexp.MustCompile(`^(Subject|Defined-By|Documentation|Support): \S`).MatchString(line) {
			return nil, fmt.Errorf("line %d: %q is no header", n+1, line)
		}
		entries[id] += line + "\n"
	}
	for id, e := range entries {
		head, body, _ := strings.Cut(e, "\n\n")
		if !strings.HasPrefix(head, "Subject: ") || !strings.Contains(head, "\nDefined-By: rpctls\nDocumentation: man:") || strings.TrimSpace(body) == "" {
			return nil, fmt.Errorf("%s: %q", id, e)
		}
	}
	return entries, nil
}

// TestCatalog: each event that is logged is explained, and nothing else. What is
// put into a text is a field that such an entry has.
func TestCatalog(t *testing.T) {
	text, err := os.ReadFile("systemd/rpctls.catalog")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := parseCatalog(string(text))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range logging.Events() {
		if _, ok := entries[string(e)]; !ok {
			t.Errorf("%s is not explained", e)
		}
		delete(entries, string(e))
	}
	for id := range entries {
		t.Errorf("nothing logs %s", id)
	}
	attributes := loggedAttributes(t)
	for _, m := range regexp.MustCompile(`@(\w+)@`).FindAllStringSubmatch(string(text), -1) {
		key, ok := strings.CutPrefix(m[1], "RPCTLS_")
		if !ok || !slices.Contains(attributes, strings.ToLower(key)) {
			t.Errorf("no entry has the field %s", m[1])
		}
	}
	for _, bad := range []string{"x\n", "-- 12\n", "-- " + strings.Repeat("a", 32) + "\nSubject x\n", "-- " + strings.Repeat("a", 32) + "\nSubject: x\n\n"} {
		if _, err := parseCatalog(bad); err == nil {
			t.Errorf("%q is a catalog", bad)
		}
	}
}

// TestEventsAreLogged: no event is defined and never used.
func TestEventsAreLogged(t *testing.T) {
	text, err := os.ReadFile("../internal/logging/event.go")
	if err != nil {
		t.Fatal(err)
	}
	sources := daemonSources(t)
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+) +Event = `).FindAllStringSubmatch(string(text), -1) {
		if !strings.Contains(sources, "logging."+m[1]) {
			t.Errorf("nothing logs %s", m[1])
		}
	}
}

// daemonSources are the programs' sources without tests.
func daemonSources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"../internal", "../rpctlscd", "../rpctlssd"} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

func loggedAttributes(t *testing.T) (keys []string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`"([a-z_]+)", *[A-Za-z]`).FindAllStringSubmatch(daemonSources(t), -1) {
		keys = append(keys, m[1])
	}
	return keys
}

// TestCatalogCompiles: systemd takes it.
func TestCatalogCompiles(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "usr/lib/systemd/catalog")
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.MkdirAll(filepath.Join(root, "var/lib/systemd/catalog"), 0o755)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("systemd/rpctls.catalog")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rpctls.catalog"), text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("journalctl", "--root="+root, "--update-catalog").CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("journalctl", "--root="+root, "--list-catalog").Output()
	if n := strings.Count(string(out), "rpctls: "); err != nil || n != len(logging.Events()) {
		t.Errorf("%v: %d are listed, want %d\n%s", err, n, len(logging.Events()), out)
	}
}
