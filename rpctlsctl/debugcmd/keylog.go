// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package debugcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"rpctls/internal/config"
	"rpctls/internal/control"
	"rpctls/internal/keylog"
	"rpctls/rpctlsctl/cli"
)

// takeEvery is how often lines are fetched: soon enough for the daemon's buffer
// (some 350 handshakes) in any storm that a host of today can serve.
const takeEvery = 250 * time.Millisecond

const defaultFor = 10 * time.Minute

// daemons are whom --daemon means.
var daemons = map[string][]string{
	"both": {"rpctlscd", "rpctlssd"}, "client": {"rpctlscd"}, "server": {"rpctlssd"},
}

// New returns the command.
func New() *cobra.Command {
	return cli.Group("debug", "look inside, when nothing else helps", keylogCmd())
}

func keylogCmd() *cobra.Command {
	var k command
	var which string
	var stop bool
	cmd := &cobra.Command{
		Use:   "keylog {FILE | --stop}",
		Short: "write the TLS secrets of new connections into a file, for Wireshark",
		Long: `Write the secrets of every TLS connection that the daemons make from now on into
FILE, which must not exist, in the format that Wireshark reads (SSLKEYLOGFILE).
WHOEVER HAS THEM CAN READ THE TRAFFIC, then and later. It ends by itself, or when it
is interrupted; the daemons log both as a warning, and status shows it meanwhile.`,
		Example: "  rpctlsctl debug keylog --for 2m nfs.keys\n  rpctlsctl debug keylog --stop",
		Args:    cli.Args(0, 1, "FILE, or none with --stop"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var ok bool
			if k.names, ok = daemons[which]; !ok {
				return cli.Usagef("--daemon %q is none of both, client, server", which)
			}
			if stop != (len(args) == 0) || stop && cmd.Flags().Changed("for") {
				return cli.Usagef("want FILE, or --stop alone")
			}
			if k.last < keylog.MinFor || k.last > keylog.MaxFor {
				return cli.Usagef("--for %v: want %v to %v", k.last, keylog.MinFor, keylog.MaxFor)
			}
			ctx, cancel := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
			defer cancel()
			k.out, k.errs = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if stop {
				return k.stop(ctx)
			}
			return k.run(ctx, args[0])
		},
	}
	f := cmd.Flags()
	f.DurationVar(&k.last, "for", defaultFor, "end by itself after that `time`, 1s to 1h")
	f.StringVar(&which, "daemon", "both", "whose connections: those of the `role` client or server, or of both that run")
	f.BoolVar(&stop, "stop", false, "end a key log that is on, whoever has begun it")
	f.StringVar(&k.dir, "dir", "/etc/rpctls", "where the daemons' configuration is (`directory`)")
	return cmd
}

type command struct {
	dir       string
	names     []string // of the daemons
	last      time.Duration
	out, errs io.Writer
}

// A source is a daemon that may give secrets.
type source struct {
	name   string
	client *control.Client
	keylog.State
}

// dial connects to the daemons that run, of those that are wanted. There is one at
// least.
func (k *command) dial(ctx context.Context) (list []*source, err error) {
	defer func() {
		if err != nil {
			hangUp(list)
		}
	}()
	for _, name := range k.names {
		runtime, err := config.RuntimeDirectory(filepath.Join(k.dir, name+".toml"))
		if errors.Is(err, fs.ErrPermission) {
			return list, err // where to ask is not known
		}
		c, err := control.Dial(ctx, runtime, name)
		switch {
		case errors.Is(err, control.ErrNotRunning) && len(k.names) > 1:
		case err != nil:
			return list, cli.Hint(err, "systemctl status %s", name)
		default:
			list = append(list, &source{name: name, client: c})
		}
	}
	if len(list) == 0 {
		return nil, cli.Hint(errors.New("no daemon is running"), "systemctl start rpctlscd or rpctlssd")
	}
	return list, nil
}

func hangUp(list []*source) {
	for _, s := range list {
		s.client.Close()
	}
}

