// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package lifecycle

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is a service manager's end of sd_notify.
func manager(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		b := make([]byte, 4096)
		n, err := c.Read(b)
		if err != nil {
			t.Fatalf("no notification: %v", err)
		}
		return string(b[:n])
	}
}

func untilDone(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func serve(d Daemon) <-chan error {
	d.Log = slog.New(slog.DiscardHandler)
	if d.Status == nil {
		d.Status = func() string { return "well" }
	}
	done := make(chan error, 1)
	go func() { done <- Serve(context.Background(), d) }()
	return done
}

func TestReadyMeansEveryTask(t *testing.T) {
	next := manager(t)
	first, second := make(chan struct{}), make(chan struct{})
	running, reloaded := make(chan struct{}), make(chan struct{}, 2)
	done := serve(Daemon{
		Tasks: []Task{
			NewReady("one", func(ctx context.Context) error { close(running); return untilDone(ctx) }, first),
			NewReady("two", untilDone, second),
		},
		Reload: func() { reloaded <- struct{}{} },
	})
	close(second)
	// Not ready yet: a reload now must not say READY. Serve catches signals
	// before it starts the tasks, so the running task means that it does.
	<-running
	unix.Kill(unix.Getpid(), unix.SIGHUP)
	<-reloaded
	if s := next(); !strings.HasPrefix(s, "RELOADING=1\n") {
		t.Fatalf("got %q", s)
	}
	close(first)
	if s := next(); s != "READY=1\nSTATUS=well" {
		t.Fatalf("got %q", s)
	}
	unix.Kill(unix.Getpid(), unix.SIGHUP)
	if s := next(); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=\d+$`).MatchString(s) {
		t.Errorf("got %q", s)
	}
	if s := next(); s != "READY=1\nSTATUS=well" {
		t.Errorf("got %q", s)
	}
	unix.Kill(unix.Getpid(), unix.SIGTERM)
	if s := next(); s != "STOPPING=1" {
		t.Errorf("got %q", s)
	}
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

func TestATaskThatFailsEndsTheOthersAndIsNamed(t *testing.T) {
	boom := errors.New("boom")
	ended := make(chan struct{})
	err := <-serve(Daemon{
		Tasks: []Task{
			New("bystander", func(ctx context.Context) error { defer close(ended); return untilDone(ctx) }),
			New("culprit", func(context.Context) error { return boom }),
		},
		Reload: func() {},
	})
	if !errors.Is(err, boom) || !strings.HasPrefix(err.Error(), "culprit: ") {
		t.Errorf("got %v", err)
	}
	<-ended
}

func TestWatchdog(t *testing.T) {
	next := manager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	done := serve(Daemon{Tasks: []Task{New("one", untilDone)}, Reload: func() {}})
	seen := 0
	for range 3 {
		if next() == "WATCHDOG=1" {
			seen++
		}
	}
	if seen < 2 {
		t.Errorf("%d of 3 notifications are the watchdog's", seen)
	}
	unix.Kill(unix.Getpid(), unix.SIGTERM)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestWatchdogOfADaemonThatIsStuck: that the process runs is not enough.
func TestWatchdogOfADaemonThatIsStuck(t *testing.T) {
	next := manager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	var asked atomic.Int32
	done := serve(Daemon{
		Tasks: []Task{New("one", untilDone)}, Reload: func() {},
		Alive: func(context.Context) error {
			if asked.Add(1) <= 3 {
				return errors.New("stuck")
			}
			return nil
		},
	})
	for next() != "WATCHDOG=1" {
	}
	if n := asked.Load(); n < 4 {
		t.Errorf("the watchdog heard that all is well after %d questions", n)
	}
	unix.Kill(unix.Getpid(), unix.SIGTERM)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
