// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rivals

import (
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"rpctls/internal/logging"
)

const (
	every = 30 * time.Second
	// again: one who is new is looked at a second time. Daemons that start
	// together are in the group before they have recorded their sockets, and a
	// restarted one without a service manager changes its socket.
	again = 2 * time.Second
)

// hint is for the log. The kernel does not tell a sandboxed daemon whose socket
// it is.
const hint = `if tlshd runs: systemctl disable --now tlshd; "ss -pA netlink" names the program`

// A Watcher looks for rivals.
type Watcher struct {
	// Members lists who is in the group.
	Members func() ([]Socket, error)
	// Ours reports whether a member is this daemon's or its sibling's.
	Ours func(Socket) bool
	Log  *slog.Logger

	seen atomic.Pointer[[]uint32]
}

// Seen returns the ports of those that were there at the last look, in order.
func (w *Watcher) Seen() []uint32 {
	if p := w.seen.Load(); p != nil {
		return *p
	}
	return nil
}

// Run looks until ctx ends and logs what changes.
func (w *Watcher) Run(ctx context.Context) error {
	var known []uint32
	failed := false
	for {
		now, err := w.rivals()
		if err == nil && !slices.Equal(now, known) && len(now) > 0 {
			if !sleep(ctx, again) {
				return nil
			}
			now, err = w.rivals()
		}
		switch {
		case err != nil:
			// One line: it will not work the next time either.
			if !failed {
				w.Log.Debug("cannot look for other programs that answer handshake requests", "error", err)
			}
		case slices.Equal(now, known):
		case len(now) == 0:
			w.Log.Info("no other program answers the kernel's handshake requests any more", logging.RivalGone.Attr())
			known = nil
		default:
			w.Log.Warn("another program answers the kernel's handshake requests, by its own rules", "netlink_port", now, "hint", hint, logging.RivalSeen.Attr())
			known = now
		}
		failed = err != nil
		if err == nil {
			w.seen.Store(&now)
		}
		if !sleep(ctx, every) {
			return nil
		}
	}
}

// rivals returns the ports of those that are not ours, in order.
func (w *Watcher) rivals() ([]uint32, error) {
	members, err := w.Members()
	if err != nil {
		return nil, err
	}
	var ports []uint32
	for _, m := range members {
		if !w.Ours(m) {
			ports = append(ports, m.Port)
		}
	}
	slices.Sort(ports)
	// The kernel lists members of groups twice: among all sockets, and among
	// those that are in a group (net/netlink/diag.c __netlink_diag_dump).
	return slices.Compact(ports), nil
}

// sleep reports whether it was long enough.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
