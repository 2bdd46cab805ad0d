// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package statuscmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpctls/internal/control"
	"rpctls/internal/nfsd"
	"rpctls/internal/status"
	"rpctls/rpctlsctl/cli"
)

// A report is what "status --json" prints: see docs/json.md.
type report struct {
	Time    time.Time     `json:"time"`
	Kernel  status.Kernel `json:"kernel"`
	Daemons []entry       `json:"daemons"`
}

// An entry is one daemon.
type entry struct {
	Daemon        string         `json:"daemon"`
	Role          string         `json:"role"`
	State         string         `json:"state"`
	Configuration string         `json:"configuration"`
	Error         string         `json:"error,omitempty"`
	Hint          string         `json:"hint,omitempty"`
	Status        *status.Daemon `json:"status,omitempty"`
}

const defaultDir = "/etc/rpctls"

// New returns the command "status".
func New() *cobra.Command {
	var asJSON, watching bool
	var dir string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show both daemons, what they have loaded and what the kernel can do",
		Long: `Show both daemons of this host beside each other: whether they run, what they
have done, which certificates, CAs and CRLs they have loaded and until when these
are good, who else answers the kernel, and what the kernel's TLS can do.

The exit status is 3 if a daemon that is configured does not run.`,
		Args: cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			screen := cli.NewScreen(cmd.OutOrStdout())
			if watching {
				return watch(ctx, statusEvery, func() error { return show(screen, gather(ctx, dir), asJSON, true) })
			}
			r := gather(ctx, dir)
			if err := show(screen, r, asJSON, false); err != nil {
				return err
			}
			return r.verdict()
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON; with --watch one document a line")
	f.BoolVar(&watching, "watch", false, "print it again every 2 s until interrupted")
	f.StringVar(&dir, "dir", defaultDir, "where the daemons' configuration is (`directory`)")
	return cmd
}

const statusEvery = 2 * time.Second

// gather asks whoever is there, both at once.
func gather(ctx context.Context, dir string) report {
	r := report{Time: time.Now().UTC().Truncate(time.Second), Kernel: status.ProbeKernel(), Daemons: make([]entry, len(programs))}
	if n, err := nfsd.Threads(); err == nil {
		r.Kernel.Threads = &n
	}
	done := make(chan struct{})
	for i, p := range programs {
		go func() {
			defer func() { done <- struct{}{} }()
			e := entry{Daemon: p.name, Role: p.role, Configuration: p.configuration(dir)}
			var s status.Daemon
			var err error
			if e.State, err = p.ask(ctx, dir, status.Op, nil, &s); err == nil {
				s.Fill()
				e.Status = &s
			} else if e.State == unreachable {
				e.Error = err.Error()
				if ce, ok := errors.AsType[*control.Error](err); ok {
					e.Hint = ce.Hint
				} else if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
					e.Hint = "run it as root"
				}
			} else if e.State == notRunning {
				e.Hint = "systemctl start " + p.name
			}
			r.Daemons[i] = e
		}()
	}
	for range programs {
		<-done
	}
	return r
}

// verdict is how the command ends.
func (r report) verdict() error {
	for _, e := range r.Daemons {
		if e.State == unreachable {
			return cli.Hint(errors.New(e.Error), "%s", e.Hint)
		}
	}
	for _, e := range r.Daemons {
		if e.State == notRunning {
			return cli.Exit(NotRunning, cli.Hint(fmt.Errorf("%s is configured and does not run", e.Daemon), "%s", e.Hint))
		}
	}
	return nil
}

// show prints a report. Again: it takes the place of the one before, on a
// terminal, or is one more.
func show(screen cli.Screen, r report, asJSON, again bool) error {
	switch {
	case asJSON && again:
		return json.NewEncoder(screen.W).Encode(r)
	case asJSON:
		return cli.JSON(screen.W, r)
	case again && screen.Terminal:
		if _, err := io.WriteString(screen.W, "\x1b[H\x1b[2J"); err != nil {
			return err
		}
	}
	if err := r.text(screen); err != nil {
		return err
	}
	if again && !screen.Terminal {
		_, err := io.WriteString(screen.W, "\n")
		return err
	}
	return nil
}

// text writes the tables.
func (r report) text(screen cli.Screen) error {
	for i, rows := range [][][]cli.Cell{r.overview(), r.reasons(), r.identities(), r.trust(), r.crls(), r.kernel(), r.warnings()} {
		if len(rows) == 0 {
			continue
		}
		if i > 0 {
			if _, err := io.WriteString(screen.W, "\n"); err != nil {
				return err
			}
		}
		if err := screen.Table(rows); err != nil {
			return err
		}
	}
	return nil
}

