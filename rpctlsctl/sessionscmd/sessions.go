// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessionscmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"rpctls/internal/config"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/rpctlsctl/cli"
)

// watchEvery is how often --watch looks again.
const watchEvery = 2 * time.Second

// New returns the command.
func New() *cobra.Command { return newCmd(system) }

func newCmd(h host) *cobra.Command {
	var dir string
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "sessions",
		Short: "list the TLS sessions of NFS on this host, or end some",
		Long: `List every TLS session of NFS that the kernel has, on the client's side and on
the server's: also those that began before a daemon did, and those of a daemon
that does not run. What the daemons know of them is added.`,
		Args: cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := h.needRoot(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
			defer stop()
			out, errs := cmd.OutOrStdout(), cmd.ErrOrStderr()
			if !watch {
				return h.show(ctx, dir, out, errs, asJSON, false)
			}
			return h.watch(ctx, dir, out, asJSON)
		},
	}
	cmd.PersistentFlags().StringVar(&dir, "runtime-dir", string(config.Defaults().RuntimeDirectory), "the daemons' `directory`, as in their configuration")
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs")
	cmd.Flags().BoolVar(&watch, "watch", false, "look again every two seconds, until interrupted")
	cmd.AddCommand(killCmd(h, &dir))
	return cmd
}

func (h host) needRoot() error {
	if !h.root() {
		return cli.Hint(errors.New("only root is told of all sessions"), "run it as root")
	}
	return nil
}

// show prints the sessions once.
func (h host) show(ctx context.Context, dir string, out, errs io.Writer, asJSON, line bool) error {
	l, err := h.list(ctx, dir)
	if err != nil {
		return err
	}
	defer l.close()
	if err := l.notes(errs); err != nil {
		return err
	}
	switch {
	case asJSON && line:
		return json.NewEncoder(out).Encode(append([]Entry{}, l.entries...))
	case asJSON:
		return cli.JSON(out, append([]Entry{}, l.entries...)) // an empty list, not null
	}
	return l.print(out)
}

// watch prints them again and again. An interrupt is how it ends.
func (h host) watch(ctx context.Context, dir string, out io.Writer, asJSON bool) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	file, ok := out.(*os.File)
	screen := ok && term.IsTerminal(int(file.Fd())) && !asJSON
	for {
		if screen {
			fmt.Fprint(out, "\x1b[H\x1b[2J")
		}
		if !asJSON {
			fmt.Fprintln(out, h.now().Format(time.DateTime))
		}
		// Notes would be repeated for ever.
		if err := h.show(ctx, dir, out, io.Discard, asJSON, true); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if !screen && !asJSON {
			fmt.Fprintln(out)
		}
	}
}

// notes say why something is not known.
func (l *listing) notes(w io.Writer) error {
	for _, name := range []string{"rpctlscd", "rpctlssd"} {
		if err := l.daemons[name].trouble; err != nil {
			fmt.Fprintf(w, "note: %s: %v\n", name, err)
		}
	}
	unknown := 0
	for _, e := range l.entries {
		if e.Daemon == "" {
			unknown++
		}
	}
	if unknown > 0 {
		fmt.Fprintf(w, "note: no daemon knows whose certificate %d of these sessions have: they are another program's, or older than what a daemon remembers\n", unknown)
	}
	return nil
}

// print writes the table.
func (l *listing) print(out io.Writer) error {
	if len(l.entries) == 0 {
		_, err := fmt.Fprintln(out, "no TLS session of NFS")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tROLE\tPEER\tCIPHER\tKTLS\tAGE\tIN\tOUT\tFINGERPRINT\tSET UP BY\tSUBJECT")
	for _, e := range l.entries {
		subject, fingerprint := e.subject()
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", e.ID, e.Role, e.peer(), e.Cipher, e.ktls(), e.age(l.now),
			size(e.BytesIn), size(e.BytesOut), fingerprint, dash(e.Daemon), subject)
	}
	return w.Flush()
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func killCmd(h host, dir *string) *cobra.Command {
	var q sessions.Selector
	cmd := &cobra.Command{
		Use:   "kill {ID ... | --peer NAME | --fingerprint SHA256}",
		Short: "end sessions",
		Long: `End sessions: their connections are reset, on both sides. A client whose mount
still lives connects again at once, and is judged by what the server's and its own
daemon then say; who shall stay away has to be refused there first.`,
		Example: "  rpctlsctl sessions kill 1f03\n  rpctlsctl sessions kill --peer client1.example.com",
		Args:    cli.Args(0, -1, "IDs"),
		RunE: func(cmd *cobra.Command, args []string) error {
			selectors, err := selected(q, args)
			if err != nil {
				return err
			}
			if err := h.needRoot(); err != nil {
				return err
			}
			return h.kill(*dir, selectors, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&q.Peer, "peer", "", "all with the peer of that `name`: address, name of a mount's server, name in its certificate")
	cmd.Flags().StringVar(&q.Fingerprint, "fingerprint", "", "all whose peer has that certificate: its `SHA-256`, or the first eight digits or more")
	return cmd
}

// selected is one way of saying which, or another.
func selected(q sessions.Selector, ids []string) (list []sessions.Selector, err error) {
	ways := 0
	for _, used := range []bool{len(ids) > 0, q.Peer != "", q.Fingerprint != ""} {
		if used {
			ways++
		}
	}
	if ways != 1 {
		return nil, cli.Usagef("want IDs, or --peer, or --fingerprint")
	}
	for _, id := range ids {
		list = append(list, sessions.Selector{ID: id})
	}
	if len(ids) == 0 {
		list = append(list, q)
	}
	for _, q := range list {
		if err := q.Check(); err != nil {
			return nil, cli.Usagef("%w", err)
		}
	}
	return list, nil
}

// kill ends what the selectors mean. It goes on after a failure.
func (h host) kill(dir string, selectors []sessions.Selector, out io.Writer) error {
	l, err := h.list(context.Background(), dir)
	if err != nil {
		return err
	}
	defer l.close()
	var failures []error
	for _, q := range selectors {
		found := false
		for _, e := range l.entries {
			if !q.Match(e.info()) {
				continue
			}
			found = true
			switch err := h.end(l, e); {
			case errors.Is(err, sockdiag.ErrGone):
				fmt.Fprintf(out, "has ended by itself: %s\n", e.info())
			case err != nil:
				failures = append(failures, fmt.Errorf("%s: %w", e.info(), err))
			default:
				fmt.Fprintf(out, "ended %s\n", e.info())
			}
		}
		if !found {
			failures = append(failures, cli.Hint(fmt.Errorf("no such session: %s", q.ID+q.Peer+q.Fingerprint), "rpctlsctl sessions lists them"))
		}
	}
	return errors.Join(failures...)
}

// end lets the daemon that has set the session up end it, so that its log tells; or
// does so itself.
func (h host) end(l *listing, e Entry) error {
	if d := l.daemons[e.Daemon]; d != nil && d.client != nil {
		err := d.end(e.ID)
		if err == nil || errors.Is(err, sockdiag.ErrGone) {
			return err
		}
		d.close() // it may have been stopped meanwhile
	}
	return h.destroy(e.socket)
}
