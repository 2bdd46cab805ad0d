// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package control

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a server. The kernel queues further connections. A host may mount all
// of its fstab at once.
const (
	MaxConns    = 256
	maxReleases = 8 // of one connection
)

// maxHeld is how many of so many connections may hold something: a tool that only
// wants to ask always finds a place.
func maxHeld(conns int) int { return conns - max(conns/16, 2) }

// How long a client may take for a line, and for reading one. Variables for
// tests.
var (
	lineTimeout = 10 * time.Second
	idleTimeout = 30 * time.Second
)

// A Call is a request being answered.
type Call struct {
	Peer unix.Ucred // who asks
	args []byte
	conn *serverConn
}

// A Handler answers one kind of request. The result is encoded as JSON. An
// error that is an *[Error] brings its hint along. Handlers are called from many
// goroutines at once, and do not wait for anything outside this host.
type Handler func(context.Context, *Call) (any, error)

// Typed makes a Handler of a function that takes the arguments decoded.
func Typed[A, R any](f func(context.Context, *Call, A) (R, error)) Handler {
	return func(ctx context.Context, c *Call) (any, error) {
		var args A
		if err := strict(c.args, &args); err != nil {
			return nil, fmt.Errorf("%w: args: %w", errSyntax, err)
		}
		return f(ctx, c, args)
	}
}

// ErrTooMany: as many connections hold something as may.
var ErrTooMany = &Error{Text: "too many mounts are in progress", Hint: "try again when some of them have ended"}

// Hold takes something for as long as the connection lives, and lets it live as
// long as its client: what the client was promised is valid until it hangs up, or
// dies. Take is called when there is room, and what it returns when the connection
// has ended. If take fails, nothing is held, and Hold returns its error.
func (c *Call) Hold(take func() (release func(), err error)) error {
	if len(c.conn.releases) == maxReleases {
		return ErrTooMany
	}
	if !c.conn.held {
		select {
		case c.conn.server.holders <- struct{}{}:
		default:
			return ErrTooMany
		}
	}
	taken := false
	defer func() { // also if take panics
		if !taken && !c.conn.held {
			<-c.conn.server.holders
		}
	}()
	release, err := take()
	if err != nil {
		return err
	}
	taken, c.conn.held = true, true
	c.conn.releases = append(c.conn.releases, release)
	return nil
}

// A Server answers requests. Make one with [Listen].
type Server struct {
	l        *net.UnixListener
	everyone bool // who may connect may ask
	handlers map[string]Handler
	report   func(error)
	slots    chan struct{}
	holders  chan struct{}
}

// Listen opens the socket of a daemon in directory, taking the place of whatever
// is there: the caller holds the directory's lock. It may have conns connections at
// a time, 3 to MaxConns. Report is told what went wrong beside answers.
func Listen(directory, daemon string, conns int, handlers map[string]Handler, report func(error)) (*Server, error) {
	l, err := listen(Path(directory, daemon), 0o600)
	if err != nil {
		return nil, err
	}
	return &Server{l: l, handlers: handlers, report: report, slots: make(chan struct{}, conns), holders: make(chan struct{}, maxHeld(conns))}, nil
}

// ListenGroup opens another socket, at path, for whoever may enter its directory
// and is of the file's group: not root's, and not the daemon's user. It has
// connections of its own, so that they cannot use up those of root, and handlers
// of its own, none of which may give away what is not for everybody, or hold
// anything. The directory's group becomes the socket's where it is set-group-ID,
// which needs no right to give files away.
func ListenGroup(path string, conns int, handlers map[string]Handler, report func(error)) (*Server, error) {
	l, err := listen(path, 0o660)
	if err != nil {
		return nil, err
	}
	return &Server{l: l, everyone: true, handlers: handlers, report: report, slots: make(chan struct{}, conns), holders: make(chan struct{})}, nil
}

func listen(path string, mode os.FileMode) (*net.UnixListener, error) {
	// Bound beside and renamed into place: it has its mode when it appears.
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, mode)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l, nil
}

// Close closes a server that Run was not called for.
func (s *Server) Close() error { return s.l.Close() }

