// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"rpctls/integration/bench"
	"rpctls/rpc"
)

// load runs the clients until there is no more to do or ctx ends.
func (o *options) load(ctx context.Context) *bench.Load {
	var (
		mu   sync.Mutex
		sum  = &bench.Load{Clients: o.clients}
		next atomic.Int64
		wg   sync.WaitGroup
	)
	begin := time.Now()
	for client := range o.clients {
		wg.Go(func() {
			// Clients with a pace do not all begin at the same moment.
			at := begin.Add(o.interval * time.Duration(client) / time.Duration(o.clients))
			for {
				n := int(next.Add(1)) - 1
				if o.total > 0 && n >= o.total || !sleep(ctx, time.Until(at)) {
					return
				}
				if o.duration > 0 && time.Since(begin) >= o.duration {
					return
				}
				took, step, err := o.connection(ctx, n)
				mu.Lock()
				sum.Add(took, step, err)
				mu.Unlock()
				// What a slow one has missed is not made up for.
				if at = at.Add(o.interval); at.Before(time.Now()) {
					at = time.Now()
				}
			}
		})
	}
	wg.Wait()
	sum.Finish(time.Since(begin))
	return sum
}

// connection is the n-th of all: it returns the time from the first packet to
// the reply to the first call, or the step that failed.
func (o *options) connection(ctx context.Context, n int) (took time.Duration, step string, err error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	begin := time.Now()
	conn, err := o.dial(ctx, n)
	if err != nil {
		return 0, "connect", err
	}
	defer conn.Close()
	if err := rpc.Probe(ctx, conn, rpc.ProgramNFS, rpc.NFSVersion4); err != nil {
		return 0, "probe", err
	}
	session := tls.Client(conn, o.tls)
	if err := session.HandshakeContext(ctx); err != nil {
		return 0, "handshake", err
	}
	client := rpc.NewClient(session, rpc.Config{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4})
	defer client.Close()
	if err := client.Null(ctx); err != nil {
		return 0, "reply", err
	}
	return time.Since(begin), "", nil
}

func (o *options) dial(ctx context.Context, n int) (net.Conn, error) {
	var d net.Dialer
	if len(o.sources) > 0 {
		d.LocalAddr = o.sources[n%len(o.sources)]
	}
	return d.DialContext(ctx, "tcp", o.address)
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
