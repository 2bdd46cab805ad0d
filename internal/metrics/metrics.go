// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package metrics

import (
	"crypto/tls"
	"slices"
	"sync/atomic"
	"time"

	"rpctls/internal/reason"
	"rpctls/ktls"
)

// None stands for a cipher or group where none was agreed, Other for a word of a
// closed set that whoever reads does not know.
const (
	None  = "none"
	Other = "other"
)

// The outcomes of a handshake.
const (
	Success = "success"
	Failure = "failure"
)

// A Part is where the time of a handshake went.
type Part string

// The parts. Together they are the time from ACCEPT to the judgement; what an
// answer is held back afterwards is in none of them.
const (
	Queue     Part = "queue"     // until its own work began, and waits for a processor
	Network   Part = "network"   // waits for the peer
	Computing Part = "computing" // the rest
)

// Parts returns all parts.
func Parts() []Part { return []Part{Queue, Network, Computing} }

// Results returns the outcomes.
func Results() []string { return []string{Success, Failure} }

// bounds are the upper bounds of the histograms, each inclusive: what is quick
// on a modern processor, a round trip, and the kernel's patience.
var bounds = [...]time.Duration{
	100 * time.Microsecond, 250 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond,
	10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
}

// Bounds returns the upper bounds of all histograms, in seconds.
func Bounds() []float64 {
	list := make([]float64, len(bounds))
	for i, b := range bounds {
		list[i] = b.Seconds()
	}
	return list
}

var curves = []tls.CurveID{
	tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024,
	tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521,
}

// Reasons, Ciphers and Groups return the labels that there are, each with one
// for what is in no set.
func Reasons() []string {
	var list []string
	for _, r := range reason.All() {
		list = append(list, string(r))
	}
	return append(list, Other)
}

// Ciphers: see [Reasons].
func Ciphers() []string {
	list := []string{None}
	for _, c := range ktls.Ciphers() {
		list = append(list, c.String())
	}
	return append(list, Other)
}

// Groups: see [Reasons].
func Groups() []string {
	list := []string{None}
	for _, c := range curves {
		list = append(list, c.String())
	}
	return append(list, Other)
}

// Handshakes are a daemon's counters. Make one with [NewHandshakes]. A nil
// Handshakes counts nothing. Its methods are for many goroutines.
type Handshakes struct {
	reasons map[reason.Reason]int
	ciphers map[ktls.Cipher]int
	groups  map[tls.CurveID]int
	names   [3][]string // in the order of the indices

	counts   []atomic.Uint64 // [reason][cipher][group]
	halfOpen atomic.Int64
	times    [2][3]histogram // [outcome][part]
}

type histogram struct {
	counts [len(bounds) + 1]atomic.Uint64
	sum    atomic.Uint64 // nanoseconds: enough for 584 years
}

func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	i, _ := slices.BinarySearch(bounds[:], d)
	h.counts[i].Add(1)
	h.sum.Add(uint64(d))
}

// NewHandshakes returns counters that are all zero.
func NewHandshakes() *Handshakes {
	h := &Handshakes{
		reasons: make(map[reason.Reason]int), ciphers: make(map[ktls.Cipher]int), groups: make(map[tls.CurveID]int),
		names: [3][]string{Reasons(), Ciphers(), Groups()},
	}
	for i, r := range reason.All() {
		h.reasons[r] = i
	}
	for i, c := range ktls.Ciphers() {
		h.ciphers[c] = i + 1
	}
	for i, c := range curves {
		h.groups[c] = i + 1
	}
	h.counts = make([]atomic.Uint64, len(h.names[0])*len(h.names[1])*len(h.names[2]))
	return h
}

// An Outcome is what one handshake adds.
type Outcome struct {
	Reason reason.Reason
	// Agreed: cipher and group mean something.
	Agreed bool
	Cipher ktls.Cipher
	Group  tls.CurveID
	// Times are of all of it, not only of [ktls.Handshake].
	Times ktls.Times
}

// Add counts a handshake.
func (h *Handshakes) Add(o Outcome) {
	if h == nil {
		return
	}
	r, ok := h.reasons[o.Reason]
	if !ok {
		r = len(h.names[0]) - 1
	}
	c, g := 0, 0
	if o.Agreed {
		if c, ok = h.ciphers[o.Cipher]; !ok {
			c = len(h.names[1]) - 1
		}
		if g, ok = h.groups[o.Group]; !ok {
			g = len(h.names[2]) - 1
		}
	}
	h.counts[(r*len(h.names[1])+c)*len(h.names[2])+g].Add(1)
	t := &h.times[1]
	if o.Reason == reason.OK {
		t = &h.times[0]
	}
	t[0].observe(o.Times.Queued)
	t[1].observe(o.Times.Network)
	t[2].observe(o.Times.Computing)
}

// Begin counts a handshake as half open: nothing has been heard of the peer. The
// function that it returns ends that; only its first call counts. It belongs to
// one goroutine.
func (h *Handshakes) Begin() (heard func()) {
	if h == nil {
		return func() {}
	}
	h.halfOpen.Add(1)
	done := false
	return func() {
		if !done {
			done = true
			h.halfOpen.Add(-1)
		}
	}
}

// HalfOpen returns how many handshakes are half open.
func (h *Handshakes) HalfOpen() int {
	if h == nil {
		return 0
	}
	return int(h.halfOpen.Load())
}

// Counts returns the counters that are not zero, in the order of the labels.
func (h *Handshakes) Counts() (list []Count) {
	if h == nil {
		return nil
	}
	for i := range h.counts {
		n := h.counts[i].Load()
		if n == 0 {
			continue
		}
		groups, ciphers := len(h.names[2]), len(h.names[1])
		list = append(list, Count{
			Reason: h.names[0][i/groups/ciphers], Cipher: h.names[1][i/groups%ciphers], Group: h.names[2][i%groups], Count: n,
		})
	}
	return list
}

// Durations returns the histograms, all of them.
func (h *Handshakes) Durations() (list []Durations) {
	if h == nil {
		return nil
	}
	for o, result := range Results() {
		for p, part := range Parts() {
			from := &h.times[o][p]
			d := Durations{Result: result, Part: part, Sum: time.Duration(from.sum.Load()).Seconds()}
			for i := range from.counts {
				d.Counts = append(d.Counts, from.counts[i].Load())
			}
			list = append(list, d)
		}
	}
	return list
}

// Reloads counts attempts to load configuration or files anew.
type Reloads struct{ n [2][2]atomic.Uint64 }

// A Trigger is what made a daemon load something anew.
type Trigger string

// The triggers.
const (
	Signal Trigger = "signal" // SIGHUP, and so systemctl reload
	Files  Trigger = "files"  // a file that had been loaded changed
)

// Triggers returns all triggers.
func Triggers() []Trigger { return []Trigger{Signal, Files} }

// The outcomes of a reload.
const (
	Loaded  = "ok"
	Refused = "refused" // what was loaded before stays in use
)

// Add counts a reload; err is nil if it went well.
func (r *Reloads) Add(t Trigger, err error) {
	o := 0
	if err != nil {
		o = 1
	}
	if i := slices.Index(Triggers(), t); i >= 0 {
		r.n[i][o].Add(1)
	}
}

// Counts returns all counters.
func (r *Reloads) Counts() (list []Reload) {
	for i, t := range Triggers() {
		for o, outcome := range []string{Loaded, Refused} {
			list = append(list, Reload{Trigger: t, Outcome: outcome, Count: r.n[i][o].Load()})
		}
	}
	return list
}
