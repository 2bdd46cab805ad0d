// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package statuscmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/signal"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpctls/internal/control"
	"rpctls/internal/history"
	"rpctls/rpctlsctl/cli"
)

// An outcome is what "history --json" prints of one handshake: see docs/json.md.
type outcome struct {
	Daemon string `json:"daemon"`
	Result string `json:"result"` // "success" or "failure"
	history.Event
}

// A position is where the reading of a daemon's history has come to.
type position struct {
	instance string
	last     uint64
}

// History returns the command "history".
func History() *cobra.Command {
	var asJSON, watching bool
	var dir string
	q := history.Query{}
	cmd := &cobra.Command{
		Use:   "history",
		Short: "list the latest handshakes of both daemons, with what became of them",
		Long: `List the latest handshakes of both daemons, the oldest first, with result and
reason. Each daemon remembers 1024 of them, and forgets them when it ends.

The exit status is 3 if a daemon that is configured does not run.`,
		Args: cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if q.Limit < 1 || q.Limit > history.MaxEvents {
				return cli.Usagef("--limit %d is not between 1 and %d", q.Limit, history.MaxEvents)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			screen := cli.NewScreen(cmd.OutOrStdout())
			at := make(map[string]position)
			if !watching {
				found, err := recall(ctx, dir, q, at)
				if perr := print(screen, found, asJSON); perr != nil {
					return perr
				}
				return err
			}
			return watch(ctx, historyEvery, func() error {
				// A daemon that is being restarted comes back.
				found, err := recall(ctx, dir, q, at)
				if code := cli.Code(err); err != nil && code != NotRunning {
					return err
				}
				return follow(screen, found, asJSON)
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON; with --watch one object a line")
	f.BoolVar(&watching, "watch", false, "go on with what comes, until interrupted")
	f.IntVar(&q.Limit, "limit", 20, "how many, at most, of each daemon (`number`, up to 100)")
	f.StringVar(&q.Peer, "peer", "", "only with this peer: a `name or address`")
	f.BoolVar(&q.Failed, "failed", false, "only those that failed")
	f.StringVar(&dir, "dir", defaultDir, "where the daemons' configuration is (`directory`)")
	return cmd
}

const historyEvery = time.Second

// recall asks both daemons for what comes after the positions, which it moves,
// and merges the answers by time. Those that can be had are returned also with an
// error.
func recall(ctx context.Context, dir string, q history.Query, at map[string]position) (found []outcome, err error) {
	for _, p := range programs {
		from := at[p.name]
		q.After, q.Instance = from.last, from.instance
		var a history.Answer
		state, aerr := p.ask(ctx, dir, "history", q, &a)
		switch state {
		case running:
			at[p.name] = position{a.Instance, a.Last}
		case unreachable:
			if ce, ok := errors.AsType[*control.Error](aerr); ok && ce.Hint != "" {
				aerr = cli.Hint(aerr, "%s", ce.Hint)
			}
			return found, aerr
		case notRunning:
			err = cli.Exit(NotRunning, cli.Hint(fmt.Errorf("%s is configured and does not run", p.name), "systemctl start %s", p.name))
		}
		for _, e := range a.Events {
			o := outcome{Daemon: p.name, Result: "failure", Event: e}
			if e.OK() {
				o.Result = "success"
			}
			found = append(found, o)
		}
	}
	slices.SortStableFunc(found, func(a, b outcome) int { return a.Time.Compare(b.Time) })
	return found, err
}

// print writes everything at once.
func print(screen cli.Screen, found []outcome, asJSON bool) error {
	if asJSON {
		return cli.JSON(screen.W, append([]outcome{}, found...))
	}
	if len(found) == 0 {
		return nil
	}
	rows := [][]cli.Cell{title("time", "daemon", "peer", "result", "reason", "took", "")}
	for _, o := range found {
		rows = append(rows, o.row())
	}
	return screen.Table(rows)
}

// follow writes what has come.
func follow(screen cli.Screen, found []outcome, asJSON bool) error {
	for _, o := range found {
		if asJSON {
			if err := json.NewEncoder(screen.W).Encode(o); err != nil {
				return err
			}
			continue
		}
		if err := screen.Table([][]cli.Cell{o.row()}); err != nil {
			return err
		}
	}
	return nil
}

func (o outcome) row() []cli.Cell {
	peer := o.PeerName
	if o.Peer.IsValid() {
		if peer != "" {
			peer += " (" + o.Peer.String() + ")"
		} else {
			peer = o.Peer.String()
		}
	}
	result := cli.Cell{Text: o.Result, Colour: cli.Green}
	if !o.OK() {
		result.Colour = cli.Red
	}
	took := fmt.Sprintf("%.1f ms", float64(o.Duration)/float64(time.Millisecond))
	return []cli.Cell{{Text: stamp(o.Time)}, {Text: o.Daemon}, {Text: peer}, result, {Text: o.Reason}, {Text: took}, {Text: o.Error}}
}
