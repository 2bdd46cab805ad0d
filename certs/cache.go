// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"slices"
	"sync"
	"time"
)

const (
	// maxKept bounds the answers that a Trust keeps, of some 300 bytes each.
	maxKept = 1024
	// maxPlaces bounds the certificates in the chains of one answer: usual
	// are three. What has more is verified every time.
	maxPlaces = 64
)

// A cache keeps answers of Verify, so that peers which all reconnect at once do
// not cost us the signatures of their chains again.
//
// That is safe because an answer depends on nothing but its question (purpose,
// name, and every byte of the chain), on the Trust, which does not change and
// which a reload replaces together with its cache, and on the time, of which an
// answer knows how long it holds. A kept answer says that a chain is good, and
// not that the peer owns it: whether it has the private key is checked by
// crypto/tls, for every handshake, after Verify.
//
// For the same reason a stranger can bring in a chain that is another's, with
// anything added behind. There is one place for each certificate of a peer
// (with purpose and name), so that this costs the owner a place and nobody else.
// Refusals are not kept: nobody needs a certificate to get one.
type cache struct {
	mu     sync.Mutex // guards all; held for looking and writing only
	kept   map[digest]answer
	order  []digest // keys of kept, a ring once it is full
	oldest int      // where the ring begins
	hits   int
}

type digest = [sha256.Size]byte

// A question is what Verify was asked, but for the time.
type question struct {
	peer  digest // purpose, name, and the peer's own certificate
	whole digest // the same with the rest of the chain
}

// An answer says which chains stood, from one turn until before the next.
// It holds no certificate of the peer's, which could be large.
type answer struct {
	whole       digest
	from, until time.Time
	places      [][]int16 // see Trust.places
}

// ask puts a length in front of everything, so that no two questions are the
// same bytes. A certificate is its Raw, from which all the rest was parsed.
func ask(chain []*x509.Certificate, p Purpose, name string) (q question) {
	h := sha256.New()
	number := func(n int) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	number(int(p))
	number(len(name))
	h.Write([]byte(name))
	for i, cert := range chain {
		number(len(cert.Raw))
		h.Write(cert.Raw)
		if i == 0 {
			h.Sum(q.peer[:0])
		}
	}
	h.Sum(q.whole[:0])
	return q
}

// find returns nil without an answer that holds at the time now.
func (c *cache) find(q question, now time.Time) [][]int16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.kept[q.peer]
	if !ok || a.whole != q.whole || now.Before(a.from) || !now.Before(a.until) {
		return nil
	}
	c.hits++
	return a.places
}

// keep puts a in the place of an older answer about peer, or of the oldest of
// all.
func (c *cache) keep(peer digest, a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept == nil {
		c.kept = make(map[digest]answer)
	}
	_, again := c.kept[peer]
	switch {
	case again:
	case len(c.order) < maxKept:
		c.order = append(c.order, peer)
	default:
		delete(c.kept, c.order[c.oldest])
		c.order[c.oldest] = peer
		c.oldest = (c.oldest + 1) % maxKept
	}
	c.kept[peer] = a
}

// remember keeps that chains are what stood of chain at the time now.
func (t *Trust) remember(q question, chain []*x509.Certificate, chains [][]*x509.Certificate, now time.Time) {
	places, ok := t.places(chain, chains)
	if !ok {
		return
	}
	a := answer{whole: q.whole, places: places}
	a.from, a.until = t.steady(chain, now)
	t.cache.keep(q.peer, a)
}

// places writes each certificate of chains as its place in chain, or as the
// complement of its place among the anchors: all come from one of the two.
func (t *Trust) places(chain []*x509.Certificate, chains [][]*x509.Certificate) (places [][]int16, ok bool) {
	total := 0
	for _, stood := range chains {
		row := make([]int16, len(stood))
		for i, cert := range stood {
			sent := slices.Index(chain, cert)
			held := slices.IndexFunc(t.anchors, func(a anchor) bool { return a.cert == cert })
			switch {
			case sent >= 0:
				row[i] = int16(sent)
			case held >= 0:
				row[i] = ^int16(held)
			default:
				return nil, false
			}
		}
		if total += len(row); total > maxPlaces {
			return nil, false
		}
		places = append(places, row)
	}
	return places, true
}

// chainsAt is the reverse of places.
func (t *Trust) chainsAt(places [][]int16, chain []*x509.Certificate) [][]*x509.Certificate {
	chains := make([][]*x509.Certificate, len(places))
	for i, row := range places {
		chains[i] = make([]*x509.Certificate, len(row))
		for j, place := range row {
			if place >= 0 {
				chains[i][j] = chain[place]
			} else {
				chains[i][j] = t.anchors[^place].cert
			}
		}
	}
	return chains
}

// certTurns returns the turns of a certificate: the instants at which a
// comparison with a date has another result than just before. Between two turns
// the clock may go where it wants.
//
// Both ends of a validity belong to it (RFC 5280 section 4.1.2.5), hence the
// nanosecond: the first instant at which time.Time.After says yes.
func certTurns(cert *x509.Certificate) []time.Time {
	return []time.Time{cert.NotBefore, cert.NotAfter.Add(1)}
}

// turns returns those of stale.
func (c *crl) turns() []time.Time {
	return []time.Time{c.thisUpdate.Add(-crlSkew), c.nextUpdate.Add(1)}
}

// allTurns returns the turns of whatever the Trust holds, sorted. More than
// count for one peer are no harm: they only make us verify more often.
func (t *Trust) allTurns() (turns []time.Time) {
	for _, a := range t.anchors {
		turns = append(turns, certTurns(a.cert)...)
	}
	for _, c := range t.crls {
		if t.policy == StaleRefuse { // else nothing depends on it
			turns = append(turns, c.turns()...)
		}
	}
	slices.SortFunc(turns, time.Time.Compare)
	return turns
}

// steady returns the latest turn that is not after now, and the first that is,
// of the Trust and of a chain, some of which stood at the time now. Both exist:
// the peer's own certificate is valid.
func (t *Trust) steady(chain []*x509.Certificate, now time.Time) (from, until time.Time) {
	next, _ := slices.BinarySearchFunc(t.turns, now, func(turn, now time.Time) int {
		if turn.After(now) {
			return 1
		}
		return -1
	})
	turns := slices.Clone(t.turns[max(next-1, 0):min(next+1, len(t.turns))])
	for _, cert := range chain {
		turns = append(turns, certTurns(cert)...)
	}
	for _, turn := range turns {
		switch {
		case !turn.After(now) && (from.IsZero() || turn.After(from)):
			from = turn
		case turn.After(now) && (until.IsZero() || turn.Before(until)):
			until = turn
		}
	}
	return from, until
}
