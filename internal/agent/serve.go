// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rpctls/internal/control"
	"rpctls/internal/fdstore"
	"rpctls/internal/handover"
	"rpctls/internal/lifecycle"
	"rpctls/internal/logging"
	"rpctls/internal/rivals"
	"rpctls/ktls"
	"rpctls/upcall"
)

// A Service is a whole daemon: the agent, its listener and its hand-over
// socket.
type Service struct {
	Agent    *Agent
	Listener *upcall.Listener
	// Questions is how many connections the control socket may have.
	Questions int

	link     *upcall.Link
	handover *handover.Server
	lock     *os.File
	rivals   *rivals.Watcher
	spaces   *Namespaces // nil: none but our own
	log      *slog.Logger
}

// Open makes the daemon for cfg.Role ready to run: it checks what the kernel
// can do, takes the runtime directory and joins the kernel's group. From then
// on the kernel counts on it: Open comes after everything else that can fail.
func Open(cfg Config) (*Service, error) {
	if err := checkKernel(cfg.Log); err != nil {
		return nil, err
	}
	s := &Service{Agent: New(cfg), log: cfg.Log}
	role := cfg.Role.Role()
	var err error
	if s.lock, err = takeDirectory(cfg.RuntimeDirectory, role); err != nil {
		return nil, err
	}
	kept := fdstore.Take()
	s.link, err = openLink(kept, cfg.Log)
	if err == nil {
		err = cfg.Namespaces.begin(s.Agent, s.lock, cfg.RuntimeDirectory, kept, cfg.Log)
	}
	forgetOthers(kept, cfg.Log)
	if err != nil {
		s.Close()
		return nil, err
	}
	s.spaces = cfg.Namespaces
	if s.rivals, err = s.watchRivals(cfg.RuntimeDirectory, role); err != nil {
		s.Close()
		return nil, err
	}
	var limit int
	if limit, s.Questions, err = divide(); err != nil {
		s.Close()
		return nil, err
	}
	s.Listener = upcall.NewListener(s.link, upcall.Config{Limit: limit, Report: s.report})
	if s.handover, err = handover.Listen(cfg.RuntimeDirectory, role, s.Listener, s.report); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close releases what Open took.
func (s *Service) Close() {
	s.spaces.close()
	if s.link != nil {
		s.link.Close()
	}
	if s.lock != nil {
		s.lock.Close()
	}
}

// linkName names the notification socket in the descriptor store.
const linkName = "handshake"

// openLink joins the kernel's group, with the socket that the service manager
// has kept from the last instance if there is one, and has ours kept for the
// next: while no daemon runs, requests queue in the kernel.
func openLink(kept map[string]int, log *slog.Logger) (*upcall.Link, error) {
	fd, ok := take(kept, linkName)
	link, err := upcall.Open(fd)
	if err != nil {
		return nil, err
	}
	keep(link, linkName, ok, log)
	return link, nil
}

// take takes a descriptor out of those that were kept; -1 if it was not.
func take(kept map[string]int, name string) (fd int, ok bool) {
	if fd, ok = kept[name]; !ok {
		return -1, false
	}
	delete(kept, name)
	return fd, true
}

// keep has a link's socket kept under a name, unless it is what was kept: ok says
// that something was.
func keep(link *upcall.Link, name string, ok bool, log *slog.Logger) {
	socket, why := link.Notification()
	if why == nil {
		log.Debug("took over the last instance's socket", "name", name)
		return
	}
	if ok {
		log.Warn("the socket that was kept is of no use", "name", name, "error", why)
		forget(name, log)
	}
	if err := fdstore.Keep(name, socket); err != nil && !errors.Is(err, fdstore.ErrNoStore) {
		// It serves all the same; a restart will lose what comes meanwhile.
		log.Warn("cannot have the socket kept across restarts", "name", name, "error", err)
	}
}

func forget(name string, log *slog.Logger) {
	if err := fdstore.Forget(name); err != nil && !errors.Is(err, fdstore.ErrNoStore) {
		log.Warn("cannot have a socket forgotten", "name", name, "error", err)
	}
}

// forgetOthers closes what was kept and nobody has taken: of network namespaces
// that are gone, which it would keep alive.
func forgetOthers(kept map[string]int, log *slog.Logger) {
	for name, fd := range kept {
		if strings.HasPrefix(name, spacePrefix) {
			log.Info("a socket was kept for a network namespace that is not served any more", "name", name)
			forget(name, log)
		} else {
			log.Warn("the service manager passed a descriptor that is not ours", "name", name)
		}
		unix.Close(fd)
	}
}

// watchRivals makes what notices other programs in the kernel's group, and tells
// the sibling that we are none.
func (s *Service) watchRivals(dir string, role upcall.Role) (*rivals.Watcher, error) {
	socket, _ := s.link.Notification()
	ours, err := rivals.Inode(socket)
	if err != nil {
		return nil, err
	}
	if s.spaces == nil { // else it records ours with its own
		if err := rivals.Record(s.lock, ours); err != nil {
			s.log.Warn("the other daemon will take this one for a stranger", "error", err)
		}
	} else {
		s.spaces.record(ours)
	}
	return newWatcher(s.link, ours, dir, role, s.log, func(f func() error) error { return f() }), nil
}

// newWatcher makes what looks for rivals of a link, in the namespace into which do
// goes.
func newWatcher(link *upcall.Link, ours uint32, dir string, role upcall.Role, log *slog.Logger, do func(func() error) error) *rivals.Watcher {
	sibling := lockPath(dir, upcall.Client)
	if role == upcall.Client {
		sibling = lockPath(dir, upcall.Server)
	}
	return &rivals.Watcher{
		Members: func() (list []rivals.Socket, err error) {
			err = do(func() (err error) { list, err = rivals.Members(link.Group()); return err })
			return list, err
		},
		Ours: func(member rivals.Socket) bool {
			return member.Inode == ours || slices.Contains(rivals.Recorded(sibling), member.Inode)
		},
		Log: log,
	}
}

// Rivals returns the netlink ports of other programs that answer the kernel.
func (s *Service) Rivals() []uint32 {
	if s.rivals == nil {
		return nil
	}
	return s.rivals.Seen()
}

// Tasks are the service's tasks.
func (s *Service) Tasks() []lifecycle.Task {
	tasks := []lifecycle.Task{
		lifecycle.NewReady("accept requests", s.listen, s.Listener.Ready()),
		lifecycle.New("take hand-overs", s.handover.Run),
		lifecycle.New("look for rivals", s.rivals.Run),
	}
	if s.spaces != nil {
		tasks = append(tasks, lifecycle.New("serve network namespaces", s.spaces.Run))
	}
	return tasks
}

// Stats returns the counts of all listeners.
func (s *Service) Stats() upcall.Stats { return plus(s.Listener.Stats(), s.spaces.stats()) }

// Ping reports whether all accepting threads come round.
func (s *Service) Ping(ctx context.Context) error {
	if err := s.Listener.Ping(ctx); err != nil {
		return err
	}
	return s.spaces.ping(ctx)
}

// Warnings say what is wrong with namespaces.
func (s *Service) Warnings() []string { return s.spaces.Warnings() }

// Namespaces are those that are served beside our own.
func (s *Service) Namespaces() []Served { return s.spaces.Served() }

func (s *Service) listen(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.Agent.Stop)
	defer stop()
	return s.Listener.Run(ctx, s.Agent.Handle)
}

