// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"math/rand/v2"
	"sync"
	"time"
)

// The pace of failures. The kernel's NFS client tries again at once, with a
// new connection, probe and request, when it hears ETIMEDOUT
// (net/sunrpc/xprtsock.c): the only pause is the one made here.
const (
	paceFirst  = 250 * time.Millisecond
	paceMax    = 8 * time.Second // below the kernel's patience of 10 s
	paceForget = time.Minute     // without a failure
	paceHosts  = 1024            // servers remembered
)

// pace remembers how often in a row each server failed.
type pace struct {
	mu    sync.Mutex // guards hosts
	hosts map[string]failures
	now   func() time.Time
}

type failures struct {
	count int
	last  time.Time
}

func newPace() *pace { return &pace{hosts: make(map[string]failures), now: time.Now} }

// next counts a failure and returns how long to wait before reporting it:
// doubling from paceFirst to paceMax, with a quarter of it left to chance so
// that clients of one server do not come back in step.
func (p *pace) next(host string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	f := p.hosts[host]
	if now.Sub(f.last) > paceForget {
		f.count = 0
	}
	if len(p.hosts) >= paceHosts {
		p.forget(now)
	}
	d := min(paceFirst<<min(f.count, 10), paceMax)
	p.hosts[host] = failures{f.count + 1, now}
	return d - rand.N(d/4)
}

// forget drops what is old, or everything if nothing is: a pace that starts
// anew is a small loss.
func (p *pace) forget(now time.Time) {
	for h, f := range p.hosts {
		if now.Sub(f.last) > paceForget {
			delete(p.hosts, h)
		}
	}
	if len(p.hosts) >= paceHosts {
		clear(p.hosts)
	}
}

// reset forgets a server's failures.
func (p *pace) reset(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.hosts, host)
}
