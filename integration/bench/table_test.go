// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// load is one that took so long, in which so many failed.
func load(elapsed float64, failed int, latencies ...float64) *Load {
	l := &Load{OK: len(latencies), Elapsed: elapsed, Latencies: latencies}
	if failed > 0 {
		l.Failed = map[string]int{"handshake: closed": failed}
	}
	return l
}

// example has something of every kind of row.
var example = &Report{
	Release: "9.9.9-test", TLSHD: "1.2.3", CPUs: 2, MemoryMiB: 1969, Threads: 16, Rounds: 3,
	Records: []Record{
		{Figure: "rate.4", System: Limit, Round: 0, Load: load(1, 0, 10, 20)},
		{Figure: "rate.4", System: Rpctls, Round: 0, Load: load(1, 0, 10, 20, 30)},
		// The rounds of a system need not come in order.
		{Figure: "rate.4", System: Rpctls, Round: 2, Load: load(10, 0, 100)},
		{Figure: "rate.4", System: Rpctls, Round: 1, Load: load(1, 0, 10)},
		{Figure: "rate.4", System: Limit, Round: 1, Load: load(1, 0, 20)},
		{Figure: "rate.4", System: Limit, Round: 2, Load: load(10, 0, 90)},
		{Figure: "storm.600x96", System: Rpctls, Load: load(1, 0, 1, 2, 3)},
		{Figure: "storm.600x96", System: TLSHD, Load: load(1, 1, 1, 2)},
		{Figure: "queue", System: Rpctls, Load: load(1, 0, 1), Queue: &Queue{Waits: []float64{1, 2}, Refused: 1}},
		{Figure: "queue", System: Rpctls, Round: 1, Load: load(1, 0, 1), Queue: &Queue{Waits: []float64{0, 9}}},
		{Figure: "stall.quiet", System: Rpctls, Load: load(1, 0, 20)},
		{Figure: "stall.quiet", System: TLSHD, Load: load(1, 0, 40)},
		{Figure: "stall.24.same", System: Rpctls, Load: load(1, 1, 30)},
		{Figure: "stall.24.same", System: TLSHD, Load: load(1, 3)},
		{Figure: "kill.connections", System: Rpctls, Load: load(1, 2, 1), Values: map[string]float64{"restarts": 2}},
		{Figure: "kill.mounts", System: Rpctls, Load: load(1, 0, 1), Written: load(1, 0, 1, 1), Values: map[string]float64{"restarts": 1, "cuts": 4}},
		{Figure: "kill.mounts", System: TLSHD, Load: load(1, 1), Written: load(1, 0), Values: map[string]float64{"restarts": 1, "cuts": 5, "hung": 1}},
		{Figure: "memory.idle", System: Rpctls, Values: map[string]float64{"mib": 24}},
		{Figure: "memory.idle", System: TLSHD, Values: map[string]float64{"mib": 4}},
		{Figure: "nfs", System: Limit, Values: map[string]float64{"read": 100, "write": 50}},
		{Figure: "nfs", System: Rpctls, Values: map[string]float64{"read": 60, "write": 25}},
	},
}

