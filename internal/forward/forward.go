// SPDX-License-Identifier: BSD-3-Clause

package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Resolver looks up all addresses of an absolute host name. An error that is a
// [net.DNSError] with IsNotFound set is an answer: the name has none.
type Resolver interface {
	LookupAddresses(ctx context.Context, name string) ([]netip.Addr, error)
}

// How long answers are used, and what is kept.
const (
	fresh = 5 * time.Minute  // then it is looked up again, and used meanwhile
	stale = time.Hour        // the most that an answer is used while no newer one can be had
	again = 10 * time.Second // an answer that did not help is not asked for sooner
	keep  = 24 * time.Hour   // names that nobody asked about for so long are forgotten

	sweepEvery = time.Minute
	patience   = 5 * time.Second // of one look-up
	workers    = 4

	maxNames    = 4096
	maxExpected = maxNames / 2
	maxQueue    = 256
	maxAsked    = 8  // names in one question
	maxAnswer   = 64 // addresses of one name
)

// A Verdict says whether an address is one of a name's.
type Verdict int

// The verdicts.
const (
	Unknown Verdict = iota // not looked up yet, or not with success
	No
	Yes
)

// An Answer is what a Table knows about names and an address.
type Answer struct {
	Verdict Verdict
	Why     string // in words
}

// A MismatchError is the error of a client that is not where its certificate's
// names are, or not known to be.
type MismatchError struct {
	From   netip.Addr
	Answer Answer
}

func (e *MismatchError) Error() string {
	if e.Answer.Verdict == Unknown {
		return fmt.Sprintf("whether %v is an address of the certificate's is not known yet: %s", e.From, e.Answer.Why)
	}
	return fmt.Sprintf("%v is no address of the certificate's: %s", e.From, e.Answer.Why)
}

// Unknown reports that the client was not judged, and can be if it tries again.
func (e *MismatchError) Unknown() bool { return e.Answer.Verdict == Unknown }

// TLSAlert returns access_denied, or close_notify for who is not known yet: that
// is no verdict, and lets a client try again (RFC 8446 section 6).
func (e *MismatchError) TLSAlert() uint8 {
	if e.Unknown() {
		return 0
	}
	return 49
}

// A Table holds the addresses of names. Make one with [New]; all methods may be
// called at the same time, and only Run waits for anything.
type Table struct {
	resolver Resolver
	queue    chan string
	wake     chan struct{}

	mu       sync.Mutex // guards what follows; held for looking and writing only
	entries  map[string]*entry
	expected map[string]bool
}

type entry struct {
	addrs   []netip.Addr
	at      time.Time // of the last answer; zero: none yet
	tried   time.Time // of the last attempt that has ended
	err     error     // of the last attempt, if it failed
	asked   time.Time // when somebody last wanted to know
	waiting bool      // in the queue, or being looked up
}

// New returns a table without names.
func New(r Resolver) *Table {
	return &Table{
		resolver: r, queue: make(chan string, maxQueue), wake: make(chan struct{}, 1),
		entries: make(map[string]*entry), expected: make(map[string]bool),
	}
}

// clean returns a host name in the one way in which it is kept, or "" for what
// is none: a wildcard, an address, or what no name server should be asked for.
func clean(name string) string {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "" || len(name) > 253 {
		return ""
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return ""
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return ""
		}
	}
	return name
}

