// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/config"
	"rpctls/internal/control"
	"rpctls/internal/history"
	"rpctls/internal/lifecycle"
	"rpctls/internal/logging"
	"rpctls/internal/metrics"
	"rpctls/internal/netns"
	"rpctls/internal/sessions"
	"rpctls/internal/status"
	"rpctls/internal/version"
)

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1 // it could not start, or stopped because of an error
	exitUsage   = 2 // the command line is wrong
)

// watchEvery is how often the files that a daemon has loaded are looked at: a CRL
// that arrives has ended the sessions of whoever it revokes within two seconds. A
// look costs three system calls for each file, some 0.1 ms for all
// (BenchmarkChanged of certs).
const watchEvery = 500 * time.Millisecond

// warnEvery is how often it is said again what will soon be wrong: certificates
// and CRLs run out without a file changing.
const warnEvery = 24 * time.Hour

// A Program is a daemon: C is its configuration, S what it has loaded from the
// files that the configuration names.
type Program[C, S any] struct {
	Name  string // "rpctlscd"
	About string // one line
	// Load reads the configuration at a path.
	Load func(path string) (C, error)
	// Settings returns the common part of a configuration.
	Settings func(C) config.Settings
	// Build loads the files that a configuration names.
	Build func(C, *certs.Files) (*S, error)
	// Warnings says what will soon be, or already is, wrong with S.
	Warnings func(*S, time.Time) []string
	// Inventory describes S, for whoever asks.
	Inventory func(*S, time.Time) status.Inventory
	// Role makes the daemon's role on top of what is loaded. If it has tasks
	// of its own, it is a [Tasker], and if it answers questions of its own, a
	// [Controller].
	Role func(C, *certs.Live[S], *slog.Logger) (agent.Role, error)
}

// A Tasker is a role that does something beside requests.
type Tasker interface{ Tasks() []lifecycle.Task }

// A Controller is a role that answers more on the control socket than every
// daemon does.
type Controller interface {
	Control() map[string]control.Handler
}

// A Namespaced is a role that serves several network namespaces: it is told which,
// if the configuration names any.
type Namespaced interface{ UseNamespaces(*netns.Set) }

// Main runs the program with the arguments after its name and returns the
// exit code.
func (p Program[C, S]) Main(args []string) int {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	path := flags.String("config", "/etc/rpctls/"+p.Name+".toml", "")
	check := flags.Bool("check", false, "")
	user := flags.String("user", User, "")
	showVersion := flags.Bool("version", false, "")
	if err := flags.Parse(args); err != nil {
		if err == flag.ErrHelp {
			p.usage(os.Stdout)
			return exitOK
		}
		fmt.Fprintf(os.Stderr, "%s: %v\nhint: %s -help\n", p.Name, err, p.Name)
		return exitUsage
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "%s: unexpected argument %q\nhint: %s -help\n", p.Name, flags.Arg(0), p.Name)
		return exitUsage
	}
	if *showVersion {
		fmt.Println(p.Name, version.String())
		return exitOK
	}
	var err error
	if *check {
		err = p.check(*path, *user)
	} else {
		err = p.run(*path)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", p.Name, err)
		return exitFailure
	}
	return exitOK
}

func (p Program[C, S]) usage(w io.Writer) {
	fmt.Fprintf(w, `%[1]s: %[2]s

usage: %[1]s [-config FILE]
       %[1]s -check [-config FILE] [-user NAME]
       %[1]s -version

  -config FILE  configuration (default /etc/rpctls/%[1]s.toml, with the drop-ins
                *.toml in a directory of that name ending in .d)
  -check        read the configuration and every file it names, and exit:
                0 if all is well, 1 with a message that says where it is not
  -user NAME    as root, check as the user that the daemon will be (default
                %[3]s, if there is one), who may not read what root may
  -version      print the version and exit

SIGHUP reads everything again; certificates that change are noticed without.
SIGTERM finishes what is in progress. Needs CAP_NET_ADMIN.
`, p.Name, p.About, User)
}

// check loads everything once, as the daemon would.
func (p Program[C, S]) check(path, user string) error {
	as, err := become(user)
	if err != nil {
		return err
	}
	if err := p.checkAs(path); err != nil {
		return fmt.Errorf("%s%w", as, err)
	}
	fmt.Printf("%s: %s: %sok\n", p.Name, path, as)
	return nil
}

func (p Program[C, S]) checkAs(path string) error {
	c, err := p.Load(path)
	if err != nil {
		return err
	}
	live, err := certs.NewLive(p.builder(c))
	if err != nil {
		return err
	}
	for _, w := range append(p.Warnings(live.Get(), time.Now()), p.checkNamespaces(c)...) {
		fmt.Fprintf(os.Stderr, "%s: warning: %s\n", p.Name, w)
	}
	return nil
}

func (p Program[C, S]) builder(c C) func(*certs.Files) (*S, error) {
	return func(f *certs.Files) (*S, error) { return p.Build(c, f) }
}