func title(texts ...string) []cli.Cell {
	row := cli.Cells(texts...)
	for i := range row {
		row[i].Colour = cli.Bold
	}
	return row
}

// overview has a column for each daemon.
func (r report) overview() (rows [][]cli.Cell) {
	rows = append(rows, title("", r.Daemons[0].Daemon, r.Daemons[1].Daemon))
	line := func(name string, f func(e entry, s *status.Daemon) cli.Cell) {
		row := []cli.Cell{{Text: name}}
		something := false
		for _, e := range r.Daemons {
			c := cli.Cell{}
			if e.Status != nil || name == "state" {
				c = f(e, e.Status)
			}
			something = something || c.Text != ""
			row = append(row, c)
		}
		if something {
			rows = append(rows, row)
		}
	}
	plain := func(name string, f func(s *status.Daemon) string) {
		line(name, func(_ entry, s *status.Daemon) cli.Cell { return cli.Cell{Text: f(s)} })
	}
	line("state", func(e entry, _ *status.Daemon) cli.Cell {
		colour := map[string]cli.Colour{running: cli.Green, notRunning: cli.Red, unreachable: cli.Red}[e.State]
		return cli.Cell{Text: e.State, Colour: colour}
	})
	plain("version", func(s *status.Daemon) string { return s.Version })
	plain("pid", func(s *status.Daemon) string { return fmt.Sprint(s.PID) })
	plain("since", func(s *status.Daemon) string { return stamp(s.Since) + " (" + span(r.Time.Sub(s.Since)) + ")" })
	plain("accepts at", func(s *status.Daemon) string { return s.Accept.Scheduling })
	plain("in progress", func(s *status.Daemon) string {
		return fmt.Sprintf("%d of %d, %d half open", s.Handshakes.InProgress, s.Accept.Limit, s.Handshakes.HalfOpen)
	})
	plain("succeeded", func(s *status.Daemon) string { return fmt.Sprint(s.Handshakes.Succeeded) })
	line("failed", func(_ entry, s *status.Daemon) cli.Cell {
		return cli.Cell{Text: fmt.Sprint(s.Handshakes.Failed), Colour: when(s.Handshakes.Failed > 0, cli.Yellow)}
	})
	line("lost by the kernel", func(_ entry, s *status.Daemon) cli.Cell {
		n := s.Upcalls.Lost + s.Upcalls.Overflows
		return cli.Cell{Text: fmt.Sprint(n), Colour: when(n > 0, cli.Red)}
	})
	line("last reload", func(_ entry, s *status.Daemon) cli.Cell {
		switch l := s.Reload; {
		case l == nil:
			return cli.Cell{Text: "none"}
		case !l.OK:
			return cli.Cell{Text: stamp(l.Time) + " refused (" + string(l.Trigger) + ")", Colour: cli.Red}
		default:
			return cli.Cell{Text: stamp(l.Time) + " ok (" + string(l.Trigger) + ")"}
		}
	})
	plain("configuration", func(s *status.Daemon) string { return s.Configuration })
	if slices.ContainsFunc(r.Daemons, func(e entry) bool { return e.Status != nil && len(e.Status.Namespaces) > 0 }) {
		plain("namespaces", func(s *status.Daemon) string { return fmt.Sprintf("%d beside its own", len(s.Namespaces)) })
	}
	line("other agents", func(_ entry, s *status.Daemon) cli.Cell {
		if len(s.Rivals) == 0 {
			return cli.Cell{Text: "none"}
		}
		return cli.Cell{Text: "netlink port " + strings.Trim(fmt.Sprint(s.Rivals), "[]"), Colour: cli.Red}
	})
	line("KEY LOG", func(_ entry, s *status.Daemon) cli.Cell {
		if s.KeyLog == nil {
			return cli.Cell{}
		}
		return cli.Cell{Text: fmt.Sprintf("ON until %s (pid %d)", stamp(s.KeyLog.Until), s.KeyLog.PID), Colour: cli.Red}
	})
	return rows
}

// reasons are those of failures, with a column for each daemon.
func (r report) reasons() (rows [][]cli.Cell) {
	found := make(map[string]bool)
	for _, e := range r.Daemons {
		if e.Status == nil {
			continue
		}
		for reason := range e.Status.Handshakes.Reasons {
			found[reason] = reason != "ok"
		}
	}
	for _, reason := range slices.Sorted(maps.Keys(found)) {
		if !found[reason] {
			continue
		}
		row := cli.Cells(reason)
		for _, e := range r.Daemons {
			text := ""
			if e.Status != nil {
				text = fmt.Sprint(e.Status.Handshakes.Reasons[reason])
			}
			row = append(row, cli.Cell{Text: text})
		}
		rows = append(rows, row)
	}
	if rows != nil {
		rows = append([][]cli.Cell{title("failures", r.Daemons[0].Daemon, r.Daemons[1].Daemon)}, rows...)
	}
	return rows
}

