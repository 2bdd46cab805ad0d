// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package statuscmd

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"rpctls/internal/config"
	"rpctls/internal/control"
)

// NotRunning is the exit code when a daemon that has a configuration does not run.
const NotRunning = 3

// patience is how long a daemon is waited for.
const patience = 3 * time.Second

// The states of a daemon.
const (
	running       = "running"
	notRunning    = "not running"
	notConfigured = "not configured"
	notInstalled  = "not installed"
	unreachable   = "unreachable"
)

// A program is a daemon that may be here.
type program struct {
	name string
	role string
	key  string // the one without which it does not start
}

var programs = []program{
	{"rpctlscd", "client", "trust"},
	{"rpctlssd", "server", "certificate"},
}

func (p program) configuration(dir string) string { return filepath.Join(dir, p.name+".toml") }

// ask asks one daemon one thing. The state is running exactly if err is nil.
func (p program) ask(ctx context.Context, dir, op string, args, result any) (state string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	path := p.configuration(dir)
	runtime, err := config.RuntimeDirectory(path)
	if errors.Is(err, fs.ErrPermission) {
		return unreachable, err // where to ask is not known
	}
	c, err := control.Dial(ctx, runtime, p.name)
	if err == nil {
		defer c.Close()
		if err = c.Call(op, args, result); err == nil {
			return running, nil
		}
	}
	if !errors.Is(err, control.ErrNotRunning) {
		return unreachable, err
	}
	if _, serr := os.Stat(path); errors.Is(serr, os.ErrNotExist) {
		return notInstalled, err
	}
	if !config.Sets(path, p.key) {
		return notConfigured, err
	}
	return notRunning, err
}

// watch calls f now and every so often, until it fails or ctx ends, which is how
// watching ends.
func watch(ctx context.Context, every time.Duration, f func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err := f(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