func TestTable(t *testing.T) {
	const want = `
|                                                     |            limit |             rpctls |                            tlshd 1.2.3 | rpctls : limit | rpctls : tlshd |
| --------------------------------------------------- | ---------------: | -----------------: | -------------------------------------: | -------------: | -------------: |
| handshakes/s, 4 clients                             |              1.0 |                1.0 |                                      – |           1.00 |              – |
| ms to the first encrypted RPC, 4 clients, p50       |             20.0 |               20.0 |                                      – |           1.11 |              – |
| – p99                                               |             90.0 |              100.0 |                                      – |           1.11 |              – |
| storm of 600 connections, 96 at a time: succeed     |                – |   100.0 % (3 of 3) |                        66.7 % (2 of 3) |              – |              – |
| ms in the kernel's queue, storm of 200 by 32, p50   |                – |                1.0 |                                      – |              – |              – |
| – p99                                               |                – |                9.0 |                                      – |              – |              – |
| – longest                                           |                – |                9.0 |                                      – |              – |              – |
| – refused by the kernel                             |                – |             1 of 2 |                                      – |              – |              – |
| a client while nobody stalls: p50 ms                |                – |               20.0 |                                   40.0 |              – |              – |
| – while 24 stall, from its own address              |                – | 30.0 = 1.5×, 1 of 2 lost |                         –, 3 of 3 lost |              – |              – |
`
	lines := strings.Split(strings.TrimSpace(want), "\n")
	got := strings.Split(example.Table().Markdown(), "\n")
	// Widths are compared by what they are for: columns that align.
	if diff := cmp.Diff(fields(lines[2:]), fields(got[2:len(lines)])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	text := strings.Join(got, "\n")
	for _, want := range []string{"2 of 3 (2 times)", "0 of 2 (4 cuts)", "0 of 0 (5 cuts), hung for ever 1 times", "24.0 ", "6.00", "0.50", "0.60"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	for _, line := range got[:len(got)-1] {
		if n, want := len([]rune(line)), len([]rune(got[0])); n != want {
			t.Errorf("a line has %d characters, the first %d: %s", n, want, line)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("not a number:\n%s", text)
	}
}

// fields are the cells of lines of a table.
func fields(lines []string) (cells [][]string) {
	for _, line := range lines {
		var row []string
		for cell := range strings.SplitSeq(line, "|") {
			row = append(row, strings.TrimSpace(cell))
		}
		cells = append(cells, row)
	}
	return cells
}

func TestShareIsNotRoundedUp(t *testing.T) {
	c := succeeded(nil, []Record{{Load: load(1, 1, make([]float64, 9999)...)}})
	if want := "99.9 % (9999 of 10000)"; c.text != want {
		t.Errorf("%q, want %q", c.text, want)
	}
}

func TestRatio(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b []float64
		want float64
	}{
		{"round by round", []float64{10, 100, 30}, []float64{20, 100, 30}, 1},
		{"one has more rounds", []float64{10, 100}, []float64{20}, 0.5},
		{"one has none", []float64{10}, nil, math.NaN()},
	} {
		if got := ratio(tt.a, tt.b); got != tt.want && !(math.IsNaN(got) && math.IsNaN(tt.want)) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// A report survives its way out of the guest.
func TestReportAsJSON(t *testing.T) {
	text, err := json.Marshal(example)
	if err != nil {
		t.Fatal(err)
	}
	got := new(Report)
	if err := json.Unmarshal(text, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example.Table(), got.Table()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDocument(t *testing.T) {
	m := Machine{CPU: "Test CPU", CPUs: 8, MemoryMiB: 16000, Kernel: "1.2.3", QEMU: "10.0.2", Acceleration: "TCG (translation)", Go: "go1", Commit: "abc", Date: "2026-01-02"}
	text, err := Document(m, []*Report{example, example})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| machine | Test CPU, 8 CPUs, 16000 MiB |", "QEMU 10.0.2, TCG (translation), 2 CPUs, 1969 MiB",
		"## Linux 9.9.9-test\n\n|  ", "QEMU translates", "| commit | abc |", "## How it is measured",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	m.Acceleration = "KVM"
	if text, err = Document(m, []*Report{example}); err != nil || strings.Contains(text, "translates") {
		t.Errorf("KVM does not translate: %v\n%s", err, text)
	}
}

func TestMachine(t *testing.T) {
	if got := CPUModel("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: other\n"); got != "Some CPU @ 2 GHz" {
		t.Errorf("CPU %q", got)
	}
	if got := CPUModel(""); got != "unknown" {
		t.Errorf("CPU %q", got)
	}
	if got := MemTotal("MemFree: 1 kB\nMemTotal:       24683456 kB\n"); got != 24104 {
		t.Errorf("%d MiB", got)
	}
	if got := QEMUVersion("QEMU emulator version 10.0.2 (Debian 1:10.0.2)\nCopyright\n"); got != "10.0.2" {
		t.Errorf("QEMU %q", got)
	}
	if got := QEMUVersion("nonsense"); got != "unknown" {
		t.Errorf("QEMU %q", got)
	}
}
