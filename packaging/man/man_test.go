// SPDX-License-Identifier: BSD-3-Clause

package man_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every program and script that is installed has a page.
func TestEveryProgramHasAPage(t *testing.T) {
	programs, err := filepath.Glob("../../cmd/*/main.go")
	if err != nil || len(programs) < 3 {
		t.Fatalf("programs: %q, %v", programs, err)
	}
	var names []string
	for _, path := range programs {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	for _, path := range scripts(t) {
		names = append(names, filepath.Base(path))
	}
	for _, name := range names {
		if _, err := os.Stat(name + ".8"); err != nil {
			t.Error(err)
		}
	}
}

// scripts returns the paths of those that users run.
func scripts(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("../scripts/rpctls-*")
	if err != nil {
		t.Fatal(err)
	}
	found = slices.DeleteFunc(found, func(path string) bool { return filepath.Ext(path) != "" })
	if len(found) == 0 {
		t.Error("no scripts")
	}
	return found
}

const licence = `.\" SPDX-License-Identifier: BSD-3-Clause`

func TestHeads(t *testing.T) {
	full, links := pages(t)
	for _, p := range full {
		name, section := p.name()
		title := fmt.Sprintf(".Dt %s %s", strings.ToUpper(name), section)
		if p.lines[0] != licence || !regexp.MustCompile(`^\.Dd [A-Z][a-z]+ \d+, \d{4}$`).MatchString(p.lines[1]) ||
			p.lines[2] != title || p.lines[3] != ".Os rpctls" {
			t.Errorf("%s: begins with %q", p.file, p.lines[:4])
		}
		if !strings.HasPrefix(p.part(t, "NAME")[0], ".Nm "+name) {
			t.Errorf("%s: NAME is another's", p.file)
		}
	}
	for _, p := range links {
		if len(p.lines) != 2 || p.lines[0] != licence {
			t.Fatalf("%s: want the licence and .so", p.file)
		}
		target := strings.TrimPrefix(p.lines[1], ".so ")
		name, section := read(t, filepath.Base(target)).name()
		if target != fmt.Sprintf("man%s/%s.%[1]s", section, name) {
			t.Errorf("%s: %s is where nobody finds it", p.file, target)
		}
	}
}

// What both formatters have to say.
func TestFormatters(t *testing.T) {
	full, _ := pages(t)
	for _, p := range full {
		for _, command := range [][]string{
			{"mandoc", "-T", "lint", "-W", "warning"},
			{"groff", "-mdoc", "-Tutf8", "-ww", "-z"},
		} {
			out, err := exec.Command(command[0], append(command[1:], p.file)...).CombinedOutput()
			if errors.Is(err, exec.ErrNotFound) {
				t.Fatalf("%v: install it (tools/setup.sh)", err)
			}
			if err != nil || len(out) > 0 {
				t.Errorf("%s %s: %v\n%s", command[0], p.file, err, out)
			}
		}
		for i, line := range p.lines {
			if len(line) > 80 && macro(line) == nil {
				t.Errorf("%s:%d: over 80 columns", p.file, i+1)
			}
		}
	}
}

func TestSections(t *testing.T) {
	want := map[string][]string{
		"5": {"NAME", "DESCRIPTION", "FILES", "EXAMPLES", "SEE ALSO"},
		"7": {"NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"},
		"8": {"NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "EXIT STATUS", "EXAMPLES", "SEE ALSO"},
	}
	full, _ := pages(t)
	for _, p := range full {
		_, section := p.name()
		have := p.sections("Sh")
		for _, title := range want[section] {
			if !slices.Contains(have, title) {
				t.Errorf("%s: no %s", p.file, title)
			}
		}
	}
}

// Pages of others that are referred to, and the Debian package that has each:
// looked up by hand.
var others = map[string]string{
	"age(1)":        "age",
	"exportfs(8)":   "nfs-kernel-server",
	"exports(5)":    "nfs-kernel-server",
	"fstab(5)":      "mount",
	"mount(8)":      "mount",
	"mount.nfs(8)":  "nfs-common",
	"nfs(5)":        "nfs-common",
	"openssl(1)":    "openssl",
	"systemd(1)":    "systemd",
	"ss(8)":         "iproute2",
	"tlshd(8)":      "ktls-utils",
	"umount.nfs(8)": "nfs-common",
}

func TestCrossReferences(t *testing.T) {
	used := make(map[string]bool)
	full, _ := pages(t)
	for _, p := range full {
		name, section := p.name()
		for i, line := range p.lines {
			words := macro(line)
			for j, w := range words {
				if w != "Xr" {
					continue
				}
				if len(words) < j+3 {
					t.Fatalf("%s:%d: %s", p.file, i+1, line)
				}
				ref := fmt.Sprintf("%s(%s)", words[j+1], words[j+2])
				used[ref] = true
				if ref == fmt.Sprintf("%s(%s)", name, section) {
					t.Errorf("%s:%d: refers to itself", p.file, i+1)
				}
				if _, err := os.Stat(words[j+1] + "." + words[j+2]); err != nil && others[ref] == "" {
					t.Errorf("%s:%d: %s does not exist", p.file, i+1, ref)
				}
			}
		}
		for _, line := range p.part(t, "SEE ALSO") {
			if words := macro(line); len(words) == 0 || words[0] != "Xr" {
				t.Errorf("%s: SEE ALSO: %s", p.file, line)
			}
		}
	}
	for ref := range others {
		if !used[ref] {
			t.Errorf("nothing refers to %s any more", ref)
		}
	}
}

// Users find every page from the first.
func TestEveryPageIsReferredTo(t *testing.T) {
	first := strings.Join(read(t, "rpctls.7").part(t, "SEE ALSO"), "\n")
	full, _ := pages(t)
	for _, p := range full {
		if name, section := p.name(); p.file != "rpctls.7" && !strings.Contains(first, ".Xr "+name+" "+section) {
			t.Errorf("rpctls(7) does not refer to %s", p.file)
		}
	}
}