// report logs what happens beside requests.
func (s *Service) report(err error) { report(s.log, err) }

func report(log *slog.Logger, err error) {
	if r, ok := errors.AsType[*upcall.RefusedError](err); ok {
		log.Warn("request refused", "role", r.Attributes.Role, "peername", r.Attributes.PeerName,
			"auth", r.Attributes.AuthMode, "errno", ErrnoName(r.Status), "error", err, logging.RequestRefused.Attr())
		return
	}
	if _, ok := errors.AsType[*upcall.LostError](err); ok {
		log.Error("the kernel dropped a request", "error", err, logging.RequestLost.Attr())
		return
	}
	log.Warn("trouble beside requests", "error", err)
}

// checkKernel tries the kernel's TLS and refuses to start without it: every
// handshake would end in an error.
func checkKernel(log *slog.Logger) error {
	caps, err := ktls.Probe()
	if errors.Is(err, unix.EAFNOSUPPORT) {
		// The unit's sandbox allows no connection, not even to this host.
		if err := ktls.Loaded(); err != nil {
			return fmt.Errorf("this kernel has no usable TLS: %w", err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if caps.ULP != nil {
		return fmt.Errorf("this kernel has no usable TLS: %w", caps.ULP)
	}
	usable := 0
	for _, c := range ktls.Ciphers() {
		if err := caps.Usable(c); err != nil {
			log.Warn("the kernel cannot do a cipher that a peer may choose", "cipher", c, "error", err)
			continue
		}
		usable++
	}
	if usable == 0 {
		return errors.New("this kernel's TLS can do none of the ciphers")
	}
	return nil
}

// takeDirectory makes sure that dir exists, belongs to us and is closed to
// others, and locks it for role: one daemon of a kind.
func takeDirectory(dir string, role upcall.Role) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("runtime directory: %w", err)
	}
	// Judged on a descriptor, and not through a link: whoever may write here
	// could put another socket or lock in our place.
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("runtime directory %s: %w", dir, err)
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	unix.Close(fd)
	if err != nil {
		return nil, fmt.Errorf("runtime directory %s: %w", dir, err)
	}
	if int(st.Uid) != os.Geteuid() && st.Uid != 0 {
		return nil, fmt.Errorf("runtime directory %s belongs to uid %d", dir, st.Uid)
	}
	if st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("runtime directory %s is writable by others (mode %04o): chmod 0750", dir, st.Mode&0o7777)
	}
	path := lockPath(dir, role)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("another %s is running here (%s is locked)", handover.DaemonName(role), path)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// lockPath is the lock of the daemon for role. It holds the number of its socket.
func lockPath(dir string, role upcall.Role) string {
	return filepath.Join(dir, handover.DaemonName(role)+".lock")
}

// What descriptors are for.
const (
	reservedFDs = 64  // for configuration, journal, sockets and the runtime, and for some who ask
	someAsk     = 8   // of those
	maxRequests = 512 // bounds memory: a handshake takes some 64 KiB
)

// divide derives from the limit of descriptors how many requests may be in
// progress, with one each and another while one is handed over, and how many
// connections the control socket may have: an eighth of what there is.
func divide() (requests, questions int, err error) {
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rl); err != nil {
		return 0, 0, os.NewSyscallError("getrlimit", err)
	}
	if rl.Cur < reservedFDs+2 {
		return 0, 0, fmt.Errorf("limit of open files is %d, at least %d are needed: raise LimitNOFILE", rl.Cur, reservedFDs+2)
	}
	free := rl.Cur - reservedFDs
	asking := min(free/8, control.MaxConns-someAsk)
	return int(min((free-asking)/2, maxRequests)), int(someAsk + asking), nil
}

