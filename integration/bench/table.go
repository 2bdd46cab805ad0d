// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Table is what there is to say about one kernel.
type Table struct {
	Head []string
	Rows [][]string
}

// Markdown returns the table with its columns aligned, so that it reads well
// as plain text too.
func (t *Table) Markdown() string {
	width := make([]int, len(t.Head))
	for _, row := range slices.Concat([][]string{t.Head}, t.Rows) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, cell := range row {
			space := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				fmt.Fprintf(&b, "| %s%s |", cell, space)
			} else {
				fmt.Fprintf(&b, " %s%s |", space, cell)
			}
		}
		b.WriteByte('\n')
	}
	line(t.Head)
	for i, w := range width {
		if i == 0 {
			b.WriteString("| " + strings.Repeat("-", w) + " |")
		} else {
			b.WriteString(" " + strings.Repeat("-", max(w-1, 1)) + ": |")
		}
	}
	b.WriteByte('\n')
	for _, row := range t.Rows {
		line(row)
	}
	return b.String()
}

// A cell is one system's part of a row: a value for each round, or one for all
// of them, and how it is shown.
type cell struct {
	text   string
	values []float64
}

// A row says how a line of the table follows from the records.
type row struct {
	label  string
	figure string
	cell   func(*Report, []Record) cell
	ratios bool
}

// none is shown where there is nothing to show.
const none = "–"

// A layout is a kind of table: which systems are beside each other, and which
// of them are compared.
type layout struct {
	head    []string
	systems []System
	ratios  [][2]System
	rows    []row
}

// Table returns the table of what was measured of NFS.
func (r *Report) Table() *Table {
	return r.table(layout{
		head:    []string{"", "limit", "rpctls", "tlshd " + r.TLSHD, "rpctls : limit", "rpctls : tlshd"},
		systems: Systems(),
		ratios:  [][2]System{{Rpctls, Limit}, {Rpctls, TLSHD}},
		rows:    rows(),
	})
}

// KTLS returns the table of what was measured of package ktls, and nil if
// nothing was.
func (r *Report) KTLS() *Table {
	t := r.table(layout{
		head:    []string{"", "crypto/tls", "ktls", "ktls, sendfile", "ktls : crypto/tls", "sendfile : crypto/tls"},
		systems: Libraries(),
		ratios:  [][2]System{{KernelTLS, UserTLS}, {Sendfile, UserTLS}},
		rows:    transferRows(),
	})
	if len(t.Rows) == 0 {
		return nil
	}
	return t
}

func (r *Report) table(l layout) *Table {
	t := &Table{Head: l.head}
	for _, row := range l.rows {
		cells := make(map[System]cell)
		for _, s := range l.systems {
			if records := r.Of(row.figure, s); len(records) > 0 {
				cells[s] = row.cell(r, records)
			}
		}
		if len(cells) == 0 {
			continue
		}
		line := []string{row.label}
		for _, s := range l.systems {
			if c, ok := cells[s]; ok {
				line = append(line, c.text)
			} else {
				line = append(line, none)
			}
		}
		for _, pair := range l.ratios {
			text := none
			if row.ratios {
				if q := ratio(cells[pair[0]].values, cells[pair[1]].values); !math.IsNaN(q) && !math.IsInf(q, 0) {
					text = fmt.Sprintf("%.2f", q)
				}
			}
			line = append(line, text)
		}
		t.Rows = append(t.Rows, line)
	}
	return t
}

// ratio compares round by round: what disturbed the machine for longer than
// one measurement disturbed both.
func ratio(a, b []float64) float64 {
	var each []float64
	for i := range min(len(a), len(b)) {
		each = append(each, a[i]/b[i])
	}
	return Median(each)
}

