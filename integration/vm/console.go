// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"fmt"
	"regexp"
	"strings"
)

// A Finding is a line on a guest's console by which the kernel says that
// something is broken.
type Finding struct {
	Kind string // "panic", "oops", "bug", "warning", "hung task", "out of memory"
	Line string
}

func (f Finding) String() string { return fmt.Sprintf("kernel %s: %s", f.Kind, f.Line) }

// findings in the order in which they are tried, the first that matches
// names the kind. They see what follows the time stamp, which only the
// kernel's own lines have: a program that prints the word does no harm.
var findings = []struct {
	kind string
	re   *regexp.Regexp
}{
	{"panic", regexp.MustCompile(`^Kernel panic - not syncing`)},
	{"oops", regexp.MustCompile(`^Oops:|^general protection fault|^(BUG: )?[Uu]nable to handle|^BUG: kernel NULL pointer|^(invalid opcode|divide error|stack segment|double fault): `)},
	{"bug", regexp.MustCompile(`^kernel BUG at |^BUG: |^UBSAN: |^list_(add|del) corruption|^refcount_t: `)},
	{"warning", regexp.MustCompile(`^WARNING: `)},
	{"hung task", regexp.MustCompile(`^INFO: task .* blocked (for more than|on )`)},
	{"out of memory", regexp.MustCompile(`^Out of memory: |invoked oom-killer:|^Memory cgroup out of memory: `)},
}

// A line is "[    1.234567] text", "[    1.234567][    T1] text" or, on newer
// kernels, has the caller before the text.
var kernelLine = regexp.MustCompile(`^(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? (.*)$`)

// scanConsole returns what the kernel complained about, in order.
// Lines that match one of allowed are passed over.
func scanConsole(console string, allowed []*regexp.Regexp) []Finding {
	var found []Finding
lines:
	for line := range strings.Lines(console) {
		line = strings.TrimRight(line, "\r\n")
		m := kernelLine.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		for _, f := range findings {
			if !f.re.MatchString(m[1]) {
				continue
			}
			for _, a := range allowed {
				if a.MatchString(line) {
					continue lines
				}
			}
			found = append(found, Finding{f.kind, line})
			break
		}
	}
	return found
}
