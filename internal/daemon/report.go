// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/control"
	"rpctls/internal/keylog"
	"rpctls/internal/metrics"
	"rpctls/internal/sessions"
	"rpctls/internal/status"
	"rpctls/internal/version"
)

// A ThreadCounter is a role that knows how many threads nfsd has.
type ThreadCounter interface{ Threads() (n int, ok bool) }

// A reporter answers "status" and "metrics". It is made before what it reports
// of: service is set before anything asks.
type reporter[C, S any] struct {
	program    Program[C, S]
	path       string // of the configuration
	since      time.Time
	live       *certs.Live[S]
	role       agent.Role
	handshakes *metrics.Handshakes
	reloads    metrics.Reloads
	last       atomic.Pointer[status.Reload]
	sessions   *sessions.Registry // nil: it remembers none
	service    *agent.Service
	keylog     *keylog.Tap
	// kernel is tried once, when it is asked for first: what a kernel can do
	// does not change, and connections are made for it where they may be.
	kernel func() status.Kernel
}

func newReporter[C, S any](p Program[C, S], path string, live *certs.Live[S], role agent.Role, living *sessions.Registry, log *slog.Logger) *reporter[C, S] {
	return &reporter[C, S]{
		program: p, path: path, since: time.Now(), live: live, role: role, sessions: living,
		handshakes: metrics.NewHandshakes(), keylog: keylog.New(log, forgetSecrets), kernel: sync.OnceValue(status.ProbeKernel),
	}
}

// forgetSecrets gives memory back in which encoders have left what they encoded.
// What is in a sync.Pool is garbage after the second collection only.
func forgetSecrets() {
	settle()
	settle()
}

// maxReloadError bounds what is kept of why a reload was refused.
const maxReloadError = 2048

// reloaded remembers what became of a reload.
func (r *reporter[C, S]) reloaded(t metrics.Trigger, err error) {
	r.reloads.Add(t, err)
	last := &status.Reload{Time: time.Now().UTC(), Trigger: t, OK: err == nil}
	if err != nil {
		last.Error = err.Error()
		last.Error = last.Error[:min(len(last.Error), maxReloadError)]
	}
	r.last.Store(last)
}

func (r *reporter[C, S]) upcalls() (u metrics.Upcalls, inProgress int) {
	s := r.service.Stats()
	return metrics.Upcalls{
		Announced: s.Announced, Accepted: s.Accepted, Adopted: s.Adopted, HandedOver: s.HandedOver,
		Refused: s.Refused, Lost: s.Lost, Overflows: s.Overflows,
	}, s.InProgress
}

// rivals counts those of all network namespaces.
func (r *reporter[C, S]) rivals() int {
	n := len(r.service.Rivals())
	for _, s := range r.service.Namespaces() {
		n += len(s.Rivals)
	}
	return n
}

func (r *reporter[C, S]) threads() *int {
	if c, ok := r.role.(ThreadCounter); ok {
		if n, ok := c.Threads(); ok {
			return &n
		}
	}
	return nil
}

// maxWarnings bounds the warnings in an answer.
const maxWarnings = 64

// Status is the answer to "status".
func (r *reporter[C, S]) Status() status.Daemon {
	now := time.Now()
	loaded := r.live.Get()
	upcalls, inProgress := r.upcalls()
	d := status.Daemon{
		Daemon: r.program.Name, Role: r.role.Role().String(), Version: version.String(), PID: os.Getpid(), Since: r.since.UTC(),
		Accept:        status.Accept{Scheduling: r.service.Listener.Scheduling(), Limit: r.service.Listener.Limit()},
		Handshakes:    status.Handshakes{InProgress: inProgress, HalfOpen: r.handshakes.HalfOpen()},
		Upcalls:       upcalls,
		Configuration: r.path, Generation: r.live.Generation(), Reload: r.last.Load(),
		Inventory: r.program.Inventory(loaded, now), Warnings: r.program.Warnings(loaded, now),
		Rivals: r.service.Rivals(), Kernel: r.kernel(), KeyLog: r.keylog.State(),
	}
	d.Handshakes.Count(r.handshakes.Counts())
	d.Kernel.Threads = r.threads()
	for _, n := range r.service.Namespaces() {
		d.Namespaces = append(d.Namespaces, status.Namespace{Name: n.Name, InProgress: n.InProgress, Limit: n.Limit, Rivals: n.Rivals})
	}
	d.Warnings = append(d.Warnings, r.service.Warnings()...)
	d.Warnings = d.Warnings[:min(len(d.Warnings), maxWarnings)]
	d.Fill()
	return d
}

// Metrics is the answer to "metrics".
func (r *reporter[C, S]) Metrics() metrics.Answer {
	upcalls, inProgress := r.upcalls()
	a := metrics.Answer{
		Role: r.role.Role().String(), Version: version.String(), Since: r.since.UTC(),
		Handshakes: r.handshakes.Counts(), Bounds: metrics.Bounds(), Durations: r.handshakes.Durations(),
		InProgress: inProgress, HalfOpen: r.handshakes.HalfOpen(), Limit: r.service.Listener.Limit(),
		Upcalls: upcalls, Reloads: r.reloads.Counts(), Rivals: r.rivals(), Threads: r.threads(),
		KeyLog: r.keylog.State() != nil,
	}
	a.Identities, a.CRLs = r.program.Inventory(r.live.Get(), time.Now()).Expiries()
	if r.sessions != nil {
		n := r.sessions.Count()
		a.Sessions = &n
	}
	return a
}

func (r *reporter[C, S]) metricsHandler() control.Handler {
	return control.Typed(func(context.Context, *control.Call, struct{}) (metrics.Answer, error) { return r.Metrics(), nil })
}

func (r *reporter[C, S]) statusHandler() control.Handler {
	return control.Typed(func(context.Context, *control.Call, struct{}) (status.Daemon, error) { return r.Status(), nil })
}

// exporterConns is how many connections the socket for metrics may have: one
// exporter's, two that overlap, and somebody who looks at it.
const exporterConns = 4

// listenExporter opens the socket for metrics, if its directory is there: a
// package makes it for the exporter's group. Nothing depends on it.
func (r *reporter[C, S]) listenExporter(runtime string, log *slog.Logger) *control.Server {
	dir := metrics.Directory(runtime)
	err := checkExporterDirectory(dir)
	if errors.Is(err, fs.ErrNotExist) {
		log.Debug("no directory for the exporter", "directory", dir)
		return nil
	}
	var server *control.Server
	if err == nil {
		server, err = control.ListenGroup(metrics.Path(dir, r.program.Name), exporterConns,
			map[string]control.Handler{metrics.Op: r.metricsHandler()}, func(err error) { log.Warn("trouble with the exporter's socket", "error", err) })
	}
	if err != nil {
		log.Warn("the exporter cannot ask this daemon", "error", err)
		return nil
	}
	return server
}

// checkExporterDirectory: whoever may write there could put another socket in
// our place.
func checkExporterDirectory(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case st.Uid != 0 && int(st.Uid) != os.Geteuid():
		return fmt.Errorf("%s belongs to uid %d", dir, st.Uid)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s is writable by others (mode %04o): chmod 2750", dir, info.Mode().Perm())
	}
	return nil
}