// answered adds a daemon's own hint to its error.
func (s *source) answered(err error) error {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return cli.Hint(fmt.Errorf("%s: %w", s.name, err), "%s", e.Hint)
	}
	return err // it names the daemon
}

// stop ends the key logs that are on.
func (k *command) stop(ctx context.Context) error {
	list, err := k.dial(ctx)
	if err != nil {
		return err
	}
	defer hangUp(list)
	for _, s := range list {
		var a keylog.Stopped
		if err := s.client.Call(keylog.OpStop, nil, &a); err != nil {
			return s.answered(err)
		}
		text := "no key log was on"
		if a.Stopped {
			text = "the key log is off"
		}
		if _, err := fmt.Fprintf(k.out, "%s: %s\n", s.name, text); err != nil {
			return err
		}
	}
	return nil
}

// create makes the file for the secrets: a new one, ours alone from the beginning.
// Whatever has that name, also a symbolic link to nowhere, is left alone.
func create(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil, cli.Hint(err, "secrets go into a new file only: choose another name")
	}
	return f, err
}

// run writes the key log.
func (k *command) run(ctx context.Context, path string) (err error) {
	sources, err := k.dial(ctx)
	if err != nil {
		return err
	}
	// The end of the connections ends the key log in any case.
	defer hangUp(sources)
	f, err := create(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = cerr
		}
	}()
	for _, s := range sources {
		if err := s.client.Call(keylog.OpBegin, keylog.BeginArgs{For: k.last}, &s.State); err != nil {
			discard(path, f)
			return s.answered(err)
		}
	}
	for _, s := range sources {
		fmt.Fprintf(k.errs, "%s: TLS secrets of new connections go to %s until %s; whoever has them can read the traffic\n", s.name, path, s.Until.Format(time.RFC3339))
	}
	return k.copy(ctx, sources, f)
}

// discard removes the file that has been created in vain, if it is still there.
func discard(path string, f *os.File) {
	there, err := os.Lstat(path)
	if err != nil {
		return
	}
	if ours, err := f.Stat(); err == nil && ours.Size() == 0 && os.SameFile(there, ours) {
		os.Remove(path)
	}
}

// copy fetches lines until every daemon has ended, or ctx. An interrupt is a way of
// ending; a daemon that goes away is none.
func (k *command) copy(ctx context.Context, sources []*source, w io.Writer) error {
	tick := time.NewTicker(takeEvery)
	defer tick.Stop()
	var failures []error
	handshakes, dropped := 0, uint64(0)
	for interrupted := false; len(sources) > 0 && !interrupted; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			interrupted = true // after the last lines
		}
		var on []*source
		for _, s := range sources {
			n, l, err := s.take(w)
			handshakes += n
			dropped += l.Dropped
			if err == nil && l.Ended == "" {
				on = append(on, s)
				continue
			}
			s.client.Close()
			if err != nil {
				failures = append(failures, err)
			} else {
				fmt.Fprintf(k.errs, "%s: the key log ended: %s\n", s.name, l.Ended)
			}
		}
		sources = on
	}
	fmt.Fprintf(k.out, "secrets of %d handshakes\n", handshakes)
	if dropped > 0 {
		failures = append(failures, fmt.Errorf("%d lines are missing: they came faster than they were fetched", dropped))
	}
	return errors.Join(failures...)
}

// take fetches what has come and writes it.
func (s *source) take(w io.Writer) (handshakes int, l keylog.Lines, err error) {
	if err := s.client.Call(keylog.OpTake, keylog.TakeArgs{ID: s.ID}, &l); err != nil {
		return 0, l, cli.Hint(fmt.Errorf("the key log has ended early: %w", err), "see its log: journalctl -u %s", s.name)
	}
	defer l.Wipe()
	_, handshakes, err = keylog.Check(l.Text)
	if err == nil {
		_, err = w.Write(l.Text)
	} else {
		err = fmt.Errorf("%s: %w", s.name, err)
	}
	return handshakes, l, err
}