// Expect sets the names that are kept known from now on, whether somebody asks
// or not, in place of those before. It returns how many are too many, and are
// looked up when somebody asks.
func (t *Table) Expect(names []string) (left int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expected = make(map[string]bool)
	for _, name := range names {
		if name = clean(name); name == "" {
			continue
		}
		if len(t.expected) == maxExpected && !t.expected[name] {
			left++
			continue
		}
		t.expected[name] = true
		t.entry(name, time.Now())
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return left
}

// entry returns that of a name, and makes room for it if it is new. It is called
// with mu held.
func (t *Table) entry(name string, now time.Time) *entry {
	e := t.entries[name]
	if e == nil {
		if len(t.entries) >= maxNames {
			t.makeRoom()
		}
		e = &entry{asked: now}
		t.entries[name] = e
	}
	return e
}

// makeRoom forgets the name that was asked for the longest ago, of a few: a
// handshake has no time to look at all. If all of those are needed, the table
// grows, by no more than the queue holds. It is called with mu held.
func (t *Table) makeRoom() {
	const few = 16
	oldest, seen := "", 0
	for name, e := range t.entries { // in random order
		if seen++; seen > few && oldest != "" || seen > maxExpected+maxQueue {
			break
		}
		if !t.expected[name] && !e.waiting && (oldest == "" || e.asked.Before(t.entries[oldest].asked)) {
			oldest = name
		}
	}
	if oldest != "" {
		delete(t.entries, oldest)
	}
}

// Check says whether an address is one of those that the names have. It waits
// for nothing. What it does not know, or is old, it asks for.
//
// It is for names that a certificate vouches for: to ask for any name that a
// stranger says would let strangers choose what we ask name servers for.
func (t *Table) Check(names []string, addr netip.Addr) Answer {
	addr = addr.Unmap().WithZone("")
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	var unknown, no []string
	asked := 0
	for _, name := range names {
		if name = clean(name); name == "" {
			continue
		}
		if asked++; asked > maxAsked {
			break
		}
		e := t.entry(name, now)
		e.asked = now
		known := !e.at.IsZero() && now.Sub(e.at) < stale
		match := known && slices.Contains(e.addrs, addr)
		// An address that is not there may be a new one.
		if age := now.Sub(e.tried); e.tried.IsZero() || age >= fresh || !match && age >= again {
			t.ask(name, e)
		}
		switch {
		case match:
			return Answer{Yes, fmt.Sprintf("%s is an address of %s", addr, name)}
		case known:
			no = append(no, name+" has "+list(e.addrs))
		case e.err != nil:
			unknown = append(unknown, fmt.Sprintf("%s cannot be looked up: %v", name, e.err))
		default:
			unknown = append(unknown, name+" has not been looked up yet")
		}
	}
	switch {
	case len(unknown) > 0:
		return Answer{Unknown, strings.Join(append(unknown, no...), ", ")}
	case len(no) > 0:
		return Answer{No, strings.Join(no, ", ")}
	}
	return Answer{No, "no host name that could be looked up"}
}

func list(addrs []netip.Addr) string {
	if len(addrs) == 0 {
		return "no address"
	}
	const some = 4
	var texts []string
	for _, a := range addrs[:min(len(addrs), some)] {
		texts = append(texts, a.String())
	}
	s := strings.Join(texts, " and ")
	if len(addrs) > some {
		s += fmt.Sprintf(" and %d more", len(addrs)-some)
	}
	return s
}

// ask puts a name into the queue, if there is room: whoever comes next asks
// again. It is called with mu held.
func (t *Table) ask(name string, e *entry) {
	if e.waiting {
		return
	}
	select {
	case t.queue <- name:
		e.waiting = true
	default:
	}
}

// Run looks names up until ctx ends, which is no error.
func (t *Table) Run(ctx context.Context, log *slog.Logger) error {
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for {
				select {
				case name := <-t.queue:
					t.lookUp(ctx, name, log)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	defer group.Wait()
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		t.sweep(ctx)
		select {
		case <-tick.C:
		case <-t.wake:
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep asks for what is old and forgets what nobody wants.
func (t *Table) sweep(ctx context.Context) {
	now := time.Now()
	t.mu.Lock()
	var due []string
	for name, e := range t.entries {
		switch {
		case e.waiting:
		case !t.expected[name] && now.Sub(e.asked) >= keep:
			delete(t.entries, name)
		case e.tried.IsZero() || now.Sub(e.tried) >= fresh || e.err != nil && now.Sub(e.tried) >= sweepEvery:
			e.waiting = true
			due = append(due, name)
		}
	}
	t.mu.Unlock()
	for _, name := range due {
		select {
		case t.queue <- name:
		case <-ctx.Done():
			return
		}
	}
}

// lookUp does one look-up and keeps what came of it.
func (t *Table) lookUp(ctx context.Context, name string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	addrs, err := t.resolver.LookupAddresses(ctx, name)
	if dns, ok := errors.AsType[*net.DNSError](err); ok && dns.IsNotFound {
		addrs, err = nil, nil
	}
	addrs = slices.Clone(addrs[:min(len(addrs), maxAnswer)])
	for i, a := range addrs {
		addrs[i] = a.Unmap().WithZone("")
	}
	now := time.Now()
	t.mu.Lock()
	e := t.entries[name]
	if e == nil {
		t.mu.Unlock()
		return
	}
	first := e.err == nil
	e.waiting, e.tried, e.err = false, now, err
	if err == nil {
		e.addrs, e.at = addrs, now
	}
	t.mu.Unlock()
	switch {
	case err != nil && first:
		log.Warn("a client's name cannot be looked up", "name", name, "error", err)
	case err == nil:
		log.Debug("looked up", "name", name, "addresses", list(addrs))
	}
}

// LookUp asks for one name and waits for the answer: for a program that has the
// time. The names become known to Check.
func (t *Table) LookUp(ctx context.Context, names []string) {
	for _, name := range names[:min(len(names), maxAsked)] {
		if name = clean(name); name == "" {
			continue
		}
		t.mu.Lock()
		t.entry(name, time.Now()).waiting = true
		t.mu.Unlock()
		t.lookUp(ctx, name, slog.New(slog.DiscardHandler))
	}
}
