// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"cmp"
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

// A Machine is where guests ran.
type Machine struct {
	CPU          string // model
	CPUs         int
	MemoryMiB    int
	Kernel       string
	QEMU         string // version
	Acceleration string
	Go           string
	Commit       string
	Date         string
}

//go:embed document.md
var document string

// Document returns the text of docs/benchmarks.md about the reports, which
// have at least one.
func Document(m Machine, reports []*Report) (string, error) {
	t, err := template.New("benchmarks.md").Parse(document)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	err = t.Execute(&b, struct {
		Machine
		Reports  []*Report
		First    *Report
		Transfer *Transfer // any, or nil: they are alike
	}{m, reports, reports[0], transfer(reports)})
	return b.String(), err
}

func transfer(reports []*Report) *Transfer {
	for _, r := range reports {
		for _, rec := range r.Records {
			if rec.Transfer != nil {
				return rec.Transfer
			}
		}
	}
	return nil
}

// CPUModel finds the processor's name in the text of /proc/cpuinfo.
func CPUModel(cpuinfo string) string {
	for line := range strings.Lines(cpuinfo) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// MemTotal finds the machine's memory in the text of /proc/meminfo.
func MemTotal(meminfo string) (mebibytes int) {
	for line := range strings.Lines(meminfo) {
		var kib int
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	return 0
}

// QEMUVersion shortens what "qemu-system-x86_64 --version" says.
func QEMUVersion(said string) string {
	_, rest, _ := strings.Cut(said, "version ")
	version, _, _ := strings.Cut(rest, "\n")
	version, _, _ = strings.Cut(version, " ")
	return cmp.Or(version, "unknown")
}