// each calls f for each daemon that runs.
func (r report) each(f func(s *status.Daemon)) {
	for _, e := range r.Daemons {
		if e.Status != nil {
			f(e.Status)
		}
	}
}

// soon is when an end begins to be shown as one, in days.
const soon = 14

func (r report) identities() (rows [][]cli.Cell) {
	r.each(func(s *status.Daemon) {
		for _, id := range s.Identities {
			if id.Error != "" {
				rows = append(rows, []cli.Cell{{Text: s.Daemon}, {Text: id.Use}, {}, {}, {Text: id.Error, Colour: cli.Red}})
				continue
			}
			days := cli.Cell{Text: fmt.Sprint(id.DaysLeft)}
			switch {
			case id.DaysLeft < 0:
				days.Colour = cli.Red
			case id.DaysLeft < soon:
				days.Colour = cli.Yellow
			}
			rows = append(rows, []cli.Cell{{Text: s.Daemon}, {Text: id.Use}, days, {Text: id.Subject}, {Text: strings.Join(id.Names, " ")}})
		}
	})
	return headed(rows, "identities", "use", "days left", "subject", "names")
}

func headed(rows [][]cli.Cell, texts ...string) [][]cli.Cell {
	if len(rows) == 0 {
		return nil
	}
	return append([][]cli.Cell{title(texts...)}, rows...)
}

func (r report) trust() (rows [][]cli.Cell) {
	r.each(func(s *status.Daemon) {
		for _, t := range s.Trust {
			text := strings.Join(t.Subjects, "; ")
			if more := t.Anchors - len(t.Subjects); more > 0 {
				text += fmt.Sprintf("; and %d more", more)
			}
			rows = append(rows, cli.Cells(s.Daemon, t.Use, fmt.Sprint(t.Anchors), text))
		}
	})
	return headed(rows, "trust", "use", "CAs", "subjects")
}

func (r report) crls() (rows [][]cli.Cell) {
	r.each(func(s *status.Daemon) {
		for _, c := range s.CRLs {
			next := cli.Cell{Text: stamp(c.NextUpdate)}
			if c.Stale {
				next = cli.Cell{Text: next.Text + " (stale)", Colour: cli.Red}
			}
			rows = append(rows, []cli.Cell{{Text: s.Daemon}, {Text: span(time.Duration(c.AgeSeconds) * time.Second)}, next, {Text: fmt.Sprint(c.Revoked)}, {Text: c.Issuer}, {Text: c.Path}})
		}
	})
	return headed(rows, "CRLs", "age", "next update", "revoked", "issuer", "file")
}

func (r report) kernel() (rows [][]cli.Cell) {
	rows = append(rows, title("kernel", r.Kernel.Release))
	rows = append(rows, []cli.Cell{{Text: "TLS"}, {Text: r.Kernel.TLS, Colour: when(!r.Kernel.Works(), cli.Red)}})
	for _, name := range slices.Sorted(maps.Keys(r.Kernel.Ciphers)) {
		rows = append(rows, []cli.Cell{{Text: name}, {Text: r.Kernel.Ciphers[name], Colour: when(r.Kernel.Ciphers[name] != "ok", cli.Yellow)}})
	}
	if r.Kernel.Threads != nil {
		rows = append(rows, cli.Cells("nfsd threads", fmt.Sprint(*r.Kernel.Threads)))
	}
	return rows
}

// warnings are what somebody has to do something about.
func (r report) warnings() (rows [][]cli.Cell) {
	add := func(who, text string) {
		rows = append(rows, []cli.Cell{{Text: who}, {Text: text, Colour: cli.Yellow}})
	}
	for _, e := range r.Daemons {
		if e.Error != "" {
			add(e.Daemon, e.Error)
		}
		if e.Status == nil {
			continue
		}
		if l := e.Status.Reload; l != nil && !l.OK {
			add(e.Daemon, "reload refused: "+l.Error)
		}
		if k := e.Status.KeyLog; k != nil {
			add(e.Daemon, fmt.Sprintf("TLS secrets are given to process %d: rpctlsctl debug keylog --stop", k.PID))
		}
		for _, w := range e.Status.Warnings {
			add(e.Daemon, w)
		}
	}
	return headed(rows, "warnings", "")
}

func when(yes bool, c cli.Colour) cli.Colour {
	if yes {
		return c
	}
	return cli.Plain
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05Z") }

// span writes a length of time in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "in the future"
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d min", d/time.Minute)
	}
	return fmt.Sprintf("%d s", d/time.Second)
}
