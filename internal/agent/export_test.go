// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"rpctls/internal/netns"
	"rpctls/ktls"
	"rpctls/upcall"
)

// SetInstall replaces the hand-over of keys to the kernel, which not every
// kernel that runs unit tests can do, and returns a function that restores it.
func SetInstall(f func(*ktls.Session, syscall.Conn) error) (restore func()) {
	old := install
	install = f
	return func() { install = old }
}

// Begin is begin with another way to join the kernel's group.
func (s *Namespaces) Begin(a *Agent, lock *os.File, kept map[string]int, open func(*netns.Namespace, int) (*upcall.Link, error), log *slog.Logger) error {
	s.open = open
	return s.begin(a, lock, filepath.Dir(lock.Name()), kept, log)
}

// Look looks now.
func (s *Namespaces) Look() { s.look(nil) }

// Record, Stats and Ping are what a Service does with them.
func (s *Namespaces) Record(ours uint32)             { s.record(ours) }
func (s *Namespaces) Stats() upcall.Stats            { return s.stats() }
func (s *Namespaces) Ping(ctx context.Context) error { return s.ping(ctx) }

// StoreName is the name of a namespace's socket in the descriptor store.
func StoreName(cookie uint64) string { return storeName(cookie) }

// WaitForAlerts makes a client wait for a late alert as long as it may, and returns
// a function that restores the usual: on a busy machine a server is no quicker.
func WaitForAlerts() (restore func()) {
	old := minLateWait
	minLateWait = maxLateWait
	return func() { minLateWait = old }
}
