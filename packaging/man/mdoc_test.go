// SPDX-License-Identifier: BSD-3-Clause

package man_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A page is the source of a manual page.
type page struct {
	file  string   // "rpctlsctl.8"
	lines []string // as they are
}

func read(t *testing.T, file string) page {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return page{file, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")}
}

// pages returns all, those that only include another apart.
func pages(t *testing.T) (full, links []page) {
	t.Helper()
	files, err := filepath.Glob("*.[1-9]")
	if err != nil || len(files) == 0 {
		t.Fatalf("no pages: %v", err)
	}
	for _, file := range files {
		p := read(t, file)
		if slices.ContainsFunc(p.lines, func(l string) bool { return strings.HasPrefix(l, ".so ") }) {
			links = append(links, p)
		} else {
			full = append(full, p)
		}
	}
	return full, links
}

// name returns "rpctlsctl" and "8".
func (p page) name() (name, section string) {
	i := strings.LastIndexByte(p.file, '.')
	return p.file[:i], p.file[i+1:]
}

// macro splits a line ".It Fl o Ar file" into its words; nil for text.
func macro(line string) []string {
	if !strings.HasPrefix(line, ".") || strings.HasPrefix(line, `.\"`) {
		return nil
	}
	words := strings.Fields(line[1:])
	for i, w := range words {
		words[i] = strings.Trim(w, `"`)
	}
	return words
}

// after returns the words that follow a macro in a line of words:
// after("Fl", "It Fl a Ar b , Fl c") is a, c.
func after(name string, words []string) (found []string) {
	for i, w := range words[:max(len(words)-1, 0)] {
		if w == name {
			found = append(found, words[i+1])
		}
	}
	return found
}

// sections returns the titles of the page's sections, .Sh or .Ss.
func (p page) sections(kind string) (titles []string) {
	for _, line := range p.lines {
		if words := macro(line); len(words) > 1 && words[0] == kind {
			titles = append(titles, strings.Join(words[1:], " "))
		}
	}
	return titles
}

// part returns the lines of a section (.Sh) or subsection (.Ss).
func (p page) part(t *testing.T, title string) (lines []string) {
	t.Helper()
	in, found := "", false
	for _, line := range p.lines {
		words := macro(line)
		if len(words) > 0 && (words[0] == "Sh" || words[0] == "Ss") {
			if in == "Sh" && words[0] == "Ss" {
				continue // belongs to it
			}
			in = ""
			if strings.Join(words[1:], " ") == title {
				in, found = words[0], true
			}
			continue
		}
		if in != "" {
			lines = append(lines, line)
		}
	}
	if !found {
		t.Fatalf("%s: no section %q", p.file, title)
	}
	return lines
}

// An item is a list item: its head, and the text up to the next.
type item struct {
	head []string // words of the .It line
	text string
}

func items(lines []string) (list []item) {
	for i, line := range lines {
		words := macro(line)
		if len(words) == 0 || words[0] != "It" {
			continue
		}
		var text []string
		for _, next := range lines[i+1:] {
			if w := macro(next); len(w) > 0 && (w[0] == "It" || w[0] == "El" && len(text) > 0) {
				break
			}
			text = append(text, next)
		}
		list = append(list, item{words[1:], strings.Join(text, "\n")})
	}
	return list
}

// displays returns the lines of the page's literal displays.
func (p page) displays() (lines []string) {
	in := false
	for _, line := range p.lines {
		switch words := macro(line); {
		case len(words) > 1 && words[0] == "Bd" && words[1] == "-literal":
			in = true
		case len(words) > 0 && words[0] == "Ed":
			in = false
		case in:
			lines = append(lines, line)
		}
	}
	return lines
}

// compare reports what is in one set and not in the other.
func compare(t *testing.T, what, page string, have, documented []string) {
	t.Helper()
	if len(have) == 0 {
		t.Errorf("%s: nothing to compare with %s", what, page)
	}
	for _, s := range have {
		if !slices.Contains(documented, s) {
			t.Errorf("%s: %s is not in %s", what, s, page)
		}
	}
	for _, s := range documented {
		if !slices.Contains(have, s) {
			t.Errorf("%s: %s is in %s and does not exist", what, s, page)
		}
	}
}