// Of one network namespace: descriptors that are open all the time, and requests.
const (
	spaceFDs         = 6
	minSpaceRequests = 4
	maxSpaceRequests = 64
)

// divideSpaces derives how many requests of one further network namespace may be
// in progress from the descriptors that [divide] leaves: one that is attacked does
// not take those of others. Where none are left it is a few, and whoever finds no
// descriptor waits in the kernel.
func divideSpaces() (int, error) {
	var rl unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rl); err != nil {
		return 0, os.NewSyscallError("getrlimit", err)
	}
	requests, questions, err := divide()
	if err != nil {
		return 0, err
	}
	left := int(min(rl.Cur, 1<<20)) - reservedFDs - questions - 2*requests
	return min(max((left/maxSpaces-spaceFDs)/2, minSpaceRequests), maxSpaceRequests), nil
}

// What the collector of garbage may use: a handshake leaves 100 KiB behind, and
// with the runtime's own choice, twice what is live, every fortieth would pay
// for a collection. The limit is one that the runtime tries to keep.
const (
	gcPercent   = 400
	memoryLimit = 24 << 20
)

// spareProcessors are more of the Go scheduler's processors than there are real
// ones. No more handshakes compute at once than there are real ones, but a
// thread that has just been woken, or is about to wait, holds one, too, and on a
// busy machine may not run for a while.
const spareProcessors = 14

// SetRuntime lets the accepting thread always find a processor of the Go
// scheduler's, however many handshakes are in progress, and has garbage
// collected less often. What the environment says (GOGC, GOMEMLIMIT) goes first.
func SetRuntime() {
	runtime.GOMAXPROCS(runtime.NumCPU() + spareProcessors)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}
