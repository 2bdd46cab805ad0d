// SPDX-License-Identifier: BSD-3-Clause

package history

import (
	"crypto/rand"
	"net/netip"
	"sync"
	"time"

	"rpctls/internal/names"
)

// size is how many handshakes are remembered. With their texts, which are
// bounded by whoever adds them, they take less than 1 MiB.
const size = 1024

// An Event is what became of one handshake. It is part of the answer to
// "history" on the control socket.
type Event struct {
	// Number counts events from 1, in the order in which they were added.
	Number   uint64         `json:"number"`
	Time     time.Time      `json:"time"`                // when the kernel was told
	Role     string         `json:"role"`                // "client" or "server"
	PeerName string         `json:"peer_name,omitempty"` // the name that the mount uses; empty for servers
	Peer     netip.AddrPort `json:"peer"`                // "" if the connection was gone
	Mutual   bool           `json:"mutual"`              // the mount wants both sides to show a certificate; on servers: both did
	Reason   string         `json:"reason"`
	Errno    string         `json:"errno"` // what the kernel was told, "0" for success
	Error    string         `json:"error,omitempty"`
	Hint     string         `json:"hint,omitempty"`
	Duration time.Duration  `json:"duration_ns"`
	// Namespace is the name of the network namespace; empty for the daemon's own.
	Namespace string `json:"namespace,omitempty"`
}

// OK reports whether the handshake succeeded.
func (e Event) OK() bool { return e.Error == "" }

// A Query chooses events: the arguments of "history" on the control socket.
type Query struct {
	// After leaves out events up to that number, if Instance says that they
	// are this log's.
	After    uint64 `json:"after,omitempty"`
	Instance string `json:"instance,omitempty"`
	// Peer, if not empty, is the name or the address of the peer.
	Peer string `json:"peer,omitempty"`
	// Failed leaves out what succeeded.
	Failed bool `json:"failed,omitempty"`
	// Since leaves out what is older.
	Since time.Time `json:"since,omitzero"`
	// Limit is how many events are returned at most, the latest; not more than
	// MaxEvents. 0 asks for the position only.
	Limit int `json:"limit,omitempty"`
}

// MaxEvents bounds an answer, so that it fits into a line of the control socket.
const MaxEvents = 100

// An Answer is what "history" is answered: the events, the oldest first, and
// the position behind them.
type Answer struct {
	Instance string  `json:"instance"`
	Last     uint64  `json:"last"`
	Events   []Event `json:"events,omitempty"`
}

// Ask answers a query.
func (l *Log) Ask(q Query) Answer {
	q.Limit = min(q.Limit, MaxEvents)
	// The position first: what comes meanwhile is told twice rather than never.
	instance, last := l.Position()
	return Answer{instance, last, l.Events(q)}
}

// A Log remembers events. Make one with [New]. A nil Log remembers nothing.
type Log struct {
	instance string

	mu   sync.Mutex // guards what follows; held for a copy
	ring [size]Event
	last uint64 // number of the latest event
}

// New returns an empty log.
func New() *Log { return &Log{instance: rand.Text()} }

// Add remembers an event and gives it its number.
func (l *Log) Add(e Event) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	e.Number = l.last
	l.ring[l.last%size] = e
}

// Position returns what a Query needs to leave out everything until now. The
// instance differs between two runs of a daemon, whose numbers begin anew.
func (l *Log) Position() (instance string, last uint64) {
	if l == nil {
		return "", 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.instance, l.last
}

// Events returns the events that the query chooses, the oldest first.
func (l *Log) Events(q Query) []Event {
	if l == nil || q.Limit <= 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := uint64(1)
	if l.last > size {
		oldest = l.last - size + 1
	}
	if q.Instance == l.instance && q.After >= oldest {
		oldest = q.After + 1
	}
	// From the latest backwards, so that the limit leaves out the oldest.
	var found []Event
	for n := l.last; n >= oldest && n > 0 && len(found) < q.Limit; n-- {
		if e := &l.ring[n%size]; e.matches(q) {
			found = append(found, *e)
		}
	}
	for i, j := 0, len(found)-1; i < j; i, j = i+1, j-1 {
		found[i], found[j] = found[j], found[i]
	}
	return found
}

func (e *Event) matches(q Query) bool {
	if e.Time.Before(q.Since) || q.Failed && e.OK() {
		return false
	}
	return q.Peer == "" || names.Same(q.Peer, e.PeerName) || e.Peer.IsValid() && names.Same(q.Peer, e.Peer.Addr().String())
}
