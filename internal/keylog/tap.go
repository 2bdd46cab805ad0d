// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package keylog

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"rpctls/internal/control"
	"rpctls/internal/logging"
)

// bufferSize is room for some 350 handshakes between two calls for their lines. As
// base64 it fits into an answer of the control socket.
const bufferSize = 256 << 10

// lastCall is how long the lines are kept of a key log whose time is over, so that
// the last ones can be fetched.
const lastCall = 2 * time.Second

// Why a key log ended.
const (
	timeOver = "its time was over"
	stopped  = "it was stopped"
	hungUp   = "the connection ended that it was for"
)

// A Tap is where a daemon's secrets can be had. Make one with [New]. A nil Tap is
// off for ever.
type Tap struct {
	log    *slog.Logger
	settle func()
	on     atomic.Pointer[period] // nil: off

	mu     sync.Mutex // guards what follows
	count  uint64
	latest *period // on, or ended and not forgotten
}

// New returns a Tap that is off. Settle, if not nil, is called when a key log has
// ended, to give memory back in which secrets may be left.
func New(log *slog.Logger, settle func()) *Tap {
	if settle == nil {
		settle = func() {}
	}
	return &Tap{log: log, settle: settle}
}

// A period is one key log, from its beginning to its end.
type period struct {
	State
	timer *time.Timer // ends it, and later wipes what is left; Tap.mu

	mu      sync.Mutex // guards what follows
	buf     []byte     // of fixed capacity: growing would leave copies
	ended   string     // why; then nothing is added
	lines   uint64
	dropped uint64 // since the last take
	lost    uint64 // all that were dropped
}

// Sink returns where a handshake that begins now shall tell its secrets, line by
// line, or nil if nobody wants them. It can be called after the key log has ended.
func (t *Tap) Sink() func(line []byte) {
	if t == nil {
		return nil
	}
	p := t.on.Load()
	if p == nil {
		return nil
	}
	return p.add
}

// State describes the key log that is on; nil: none is.
func (t *Tap) State() *State {
	if t == nil {
		return nil
	}
	p := t.on.Load()
	if p == nil {
		return nil
	}
	s := p.State
	return &s
}

func (p *period) add(line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended != "":
	case len(p.buf)+len(line) > cap(p.buf):
		p.dropped++
		p.lost++
	default:
		p.buf = append(p.buf, line...)
		p.lines++
	}
}

// take returns what has come, and wipes it here.
func (p *period) take() Lines {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := Lines{Text: bytes.Clone(p.buf), Dropped: p.dropped, Ended: p.ended}
	clear(p.buf)
	p.buf, p.dropped = p.buf[:0], 0
	return l
}

func (p *period) wipe() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.buf[:cap(p.buf)])
	p.buf = p.buf[:0]
}

// errBusy: one at a time, so that whoever looks at status sees all there is.
var errBusy = &control.Error{Text: "a key log is on already", Hint: "rpctlsctl status says whose; rpctlsctl debug keylog --stop ends it"}

// begin turns the key log on, for a process.
func (t *Tap) begin(pid int32, d time.Duration) (*period, error) {
	if d < MinFor || d > MaxFor {
		return nil, &control.Error{Text: fmt.Sprintf("a key log lasts %v to %v", MinFor, MaxFor)}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.on.Load() != nil {
		return nil, errBusy
	}
	t.forget(t.latest)
	t.count++
	now := time.Now()
	p := &period{State: State{ID: t.count, PID: pid, Since: now.UTC(), Until: now.Add(d).UTC()}, buf: make([]byte, 0, bufferSize)}
	p.timer = time.AfterFunc(d, func() { t.end(p, timeOver) })
	t.latest = p
	t.log.Warn("KEY LOG ON: TLS secrets of all new connections are given to a process of root", "pid", pid, "until", p.Until.Format(time.RFC3339), "id", p.ID, logging.KeyLogBegan.Attr())
	t.on.Store(p)
	return p, nil
}

// end turns a key log off, if it is not yet, and reports whether it was on.
func (t *Tap) end(p *period, why string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.on.CompareAndSwap(p, nil)
	if was {
		p.mu.Lock()
		p.ended = why
		lines, lost := p.lines, p.lost
		p.mu.Unlock()
		t.log.Warn("key log off: secrets are given to nobody", "pid", p.PID, "because", why, "lines", lines, "dropped", lost, "id", p.ID, logging.KeyLogEnded.Attr())
		p.timer.Stop()
		p.timer = time.AfterFunc(lastCall, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			t.forget(p)
		})
	}
	if why == hungUp {
		t.forget(p)
	}
	return was
}

// forget wipes a key log that has ended; nil is none. The caller holds t.mu.
func (t *Tap) forget(p *period) {
	if p == nil || t.latest != p {
		return
	}
	p.timer.Stop()
	p.wipe()
	t.latest = nil
	go t.settle()
}

// Handlers are what a daemon answers about it on its control socket, to root and
// nobody else: not to the daemon's own user, as whom others may run as well.
func (t *Tap) Handlers() map[string]control.Handler {
	return map[string]control.Handler{
		OpBegin: rootOnly(control.Typed(func(_ context.Context, c *control.Call, a BeginArgs) (s State, err error) {
			err = c.Hold(func() (func(), error) {
				p, err := t.begin(c.Peer.Pid, a.For)
				if err != nil {
					return nil, err
				}
				s = p.State
				return func() { t.end(p, hungUp) }, nil
			})
			return s, err
		})),
		OpTake: rootOnly(control.Typed(func(_ context.Context, _ *control.Call, a TakeArgs) (Lines, error) {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.latest == nil || t.latest.ID != a.ID {
				return Lines{}, &control.Error{Text: fmt.Sprintf("there is no key log %d", a.ID)}
			}
			return t.latest.take(), nil
		})),
		OpStop: rootOnly(control.Typed(func(context.Context, *control.Call, struct{}) (Stopped, error) {
			p := t.on.Load()
			return Stopped{p != nil && t.end(p, stopped)}, nil
		})),
	}
}

func rootOnly(h control.Handler) control.Handler {
	return func(ctx context.Context, c *control.Call) (any, error) {
		if c.Peer.Uid != 0 {
			return nil, &control.Error{Text: "only root may ask for TLS secrets", Hint: "run it as root"}
		}
		return h(ctx, c)
	}
}
