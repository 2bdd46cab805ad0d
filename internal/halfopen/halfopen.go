// SPDX-License-Identifier: BSD-3-Clause

package halfopen

import (
	"math"
	"net/netip"
	"sync"
	"time"
)

// An Outcome is how a wait ended.
type Outcome int

// The outcomes.
const (
	Unknown Outcome = iota // it ended for another reason; nothing is learnt
	Spoke                  // a whole record came
	Silent                 // it was given up
)

// DefaultThreads is assumed until SetThreads is called: nfsd's own default of
// old (nfs-utils before 2.7), which is on the cautious side.
const DefaultThreads = 8

const (
	// floor is the least patience, to which two round trips are added: a
	// client that is not busy answers within one.
	floor = 20 * time.Millisecond
	// ample times as long as clients take of late is the least, too: when all
	// are slow, as in a storm, giving them up would only make them come again.
	ample = 3
	// When it is crowded, whoever is trusted has this, or lenient times as long as
	// clients take of late: an attack comes from an address that was good a moment
	// ago, and a storm from clients that are all late.
	trusted = time.Second
	lenient = 10
	// assumed is how long clients take before any has been heard.
	assumed = 100 * time.Millisecond
	// weight is that of one client in the average of how long they take.
	weight = 1.0 / 8
	// halfLife is how soon what an address has done counts half.
	halfLife = 10 * time.Second
	// enough outcomes are remembered of an address, and no more: whoever has
	// just come through a storm would otherwise have to be silent as often as
	// it spoke, a second each time, before it is no longer believed.
	enough = 16
	// prior is how many outcomes of its own outweigh what is expected of an
	// address because of its network, and of a network because of all.
	prior = 2
	// unknown is what is expected of everybody before anything is known.
	unknown = 0.5
	// maxScores bounds the memory, some 100 bytes each.
	maxScores = 8192
)

// Below relaxed of the threads in use there is no hurry, above crowded there
// is nothing else.
const (
	relaxed = 0.5
	crowded = 0.75
)

// A Table knows who is being waited for. Its methods are for many goroutines.
type Table struct {
	now func() time.Time

	mu         sync.Mutex
	threads    int
	inProgress int
	usual      float64 // how long clients take that speak, nanoseconds
	all        score
	scores     map[netip.Prefix]*score
}

// New returns an empty table.
func New() *Table {
	return &Table{now: time.Now, threads: DefaultThreads, usual: float64(assumed), scores: make(map[netip.Prefix]*score)}
}

// SetThreads says how many threads nfsd has; n <= 0 stands for not known.
func (t *Table) SetThreads(n int) {
	if n <= 0 {
		n = DefaultThreads
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.threads = n
}

// Begin counts a request. Each call is followed by one of End.
func (t *Table) Begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inProgress++
}

// Heard says that a client spoke, after so long.
func (t *Table) Heard(waited time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.usual += weight * (float64(waited) - t.usual)
}

// End counts a request as ended and remembers what the address did.
func (t *Table) End(a netip.Addr, o Outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inProgress--
	if o == Unknown {
		return
	}
	now := t.now()
	t.all.add(now, o)
	for _, p := range scopes(a) {
		s := t.scores[p]
		if s == nil {
			if len(t.scores) >= maxScores {
				t.forget(now)
			}
			s = new(score)
			t.scores[p] = s
		}
		s.add(now, o)
	}
}

// Patience is how long to wait, in all, for the first record of a client at a
// whose round trip takes rtt: full as long as threads are plenty.
func (t *Table) Patience(a netip.Addr, rtt, full time.Duration) time.Duration {
	if full <= 0 {
		return full
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	least := min(max(floor, time.Duration(ample*t.usual))+2*rtt, full)
	inUse := float64(t.inProgress) / float64(t.threads)
	hurry := min(max((inUse-relaxed)/(crowded-relaxed), 0), 1)
	if hurry == 0 {
		return full
	}
	now := t.now()
	suspicion := t.all.suspicion(now, unknown)
	for _, p := range scopes(a) {
		if s := t.scores[p]; s != nil {
			suspicion = s.suspicion(now, suspicion)
		}
	}
	most := min(full, max(trusted, least, time.Duration(lenient*t.usual)))
	return time.Duration(math.Pow(float64(full), 1-hurry) * math.Pow(float64(most), hurry*(1-suspicion)) * math.Pow(float64(least), hurry*suspicion))
}

// scopes are the network of an address and the address, in this order.
func scopes(a netip.Addr) (s []netip.Prefix) {
	if !a.IsValid() {
		return nil
	}
	a = a.Unmap().WithZone("")
	// What one host or one site can easily have more than one of.
	network, host := 24, 32
	if a.Is6() {
		network, host = 48, 64
	}
	for _, bits := range []int{network, host} {
		if p, err := a.Prefix(bits); err == nil {
			s = append(s, p)
		}
	}
	return s
}

// forget makes room: it drops what has faded, and when that is not enough,
// whatever comes first, which an attacker cannot choose.
func (t *Table) forget(now time.Time) {
	for p, s := range t.scores {
		if s.fade(now); s.spoke+s.silent < 0.1 {
			delete(t.scores, p)
		}
	}
	for p := range t.scores {
		if len(t.scores) <= maxScores*3/4 {
			return
		}
		delete(t.scores, p)
	}
}

// A score counts outcomes, old ones less, up to enough.
type score struct {
	spoke, silent float64
	at            time.Time
}

func (s *score) fade(now time.Time) {
	if d := now.Sub(s.at); d > 0 {
		f := math.Exp2(-float64(d) / float64(halfLife))
		s.spoke *= f
		s.silent *= f
		s.at = now
	}
}

func (s *score) add(now time.Time, o Outcome) {
	s.fade(now)
	if o == Silent {
		s.silent++
	} else {
		s.spoke++
	}
	if n := s.silent + s.spoke; n > enough {
		s.silent *= enough / n
		s.spoke *= enough / n
	}
}

// suspicion is the share that will be silent, where expected is what is
// thought of those about whom nothing is known.
func (s *score) suspicion(now time.Time, expected float64) float64 {
	s.fade(now)
	return (s.silent + prior*expected) / (s.spoke + s.silent + prior)
}
