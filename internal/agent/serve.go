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
	if s.link, err = openLink(cfg.Log); err != nil {
		s.Close()
		return nil, err
	}
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
func openLink(log *slog.Logger) (*upcall.Link, error) {
	kept := fdstore.Take()
	fd, ok := kept[linkName]
	delete(kept, linkName)
	for name, other := range kept {
		log.Warn("the service manager passed a descriptor that is not ours", "name", name)
		unix.Close(other)
	}
	if !ok {
		fd = -1
	}
	link, err := upcall.Open(fd)
	if err != nil {
		return nil, err
	}
	socket, why := link.Notification()
	if why == nil {
		log.Debug("took over the last instance's socket")
		return link, nil
	}
	if ok {
		log.Warn("the socket that was kept is of no use", "error", why)
		if err := fdstore.Forget(linkName); err != nil {
			log.Warn("cannot have it forgotten", "error", err)
		}
	}
	if err := fdstore.Keep(linkName, socket); err != nil && !errors.Is(err, fdstore.ErrNoStore) {
		// It serves all the same; a restart will lose what comes meanwhile.
		log.Warn("cannot have the socket kept across restarts", "error", err)
	}
	return link, nil
}

// watchRivals makes what notices other programs in the kernel's group, and tells
// the sibling that we are none.
func (s *Service) watchRivals(dir string, role upcall.Role) (*rivals.Watcher, error) {
	socket, _ := s.link.Notification()
	ours, err := rivals.Inode(socket)
	if err != nil {
		return nil, err
	}
	if err := rivals.Record(s.lock, ours); err != nil {
		s.log.Warn("the other daemon will take this one for a stranger", "error", err)
	}
	sibling := lockPath(dir, upcall.Client)
	if role == upcall.Client {
		sibling = lockPath(dir, upcall.Server)
	}
	return &rivals.Watcher{
		Members: func() ([]rivals.Socket, error) { return rivals.Members(s.link.Group()) },
		Ours: func(member rivals.Socket) bool {
			if member.Inode == ours {
				return true
			}
			its, ok := rivals.Recorded(sibling)
			return ok && member.Inode == its
		},
		Log: s.log,
	}, nil
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
	return []lifecycle.Task{
		lifecycle.NewReady("accept requests", s.listen, s.Listener.Ready()),
		lifecycle.New("take hand-overs", s.handover.Run),
		lifecycle.New("look for rivals", s.rivals.Run),
	}
}

func (s *Service) listen(ctx context.Context) error {
	stop := context.AfterFunc(ctx, s.Agent.Stop)
	defer stop()
	return s.Listener.Run(ctx, s.Agent.Handle)
}

// report logs what happens beside requests.
func (s *Service) report(err error) {
	if r, ok := errors.AsType[*upcall.RefusedError](err); ok {
		s.log.Warn("request refused", "role", r.Attributes.Role, "peername", r.Attributes.PeerName,
			"auth", r.Attributes.AuthMode, "errno", ErrnoName(r.Status), "error", err, logging.RequestRefused.Attr())
		return
	}
	if _, ok := errors.AsType[*upcall.LostError](err); ok {
		s.log.Error("the kernel dropped a request", "error", err, logging.RequestLost.Attr())
		return
	}
	s.log.Warn("trouble beside requests", "error", err)
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
