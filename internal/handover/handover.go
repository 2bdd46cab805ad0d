// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package handover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/upcall"
)

// Errors of Give.
var (
	// ErrNotInstalled: the sibling has never run here.
	ErrNotInstalled = errors.New("no such daemon on this host")
	// ErrNotAnswering: the sibling has run here, but did not take the request
	// in time.
	ErrNotAnswering = errors.New("the daemon is not answering")
)

// SocketPath is where the daemon for role listens, inside directory.
func SocketPath(directory string, role upcall.Role) string {
	return filepath.Join(directory, role.String()+".handover")
}

// DaemonName is the name of the daemon for role, for messages.
func DaemonName(role upcall.Role) string {
	if role == upcall.Client {
		return "rpctlscd"
	}
	return "rpctlssd"
}

// network is SOCK_SEQPACKET: one packet is one message, whole or not at all.
const network = "unixpacket"

// Times within one hand-over.
const (
	retryEvery   = 50 * time.Millisecond
	takerTimeout = 2 * time.Second // for the giver's packet, once connected
	margin       = 200 * time.Millisecond
	maxGivers    = 128 // connections served at once

	minLeft = 50 * time.Millisecond // for a request to be worth taking
	maxLeft = 24 * time.Hour
)

// Give hands the socket behind fd to the daemon for a.Role in directory. It
// returns nil when that daemon has taken the request; fd is then to be closed
// without DONE. It waits and tries again, while left and ctx allow, for a
// daemon that is restarting or busy.
func Give(ctx context.Context, directory string, fd int, a upcall.Attributes, left time.Duration) error {
	deadline := time.Now().Add(left - margin)
	path := SocketPath(directory, a.Role)
	for {
		err := giveOnce(path, fd, a, deadline)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("hand over to %s: %w", DaemonName(a.Role), ErrNotInstalled)
		case errors.Is(err, errRefused):
			return fmt.Errorf("hand over to %s: %w", DaemonName(a.Role), err)
		}
		if !time.Now().Add(retryEvery).Before(deadline) {
			return fmt.Errorf("hand over to %s: %w: %w", DaemonName(a.Role), ErrNotAnswering, err)
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
			return fmt.Errorf("hand over to %s: %w: %w", DaemonName(a.Role), ErrNotAnswering, ctx.Err())
		}
	}
}

var (
	errBusy    = errors.New("busy")
	errRefused = errors.New("refused")
	errTooLate = errors.New("too little time is left")
)

// giveOnce tries once. When its time is over it first makes sure that the taker
// cannot say "taken" any more, and then looks whether it has: the request has
// one owner also at the deadline.
func giveOnce(path string, fd int, a upcall.Attributes, deadline time.Time) error {
	conn, err := (&net.Dialer{Deadline: deadline}).Dial(network, path)
	if err != nil {
		return err
	}
	defer conn.Close()
	c := conn.(*net.UnixConn)
	if err := checkPeer(c); err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if err := c.SetDeadline(deadline); err != nil {
		return err
	}
	packet, err := request{Attributes: a, deadline: monotonic() + uint64(max(time.Until(deadline), 0))}.encode()
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if _, _, err := c.WriteMsgUnix(packet, unix.UnixRights(fd), nil); err != nil {
		return err
	}
	var b [answerLen + 1]byte
	n, err := c.Read(b[:])
	if err != nil {
		rerr := errors.Join(c.CloseWrite(), c.CloseRead(), c.SetReadDeadline(time.Time{}))
		if rerr != nil {
			return errors.Join(err, rerr)
		}
		// Shut down both ways: this returns what is queued, or the end.
		var last error
		if n, last = c.Read(b[:]); last != nil {
			return err
		}
	}
	switch v, err := decodeAnswer(b[:n]); {
	case err != nil:
		return fmt.Errorf("%w: %w", errRefused, err)
	case v == verdictTaken:
		return nil
	default:
		return errBusy
	}
}

// monotonic reads CLOCK_MONOTONIC, which both daemons share.
func monotonic() uint64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic("handover: no monotonic clock: " + err.Error()) // not on Linux
	}
	return uint64(ts.Nano())
}

// until returns the time left to a deadline on monotonic's clock: none if it has
// passed, at most maxLeft.
func until(deadline uint64) time.Duration {
	now := monotonic()
	if deadline <= now {
		return 0
	}
	return time.Duration(min(deadline-now, uint64(maxLeft)))
}

