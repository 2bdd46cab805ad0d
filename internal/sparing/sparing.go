// SPDX-License-Identifier: BSD-3-Clause

package sparing

import (
	"sync"
	"time"
)

// In each window so many events are let through of one source and kind, and so
// many of all.
const (
	Window    = 10 * time.Second
	PerSource = 5
	All       = 50
)

// A Limiter lets some events through and counts the others. Make one with
// [New].
type Limiter struct {
	report func(kind string, held int)

	mu    sync.Mutex
	open  bool // a window is
	all   int
	seen  map[[2]string]int
	helds map[string]int
}

// New returns a limiter that calls report, from a goroutine of its own, at the
// end of a window for each kind of which events were held back.
func New(report func(kind string, held int)) *Limiter {
	return &Limiter{report: report}
}

// Allow reports whether an event may be logged. The kinds are few; sources may
// be any number.
func (l *Limiter) Allow(source, kind string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.open {
		l.open, l.all = true, 0
		l.seen, l.helds = make(map[[2]string]int), make(map[string]int)
		time.AfterFunc(Window, l.end)
	}
	key := [2]string{source, kind}
	// What is let through bounds the map, too.
	if l.all >= All || l.seen[key] >= PerSource {
		l.helds[kind]++
		return false
	}
	l.all++
	l.seen[key]++
	return true
}

func (l *Limiter) end() {
	l.mu.Lock()
	helds := l.helds
	l.open, l.seen, l.helds = false, nil, nil
	l.mu.Unlock()
	for kind, n := range helds {
		l.report(kind, n)
	}
}
