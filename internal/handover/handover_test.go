// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package handover

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"rpctls/upcall"
)

// fakeTaker stands for a listener.
type fakeTaker struct {
	busy  atomic.Int64 // how many more to turn away
	taken chan taken
	pause time.Duration // before it promises
}

type taken struct {
	upcall.Attributes
	left time.Duration
}

func (f *fakeTaker) Adopt(fd int, a upcall.Attributes, left time.Duration, promise func() error) error {
	defer unix.Close(fd)
	if f.busy.Add(-1) >= 0 {
		return upcall.ErrBusy
	}
	time.Sleep(f.pause)
	if err := promise(); err != nil {
		return err
	}
	f.taken <- taken{a, left}
	return nil
}

// serve runs the server's daemon on directory until stop is called.
func serve(t *testing.T, dir string, taker Taker) (stop func(), reports chan error) {
	t.Helper()
	reports = make(chan error, 100)
	s, err := Listen(dir, upcall.Server, taker, func(err error) { reports <- err })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop, reports
}

func attrs() upcall.Attributes { return upcall.Attributes{Role: upcall.Server, AuthMode: upcall.X509} }

// anyFD returns a descriptor to give away.
func anyFD(t *testing.T) int {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return int(f.Fd())
}

func newTaker() *fakeTaker { return &fakeTaker{taken: make(chan taken, 100)} }

func TestGive(t *testing.T) {
	dir, taker := t.TempDir(), newTaker()
	serve(t, dir, taker)
	if err := Give(t.Context(), dir, anyFD(t), attrs(), 4*time.Second); err != nil {
		t.Fatal(err)
	}
	got := <-taker.taken
	if diff := cmp.Diff(attrs(), got.Attributes); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got.left > 4*time.Second || got.left < 3*time.Second {
		t.Errorf("%v left of 4 s", got.left)
	}
	st, err := os.Stat(SocketPath(dir, upcall.Server))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", st, err)
	}
}

func TestNotInstalledFailsAtOnce(t *testing.T) {
	began := time.Now()
	err := Give(t.Context(), t.TempDir(), anyFD(t), attrs(), time.Hour)
	if !errors.Is(err, ErrNotInstalled) {
		t.Errorf("got %v", err)
	}
	if time.Since(began) > 10*time.Second {
		t.Error("it waited")
	}
}

func TestRestartingIsWaitedFor(t *testing.T) {
	dir, taker := t.TempDir(), newTaker()
	stop, _ := serve(t, dir, taker)
	stop()
	done := make(chan error, 1)
	fd := anyFD(t)
	go func() { done <- Give(t.Context(), dir, fd, attrs(), 20*time.Second) }()
	select {
	case err := <-done:
		t.Fatalf("ended without a taker: %v", err)
	case <-time.After(3 * retryEvery):
	}
	serve(t, dir, taker)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestNotAnsweringEndsInTime(t *testing.T) {
	dir := t.TempDir()
	stop, _ := serve(t, dir, newTaker())
	stop()
	if err := Give(t.Context(), dir, anyFD(t), attrs(), margin+3*retryEvery); !errors.Is(err, ErrNotAnswering) {
		t.Errorf("got %v", err)
	}
}

// A taker that promises just when the giver's time is over: either the one or
// the other owns the request, never both.
func TestOneOwnerAtTheDeadline(t *testing.T) {
	dir, taker := t.TempDir(), newTaker()
	const left = margin + 100*time.Millisecond
	taker.pause = left - margin
	stop, _ := serve(t, dir, taker)
	kept := 0
	const rounds = 40
	fd := anyFD(t)
	for range rounds {
		if Give(t.Context(), dir, fd, attrs(), left) != nil {
			kept++
		}
	}
	stop()
	if got := kept + len(taker.taken); got != rounds {
		t.Errorf("%d kept and %d taken of %d", kept, len(taker.taken), rounds)
	}
	t.Logf("%d kept, %d taken", kept, len(taker.taken))
}

func TestGiveEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	stop, _ := serve(t, dir, newTaker())
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if err := Give(ctx, dir, anyFD(t), attrs(), time.Hour); !errors.Is(err, ErrNotAnswering) || time.Since(began) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
}

func TestBusyIsTriedAgain(t *testing.T) {
	dir, taker := t.TempDir(), newTaker()
	taker.busy.Store(2)
	serve(t, dir, taker)
	if err := Give(t.Context(), dir, anyFD(t), attrs(), 20*time.Second); err != nil {
		t.Error(err)
	}
}

// A taker that got the packet and dies before it promised leaves the request
// with the giver, who tries the next one.
func TestTakerDiesBeforeItPromises(t *testing.T) {
	dir, taker := t.TempDir(), newTaker()
	path := SocketPath(dir, upcall.Server)
	l, err := net.ListenUnix(network, &net.UnixAddr{Name: path, Net: network})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	fd := anyFD(t)
	go func() { done <- Give(t.Context(), dir, fd, attrs(), 20*time.Second) }()
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	if fd, _, err := receive(c); err != nil {
		t.Fatal(err)
	} else {
		unix.Close(fd)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	c.Close()
	serve(t, dir, taker)
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-taker.taken
}

func TestBadPacketsAreRefused(t *testing.T) {
	good, err := request{Attributes: attrs()}.encode()
	if err != nil {
		t.Fatal(err)
	}
	wrong := request{Attributes: attrs()}
	wrong.Role = upcall.Client
	forClient, err := wrong.encode()
	if err != nil {
		t.Fatal(err)
	}
	fd := anyFD(t)
	for _, tt := range []struct {
		name   string
		packet []byte
		fds    []int
	}{
		{"no descriptor", good, nil},
		{"two descriptors", good, []int{fd, fd}},
		{"garbage", []byte("hello"), []int{fd}},
		{"for the other role", forClient, []int{fd}},
		{"too long", make([]byte, maxPacket+100), []int{fd}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, taker := t.TempDir(), newTaker()
			_, reports := serve(t, dir, taker)
			before := countFDs(t)
			c, err := net.DialUnix(network, nil, &net.UnixAddr{Name: SocketPath(dir, upcall.Server), Net: network})
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := c.WriteMsgUnix(tt.packet, unix.UnixRights(tt.fds...), nil); err != nil {
				t.Fatal(err)
			}
			if err := <-reports; !errors.Is(err, errPacket) {
				t.Errorf("report: %v", err)
			}
			c.Close()
			if len(taker.taken) > 0 {
				t.Error("it was taken")
			}
			for deadline := time.Now().Add(5 * time.Second); countFDs(t) > before; {
				if time.Now().After(deadline) {
					t.Fatal("a descriptor was left open")
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
}

func countFDs(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// There is no moment without a socket file while a daemon replaces another.
func TestListenReplacesInPlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "server.handover.new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop, _ := serve(t, dir, newTaker())
	stop()
	taker := newTaker()
	serve(t, dir, taker)
	if err := Give(t.Context(), dir, anyFD(t), attrs(), 5*time.Second); err != nil {
		t.Error(err)
	}
}