// checkPeer verifies that the other end runs as root or as we do
// (SO_PEERCRED: as it was when it connected or listened).
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(cerr, err); err != nil {
		return fmt.Errorf("peer credentials: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("peer runs as uid %d", cred.Uid)
	}
	return nil
}

// A Taker takes over a request; [upcall.Listener] is one.
type Taker interface {
	Adopt(fd int, a upcall.Attributes, left time.Duration, promise func() error) error
}

// A Server receives requests for one role.
type Server struct {
	role   upcall.Role
	taker  Taker
	report func(error)
	l      *net.UnixListener
	slots  chan struct{}
}

// Listen opens the socket of the daemon for role in directory, taking the
// place of whatever is there: the caller holds the directory's lock for the
// role. report is told of every refused or failed hand-over.
func Listen(directory string, role upcall.Role, taker Taker, report func(error)) (*Server, error) {
	path := SocketPath(directory, role)
	// Bound beside and renamed into place, so that there is no moment without
	// a socket file, which would read as "not installed".
	tmp := path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listen for hand-overs: %w", err)
	}
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: tmp, Net: network})
	if err != nil {
		return nil, fmt.Errorf("listen for hand-overs: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen for hand-overs: %w", err)
	}
	return &Server{role: role, taker: taker, report: report, l: l, slots: make(chan struct{}, maxGivers)}, nil
}

// Run serves until ctx ends. The socket file stays.
func (s *Server) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.l.Close() })
	defer stop()
	defer s.l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		s.slots <- struct{}{}
		c, err := s.l.AcceptUnix()
		if err != nil {
			<-s.slots
			if ctx.Err() != nil {
				return nil
			}
			// Out of descriptors: connections wait in the backlog.
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) {
				s.report(fmt.Errorf("accept hand-over: %w", err))
				select {
				case <-time.After(retryEvery):
					continue
				case <-ctx.Done():
					return nil
				}
			}
			return fmt.Errorf("accept hand-over: %w", err)
		}
		wg.Go(func() {
			defer func() { <-s.slots }()
			defer c.Close()
			if err := s.take(c); err != nil {
				s.report(fmt.Errorf("take hand-over: %w", err))
			}
		})
	}
}

// take serves one connection.
func (s *Server) take(c *net.UnixConn) error {
	if err := checkPeer(c); err != nil {
		return err
	}
	if err := c.SetDeadline(time.Now().Add(takerTimeout)); err != nil {
		return err
	}
	fd, r, err := receive(c)
	if errors.Is(err, io.EOF) {
		return nil // a giver that changed its mind, or a look whether we live
	}
	if err != nil {
		return err
	}
	if r.Role != s.role {
		unix.Close(fd)
		return fmt.Errorf("%w: it is for the %v", errPacket, r.Role)
	}
	left := until(r.deadline)
	if left < minLeft {
		unix.Close(fd)
		return fmt.Errorf("%w: %v", errTooLate, left)
	}
	err = s.taker.Adopt(fd, r.Attributes, left, func() error {
		_, err := c.Write(encodeAnswer(verdictTaken))
		return err
	})
	if errors.Is(err, upcall.ErrBusy) {
		_, err = c.Write(encodeAnswer(verdictBusy))
	}
	return err
}

// receive reads the giver's packet. On success the descriptor is the caller's.
func receive(c *net.UnixConn) (fd int, r request, err error) {
	var (
		b   [maxPacket + 1]byte
		oob [128]byte // room for more descriptors than one, so that none is lost track of
	)
	n, oobn, flags, _, err := c.ReadMsgUnix(b[:], oob[:])
	if err != nil {
		return -1, r, err
	}
	fds, err := rights(oob[:oobn])
	if err == nil && n == 0 && len(fds) == 0 {
		err = io.EOF
	}
	if err == nil && flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		err = fmt.Errorf("%w: too long", errPacket)
	}
	if err == nil {
		r, err = decode(b[:n])
	}
	if err == nil && len(fds) != 1 {
		err = fmt.Errorf("%w: %d descriptors", errPacket, len(fds))
	}
	if err != nil {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return -1, r, err
	}
	return fds[0], r, nil
}

// rights returns every descriptor in the control data, also beside an error.
func rights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control data", errPacket)
	}
	for i := range msgs {
		got, rerr := syscall.ParseUnixRights(&msgs[i])
		if rerr != nil {
			err = fmt.Errorf("%w: control data", errPacket)
			continue
		}
		fds = append(fds, got...)
	}
	return fds, err
}
