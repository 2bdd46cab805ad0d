// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"rpctls/internal/logging"
)

// A Task is one part of a daemon.
type Task interface {
	// Run works until ctx ends, which is not an error, and returns when
	// everything it began has been finished.
	Run(ctx context.Context) error
	// Ready is closed when the task does what it is for.
	Ready() <-chan struct{}
	// String names the task in errors and logs.
	String() string
}

// New makes a Task of a function that is ready at once.
func New(name string, run func(context.Context) error) Task {
	ready := make(chan struct{})
	close(ready)
	return &task{name, run, ready}
}

// NewReady makes a Task of a function that is ready when ready is closed.
func NewReady(name string, run func(context.Context) error, ready <-chan struct{}) Task {
	return &task{name, run, ready}
}

type task struct {
	name  string
	run   func(context.Context) error
	ready <-chan struct{}
}

func (t *task) Run(ctx context.Context) error { return t.run(ctx) }
func (t *task) Ready() <-chan struct{}        { return t.ready }
func (t *task) String() string                { return t.name }

// A Daemon is what Serve runs.
type Daemon struct {
	Tasks []Task
	// Reload is called on SIGHUP, one call at a time. It keeps what was there
	// before when it fails, and says so itself.
	Reload func()
	// Status describes the daemon in one line when it is ready.
	Status func() string
	// Alive returns an error when the daemon does not do its work any more.
	// The service manager's watchdog hears of it by hearing nothing. Nil:
	// that the process runs is enough.
	Alive func(context.Context) error
	Log   *slog.Logger
}

// Serve runs d until SIGTERM or SIGINT, until ctx ends, or until a task fails,
// and returns when all tasks have. A second signal kills the process. The
// error, if any, names the task.
func Serve(ctx context.Context, d Daemon) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, ctx := errgroup.WithContext(ctx)
	// Signals are caught before anything begins.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	for _, t := range d.Tasks {
		group.Go(func() error {
			err := t.Run(ctx)
			if err == nil || errors.Is(err, context.Canceled) {
				return nil
			}
			if ctx.Err() != nil {
				// The first error is the one that Serve returns.
				d.Log.Error("error while stopping", "task", t.String(), "error", err)
			}
			return fmt.Errorf("%v: %w", t, err)
		})
	}
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				d.notify(daemon.SdNotifyStopping)
				return nil
			case s := <-signals:
				if s == unix.SIGHUP {
					d.reload()
					continue
				}
				d.Log.Info("stopping", "signal", s.String())
				// The next signal finds no handler.
				signal.Reset(unix.SIGTERM, unix.SIGINT)
				cancel()
			}
		}
	})
	group.Go(func() error {
		for _, t := range d.Tasks {
			select {
			case <-t.Ready():
			case <-ctx.Done():
				return nil
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		status := d.Status()
		d.Log.Info("ready", "status", status, logging.Started.Attr())
		d.notify(daemon.SdNotifyReady + "\nSTATUS=" + status)
		return watchdog(ctx, d)
	})
	return group.Wait()
}

// reload tells the service manager before and after (Type=notify-reload).
func (d *Daemon) reload() {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		d.Log.Error("read clock", "error", err)
	}
	d.notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, ts.Nano()/1000))
	d.Reload()
	if ready(d.Tasks) {
		d.notify(daemon.SdNotifyReady + "\nSTATUS=" + d.Status())
	}
}

// ready reports whether every task is ready now.
func ready(tasks []Task) bool {
	for _, t := range tasks {
		select {
		case <-t.Ready():
		default:
			return false
		}
	}
	return true
}

// watchdog says that we live, as often as the service manager wants to hear
// it, halved.
func watchdog(ctx context.Context, d Daemon) error {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil || every == 0 {
		return nil
	}
	tick := time.NewTicker(every / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := d.alive(ctx, every/4); err != nil {
				if ctx.Err() == nil {
					d.Log.Error("the watchdog is not told that all is well", "error", err)
				}
				continue
			}
			d.notify(daemon.SdNotifyWatchdog)
		}
	}
}

func (d *Daemon) alive(ctx context.Context, limit time.Duration) error {
	if d.Alive == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return d.Alive(ctx)
}

func (d *Daemon) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		d.Log.Warn("cannot notify the service manager", "error", err)
	}
}