// run is the daemon.
func (p Program[C, S]) run(path string) error {
	if err := harden(); err != nil {
		return err
	}
	smallPages()
	log, level := logging.New(p.Name)
	c, err := p.Load(path)
	if err != nil {
		return err
	}
	settings := p.Settings(c)
	level.Set(settings.LogLevel)
	live, err := certs.NewLive(p.builder(c))
	if err != nil {
		return err
	}
	p.warn(log, live.Get())
	agent.SetRuntime()
	role, err := p.Role(c, live, log)
	if err != nil {
		return err
	}
	spaces, err := namespaces(settings, log)
	if err != nil {
		return err
	}
	if n, ok := role.(Namespaced); ok && spaces != nil {
		n.UseNamespaces(spaces.Set())
	}
	past := history.New()
	living := p.registry(role, live, settings, spaces.Set(), log)
	report := newReporter(p, path, live, role, living, log)
	service, err := agent.Open(agent.Config{
		Role:             role,
		RuntimeDirectory: string(settings.RuntimeDirectory),
		Log:              log,
		History:          past,
		Sessions:         living,
		Generation:       live.Generation,
		Metrics:          report.handshakes,
		Namespaces:       spaces,
		KeyLog:           report.keylog,
	})
	if err != nil {
		return err
	}
	defer service.Close()
	report.service = service
	// After Open, which has locked the directory: sessions and the socket take the
	// place of an earlier instance's.
	living.Load()
	defer living.Close()
	living.Renew(live.Generation())
	server, err := control.Listen(string(settings.RuntimeDirectory), p.Name, service.Questions, p.handlers(role, past, living, report), func(err error) {
		log.Warn("trouble beside requests", "error", err)
	})
	if err != nil {
		// Handshakes come first, and nobody would be asked anything.
		log.Error("cannot be asked anything: no history, no choice of identities for mounts", "error", err)
	}
	exporter := report.listenExporter(string(settings.RuntimeDirectory), log)
	watch := lifecycle.New("watch files", func(ctx context.Context) error {
		return live.Watch(ctx, watchEvery, func(err error) {
			report.reloaded(metrics.Files, err)
			if err != nil {
				log.Error("changed files are bad; keeping what was loaded before", "error", err, logging.FilesRefused.Attr())
				return
			}
			log.Info("changed files loaded", "generation", live.Generation(), logging.FilesLoaded.Attr())
			living.Renew(live.Generation())
			p.warn(log, live.Get())
			settle()
		})
	})
	tidy := lifecycle.New("give memory back", func(ctx context.Context) error {
		select {
		case <-service.Listener.Ready():
			settle()
		case <-ctx.Done():
		}
		return nil
	})
	tasks := append(service.Tasks(), watch, tidy, p.reminder(live, log),
		lifecycle.New("remember sessions", living.Write), lifecycle.New("judge sessions again", living.JudgeAgain))
	if server != nil {
		tasks = append(tasks, lifecycle.New("answer questions", server.Run))
	}
	if exporter != nil {
		tasks = append(tasks, lifecycle.New("answer the exporter", exporter.Run))
	}
	if t, ok := role.(Tasker); ok {
		tasks = append(tasks, t.Tasks()...)
	}
	err = lifecycle.Serve(context.Background(), lifecycle.Daemon{
		Tasks: tasks,
		Reload: func() {
			next, err := p.Load(path)
			if err == nil {
				err = live.Replace(p.builder(next))
			}
			report.reloaded(metrics.Signal, err)
			if err != nil {
				log.Error("reload refused; keeping what was loaded before", "error", err, logging.ReloadRefused.Attr())
				return
			}
			s := p.Settings(next)
			level.Set(s.LogLevel)
			if s.RuntimeDirectory != settings.RuntimeDirectory {
				log.Warn("runtime_directory changes at the next start only", "in use", settings.RuntimeDirectory)
			}
			changeNamespaces(spaces, s, log)
			log.Info("reloaded", "generation", live.Generation(), logging.ReloadOK.Attr())
			living.Renew(live.Generation())
			p.warn(log, live.Get())
			settle()
		},
		Status: func() string {
			return fmt.Sprintf("serving, accept thread at %s, at most %d requests at once", service.Listener.Scheduling(), service.Listener.Limit())
		},
		Alive: service.Ping,
		Log:   log,
	})
	if err != nil {
		log.Error("stopped", "error", err, logging.Stopped.Attr())
	} else {
		log.Info("stopped", logging.Stopped.Attr())
	}
	return err
}

// handlers are what the daemon answers on its control socket.
func (p Program[C, S]) handlers(role agent.Role, past *history.Log, living *sessions.Registry, report *reporter[C, S]) map[string]control.Handler {
	handlers := map[string]control.Handler{
		status.Op:  report.statusHandler(),
		metrics.Op: report.metricsHandler(),
		"history": control.Typed(func(_ context.Context, _ *control.Call, q history.Query) (history.Answer, error) {
			return past.Ask(q), nil
		}),
	}
	maps.Copy(handlers, living.Handlers())
	maps.Copy(handlers, report.keylog.Handlers())
	if c, ok := role.(Controller); ok {
		maps.Copy(handlers, c.Control())
	}
	return handlers
}

// reminder is the task that warns every day.
func (p Program[C, S]) reminder(live *certs.Live[S], log *slog.Logger) lifecycle.Task {
	return lifecycle.New("warn every day", func(ctx context.Context) error {
		day := time.NewTicker(warnEvery)
		defer day.Stop()
		for {
			select {
			case <-day.C:
				p.warn(log, live.Get())
			case <-ctx.Done():
				return nil
			}
		}
	})
}

func (p Program[C, S]) warn(log *slog.Logger, s *S) {
	for _, w := range p.Warnings(s, time.Now()) {
		log.Warn(w, logging.Expiring.Attr())
	}
}

// settle gives back what loading has left: trust bundles and CRLs are parsed
// from far more memory than is kept of them, and garbage is collected so rarely
// that an idle daemon would keep it for ever.
func settle() { debug.FreeOSMemory() }

// smallPages keeps the kernel from making every touch of the heap 2 MiB: what
// is given back would be there again, and a daemon's heap is hardly larger. That
// costs memory and nothing else, so it may fail.
func smallPages() { _ = unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0) }

// harden keeps keys out of core dumps and away from a debugger of the same
// user.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_DUMPABLE", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return os.NewSyscallError("setrlimit RLIMIT_CORE", err)
	}
	return nil
}