func rows() []row {
	var all []row
	add := func(figure, label string, ratios bool, c func(*Report, []Record) cell) {
		all = append(all, row{label, figure, c, ratios})
	}
	concurrent := []struct{ figure, label string }{
		{"rate.1", "1 client"}, {"rate.4", "4 clients"}, {"storm.200x32", "32 clients"},
	}
	for _, c := range concurrent {
		add(c.figure, "handshakes/s, "+c.label, true, perRound("%.1f", func(r Record) float64 { return r.Load.Rate() }))
	}
	for _, c := range concurrent {
		add(c.figure, "ms to the first encrypted RPC, "+c.label+", p50", true,
			perRound("%.1f", func(r Record) float64 { return Percentile(r.Load.Latencies, 50) }))
		add(c.figure, "– p99", true, pooled("%.1f", func(all []Record) float64 { return Percentile(merged(all).Latencies, 99) }))
	}
	add("storm.200x32", "storm of 200 connections, 32 at a time: succeed", false, succeeded)
	add("storm.600x96", "storm of 600 connections, 96 at a time: succeed", false, succeeded)
	for _, p := range []struct {
		label string
		p     float64
	}{{"ms in the kernel's queue, storm of 200 by 32, p50", 50}, {"– p99", 99}, {"– longest", 100}} {
		add("queue", p.label, false, pooled("%.1f", func(all []Record) float64 { return Percentile(queued(all).Waits, p.p) }))
	}
	add("queue", "– refused by the kernel", false, func(_ *Report, all []Record) cell {
		return cell{text: fmt.Sprintf("%d of %d", queued(all).Refused, merged(all).Total())}
	})
	add("stall.quiet", "a client while nobody stalls: p50 ms", false, stalled)
	for _, a := range []struct{ figure, label string }{
		{"stall.24.same", "– while 24 stall, from its own address"}, {"stall.24.other", "– while 24 stall, from 24 other networks"},
		{"stall.96.same", "– while 96 stall, from its own address"}, {"stall.96.other", "– while 96 stall, from 24 other networks"},
	} {
		add(a.figure, a.label, false, stalled)
	}
	for _, d := range []struct{ figure, label string }{{"restart", "systemctl restart"}, {"kill", "kill -9"}} {
		add(d.figure+".connections", d.label+" every 2 s: connections lost", false, func(_ *Report, all []Record) cell {
			l := merged(all)
			return cell{text: fmt.Sprintf("%d of %d (%.0f times)", l.Total()-l.OK, l.Total(), sum(all, "restarts"))}
		})
		add(d.figure+".mounts", "– mounts that fail", false, func(_ *Report, all []Record) cell {
			l := merged(all)
			return cell{text: fmt.Sprintf("%d of %d (%.0f times)", l.Total()-l.OK, l.Total(), sum(all, "restarts"))}
		})
		add(d.figure+".mounts", "– writes that fail, to a mount that is also cut off", false, func(_ *Report, all []Record) cell {
			var loads []*Load
			for _, r := range all {
				loads = append(loads, r.Written)
			}
			l := Merge(loads...)
			text := fmt.Sprintf("%d of %d (%.0f cuts)", l.Total()-l.OK, l.Total(), sum(all, "cuts"))
			if n := sum(all, "hung"); n > 0 {
				text += fmt.Sprintf(", hung for ever %.0f times", n)
			}
			return cell{text: text}
		})
	}
	for _, m := range []struct{ figure, label string }{
		{"memory.idle", "MiB of memory, idle"}, {"memory.storm", "– at most, in a storm of 600 by 96"},
	} {
		add(m.figure, m.label, true, perRound("%.1f", func(r Record) float64 { return r.Values["mib"] }))
	}
	for _, what := range []string{"write", "read"} {
		add("nfs", fmt.Sprintf("MiB/s of NFS, %s (limit: NFS without TLS)", what), true,
			perRound("%.1f", func(r Record) float64 { return r.Values[what] }))
	}
	return all
}

// transferRows are those of package ktls.
func transferRows() (all []row) {
	for _, f := range []struct{ figure, label string }{{"ktls.memory", "memory to socket"}, {"ktls.file", "file to socket"}} {
		for _, v := range []struct {
			label string
			value func(*Transfer) float64
		}{
			{"MiB/s, " + f.label, (*Transfer).Rate},
			{"– CPU s per GiB, all of the guest", func(x *Transfer) float64 { return x.perGiB(x.GuestCPU) }},
			{"– – of which charged to the two processes", func(x *Transfer) float64 { return x.perGiB(x.ProcessCPU) }},
		} {
			all = append(all, row{v.label, f.figure, perRound("%.1f", func(r Record) float64 { return v.value(r.Transfer) }), true})
		}
	}
	return all
}

// perRound is a figure whose median counts.
func perRound(format string, value func(Record) float64) func(*Report, []Record) cell {
	return func(_ *Report, records []Record) cell {
		var c cell
		for _, r := range records {
			c.values = append(c.values, value(r))
		}
		c.text = number(format, Median(c.values))
		return c
	}
}

// pooled is a figure for which one round has too few values.
func pooled(format string, value func([]Record) float64) func(*Report, []Record) cell {
	return func(_ *Report, records []Record) cell {
		v := value(records)
		return cell{number(format, v), []float64{v}}
	}
}

func number(format string, v float64) string {
	if math.IsNaN(v) {
		return none
	}
	return fmt.Sprintf(format, v)
}

func merged(records []Record) *Load {
	var loads []*Load
	for _, r := range records {
		loads = append(loads, r.Load)
	}
	return Merge(loads...)
}

func queued(records []Record) *Queue {
	q := new(Queue)
	for _, r := range records {
		q.Waits = append(q.Waits, r.Queue.Waits...)
		q.Refused += r.Queue.Refused
		q.Left += r.Queue.Left
	}
	slices.Sort(q.Waits)
	return q
}

func sum(records []Record, value string) float64 {
	s := 0.0
	for _, r := range records {
		s += r.Values[value]
	}
	return s
}

func succeeded(_ *Report, records []Record) cell {
	l := merged(records)
	share := 100 * float64(l.OK) / float64(max(l.Total(), 1))
	// Rounding must not hide a loss.
	if l.OK < l.Total() {
		share = min(share, 99.9)
	}
	return cell{text: fmt.Sprintf("%.1f %% (%d of %d)", share, l.OK, l.Total())}
}

// stalled shows a real client's latency, what that is in multiples of when
// nobody stalls, and how many of its connections are lost.
func stalled(r *Report, records []Record) cell {
	median := func(records []Record) float64 {
		var each []float64
		for _, rec := range records {
			if p := Percentile(rec.Load.Latencies, 50); !math.IsNaN(p) {
				each = append(each, p)
			}
		}
		return Median(each)
	}
	v := median(records)
	text := number("%.1f", v)
	if quiet := median(r.Of("stall.quiet", records[0].System)); records[0].Figure != "stall.quiet" && !math.IsNaN(v/quiet) {
		text += fmt.Sprintf(" = %.1f×", v/quiet)
	}
	if l := merged(records); l.OK < l.Total() {
		text += fmt.Sprintf(", %d of %d lost", l.Total()-l.OK, l.Total())
	}
	return cell{text: text}
}
