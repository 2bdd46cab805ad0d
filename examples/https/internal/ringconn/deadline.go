// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

import (
	"sync"
	"time"
)

// A deadline is a channel that is closed when a time has come.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{}
	final bool // expire was called
}

func newDeadline() *deadline { return &deadline{over: make(chan struct{})} }

// wait returns what is closed when the time has come. A new time may mean a new
// channel: ask for each operation.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// set sets the time; zero is never. What waits already is told only if the new
// time comes before it ends.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.final {
		return
	}
	// A timer that has fired already may be about to close the channel.
	if d.timer != nil && !d.timer.Stop() {
		<-d.over
	}
	d.timer = nil
	closed := d.isOver()
	left := time.Until(t)
	if t.IsZero() || left > 0 {
		if closed {
			d.over = make(chan struct{})
		}
		if !t.IsZero() {
			over := d.over
			d.timer = time.AfterFunc(left, func() { close(over) })
		}
		return
	}
	if !closed {
		close(d.over)
	}
}

// expire lets the time come now and for good.
func (d *deadline) expire() {
	d.set(time.Unix(1, 0))
	d.mu.Lock()
	d.final = true
	d.mu.Unlock()
}

func (d *deadline) isOver() bool {
	select {
	case <-d.over:
		return true
	default:
		return false
	}
}