// Run answers until ctx ends, and returns when every handler has. The socket's
// file stays: a client that finds it and nobody behind it knows that a daemon has
// been there.
func (s *Server) Run(ctx context.Context) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	stop := context.AfterFunc(ctx, func() { s.l.Close() })
	defer stop()
	defer s.l.Close()
	for {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		c, err := s.l.AcceptUnix()
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept: %w", err)
			}
			// Out of descriptors, most likely. It is no reason to end.
			s.report(fmt.Errorf("control socket: accept: %w", err))
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		conns.Go(func() {
			defer func() { <-s.slots }()
			s.serve(ctx, c)
		})
	}
}

// A serverConn is a connection; it belongs to its goroutine.
type serverConn struct {
	server   *Server
	held     bool
	releases []func()
}

// serve answers one connection's requests.
func (s *Server) serve(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	sc := &serverConn{server: s}
	defer func() {
		for _, release := range sc.releases {
			release()
		}
		if sc.held {
			<-s.holders
		}
	}()
	peer, err := peerOf(c)
	if err != nil {
		s.report(fmt.Errorf("control socket: %w", err))
		return
	}
	if !s.everyone && peer.Uid != 0 && int(peer.Uid) != os.Geteuid() {
		s.report(fmt.Errorf("control socket: refused uid %d (pid %d)", peer.Uid, peer.Pid))
		c.SetWriteDeadline(time.Now().Add(lineTimeout))
		c.Write(encodeAnswer(nil, &Error{Text: "only root may ask", Hint: "run it as root"}))
		return
	}
	r := bufio.NewReaderSize(c, MaxRequest+1)
	for {
		line, err := s.line(c, r, sc.held)
		if err != nil {
			if errors.Is(err, bufio.ErrBufferFull) {
				s.write(c, encodeAnswer(nil, &Error{Text: fmt.Sprintf("the request is over %d bytes", MaxRequest)}))
			}
			return
		}
		b := s.answer(ctx, &Call{Peer: peer, conn: sc}, line)
		ok := s.write(c, b)
		clear(b) // it may have been secret
		if !ok {
			return
		}
	}
}

// line reads a request. Once something is held, the client may be silent for as
// long as it lives; a line that has begun is to end soon in any case.
func (s *Server) line(c *net.UnixConn, r *bufio.Reader, held bool) ([]byte, error) {
	idle := time.Time{}
	if !held {
		idle = time.Now().Add(idleTimeout)
	}
	if err := c.SetReadDeadline(idle); err != nil {
		return nil, err
	}
	if _, err := r.Peek(1); err != nil {
		return nil, err
	}
	if err := c.SetReadDeadline(time.Now().Add(lineTimeout)); err != nil {
		return nil, err
	}
	return r.ReadSlice('\n')
}

func (s *Server) write(c *net.UnixConn, b []byte) bool {
	if c.SetWriteDeadline(time.Now().Add(lineTimeout)) != nil {
		return false
	}
	_, err := c.Write(b)
	return err == nil
}

// answer makes the answer to a line. A handler that panics is a defect, and an
// answer.
func (s *Server) answer(ctx context.Context, call *Call, line []byte) (b []byte) {
	defer func() {
		if p := recover(); p != nil {
			s.report(fmt.Errorf("control socket: panic: %v\n%s", p, debug.Stack()))
			b = encodeAnswer(nil, &Error{Text: "internal error; please report it"})
		}
	}()
	r, err := parseRequest(line)
	if err != nil {
		return encodeAnswer(nil, err)
	}
	h := s.handlers[r.Op]
	if h == nil {
		return encodeAnswer(nil, &Error{Text: fmt.Sprintf("unknown request %q", r.Op), Hint: "restart the daemon if it was upgraded"})
	}
	call.args = r.Args
	return encodeAnswer(h(ctx, call))
}

// peerOf returns who has connected (SO_PEERCRED: as it was then).
func peerOf(c *net.UnixConn) (unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(cerr, err); err != nil {
		return unix.Ucred{}, fmt.Errorf("peer credentials: %w", err)
	}
	return *cred, nil
}
