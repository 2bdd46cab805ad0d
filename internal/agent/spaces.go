// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"rpctls/internal/netns"
	"rpctls/internal/rivals"
	"rpctls/upcall"
)

// maxSpaces bounds the network namespaces that are served beside our own: each has
// a thread, and sockets in the service manager's store.
const maxSpaces = 32

// lookEvery is how often names of namespaces are looked for. Whoever makes a
// namespace and mounts in it sooner has the mount fail, or wait for another try.
const lookEvery = 2 * time.Second

// spacePrefix begins the names, in the descriptor store, of namespaces' sockets;
// the cookie follows.
const spacePrefix = "netns-"

func storeName(cookie uint64) string { return fmt.Sprintf("%s%x", spacePrefix, cookie) }

// Namespaces serve the network namespaces that have certain names, from the moment
// that they have one until they have none. Each has a listener of its own; all
// have the agent in common. A nil Namespaces serves none.
//
// Nothing that goes wrong with one of them ends another, or the daemon: it is
// tried again.
type Namespaces struct {
	set *netns.Set
	// open joins the kernel's group in a namespace; a variable for tests.
	open func(n *netns.Namespace, kept int) (*upcall.Link, error)

	// What begin sets.
	agent *Agent
	lock  *os.File
	dir   string
	log   *slog.Logger
	limit int

	looking  sync.Mutex // one look at a time
	last     time.Time  // of the last look; guarded by looking
	full     bool       // said that there are too many; guarded by looking
	trouble  map[netns.ID]string
	listErr  string
	ours     uint32 // inode of our own namespace's socket; guarded by looking
	stopping bool   // guarded by looking

	mu       sync.Mutex // guards what follows
	patterns []netns.Pattern
	lacking  error // why namespaces cannot be entered
	served   map[netns.ID]*space
	retired  upcall.Stats // of namespaces that are gone
}

// NewNamespaces returns one for the patterns. What the process lacks to enter
// namespaces is lacking.
func NewNamespaces(patterns []netns.Pattern, lacking error) (*Namespaces, error) {
	set, err := netns.NewSet()
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	return &Namespaces{
		set: set, patterns: patterns, lacking: lacking,
		open: func(n *netns.Namespace, kept int) (link *upcall.Link, err error) {
			err = n.Do(func() (err error) { link, err = upcall.Open(kept); return err })
			return link, err
		},
		served: make(map[netns.ID]*space), trouble: make(map[netns.ID]string),
	}, nil
}

// A space is a namespace that is served.
type space struct {
	*netns.Namespace
	link     *upcall.Link
	inode    uint32 // of its socket
	listener *upcall.Listener
	rivals   *rivals.Watcher
	cancel   context.CancelFunc
	leaving  bool // guarded by looking: it has no name any more
	done     chan struct{}
}

// Set is who is served; nil for a nil Namespaces.
func (s *Namespaces) Set() *netns.Set {
	if s == nil {
		return nil
	}
	return s.set
}

// begin takes up what is there, with the sockets that were kept: requests wait in
// the kernel. It takes those out of kept.
func (s *Namespaces) begin(a *Agent, lock *os.File, dir string, kept map[string]int, log *slog.Logger) error {
	if s == nil {
		return nil
	}
	limit, err := divideSpaces()
	if err != nil {
		return err
	}
	s.agent, s.lock, s.dir, s.log, s.limit = a, lock, dir, log, limit
	if s.lacking != nil {
		log.Error("no network namespace but this daemon's own is served", "error", s.lacking, "hint", Hint)
	}
	s.look(kept)
	return nil
}

// Hint says what to do where namespaces cannot be entered.
const Hint = "the unit needs the drop-in namespaces.conf that comes with the package (rpctlssd.toml(5), NAMESPACES)"

// Configure changes the patterns, at the next look.
func (s *Namespaces) Configure(patterns []netns.Pattern) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.patterns = patterns
}

// Run looks for names until ctx ends, then ends what is served and waits for it.
// What systemd keeps stays with it.
func (s *Namespaces) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.close()
			return nil
		case <-tick.C:
			s.look(nil)
		}
	}
}

// close ends all that are served and waits for them.
func (s *Namespaces) close() {
	if s == nil {
		return
	}
	s.looking.Lock()
	s.stopping = true
	s.looking.Unlock()
	for _, sp := range s.all() {
		sp.cancel()
	}
	for _, sp := range s.all() {
		<-sp.done
	}
}

// all are those that are served, those that are leaving included.
func (s *Namespaces) all() (list []*space) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sp := range s.served {
		list = append(list, sp)
	}
	slices.SortFunc(list, func(a, b *space) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// look compares what is there with what is served.
func (s *Namespaces) look(kept map[string]int) {
	s.looking.Lock()
	defer s.looking.Unlock()
	if s.stopping {
		return
	}
	s.mu.Lock()
	patterns, lacking := s.patterns, s.lacking
	s.mu.Unlock()
	if lacking != nil {
		return
	}
	s.last = time.Now()
	found, err := netns.List(patterns)
	s.complain(err)
	changed := false
	for _, sp := range s.all() {
		i := slices.IndexFunc(found, func(f netns.Found) bool { return f.ID == sp.ID() })
		switch {
		case i >= 0 && !sp.leaving:
			sp.Rename(found[i].Paths)
		case i < 0 && !sp.leaving && err == nil: // else it may only not have been seen
			s.leave(sp)
			changed = true
		}
	}
	room := maxSpaces - len(s.all())
	for _, f := range found {
		if s.serves(f.ID) {
			continue
		}
		if room <= 0 {
			if !s.full {
				s.log.Error("too many network namespaces; some are not served", "limit", maxSpaces, "first", f.Paths[0])
			}
			s.full = true
			break
		}
		if s.enter(f, kept) {
			room--
			changed = true
		}
	}
	s.full = s.full && room <= 0
	for id := range s.trouble {
		if !slices.ContainsFunc(found, func(f netns.Found) bool { return f.ID == id }) {
			delete(s.trouble, id)
		}
	}
	if changed {
		s.writeRecord()
	}
}

// complain says once what is wrong with the list.
func (s *Namespaces) complain(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != s.listErr {
		s.log.Warn("cannot see all network namespaces", "error", err)
	}
	s.listErr = text
}

func (s *Namespaces) serves(id netns.ID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.served[id] != nil
}

// enter begins to serve a namespace. It is called with looking held.
func (s *Namespaces) enter(f netns.Found, kept map[string]int) bool {
	sp, err := s.start(f, kept)
	if err == nil {
		delete(s.trouble, f.ID)
		s.log.Info("a network namespace is served", "namespace", sp.String(), "limit", s.limit)
		return true
	}
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, netns.ErrGone): // it has just gone
		s.log.Debug("a network namespace is gone again", "namespace", f.Paths[0], "error", err)
	case s.trouble[f.ID] != err.Error(): // once; it is tried again
		s.trouble[f.ID] = err.Error()
		s.log.Error("a network namespace cannot be served", "namespace", f.Paths[0], "error", err)
	}
	return false
}

func (s *Namespaces) start(f netns.Found, kept map[string]int) (*space, error) {
	n, err := netns.Open(f)
	if err != nil {
		return nil, err
	}
	name := storeName(n.Cookie())
	fd, ok := take(kept, name)
	link, err := s.open(n, fd)
	if err != nil {
		n.Close()
		if ok {
			forget(name, s.log)
		}
		return nil, err
	}
	socket, _ := link.Notification()
	inode, err := rivals.Inode(socket)
	if err != nil {
		link.Close()
		n.Close()
		return nil, err
	}
	keep(link, name, ok, s.log)
	log := s.log.With("namespace", n.String())
	sp := &space{
		Namespace: n, link: link, inode: inode, done: make(chan struct{}),
		listener: upcall.NewListener(link, upcall.Config{Limit: s.limit, Report: func(err error) { report(log, err) }}),
		rivals:   newWatcher(link, inode, s.dir, s.agent.role.Role(), log, n.Do),
	}
	ctx, cancel := context.WithCancel(context.Background())
	sp.cancel = cancel
	s.mu.Lock()
	s.served[n.ID()] = sp
	s.mu.Unlock()
	s.set.Add(n) // before the first request
	go s.serve(ctx, sp, log)
	return sp, nil
}

// serve is a namespace's life, to the end of its last request.
func (s *Namespaces) serve(ctx context.Context, sp *space, log *slog.Logger) {
	defer close(sp.done)
	var watching sync.WaitGroup
	watching.Go(func() { _ = sp.rivals.Run(ctx) }) // it has no errors
	err := sp.listener.Run(ctx, s.agent.Handle)
	if err != nil {
		log.Error("a network namespace is not served any more, and is tried again", "error", err)
		forget(storeName(sp.Cookie()), log)
	}
	sp.cancel()
	watching.Wait()
	s.set.Remove(sp.Namespace)
	stats := sp.listener.Stats()
	s.mu.Lock()
	s.retired = plus(s.retired, stats)
	delete(s.served, sp.ID())
	s.mu.Unlock()
	// Last, and all of it: each of these keeps the namespace alive.
	sp.link.Close()
	sp.Close()
}

// leave ends the service of a namespace that has no name any more. What is in
// progress is finished; the look does not wait for it. It is called with looking
// held.
func (s *Namespaces) leave(sp *space) {
	sp.leaving = true
	s.log.Info("a network namespace is gone", "namespace", sp.String())
	forget(storeName(sp.Cookie()), s.log)
	sp.cancel()
}

// record says which is our own namespace's socket, for the sibling.
func (s *Namespaces) record(ours uint32) {
	s.looking.Lock()
	defer s.looking.Unlock()
	s.ours = ours
	s.writeRecord()
}

// writeRecord is called with looking held.
func (s *Namespaces) writeRecord() {
	if s.ours == 0 {
		return // not known yet: record comes
	}
	inodes := []uint32{s.ours}
	for _, sp := range s.all() {
		if !sp.leaving {
			inodes = append(inodes, sp.inode)
		}
	}
	if err := rivals.Record(s.lock, inodes...); err != nil {
		s.log.Warn("the other daemon will take this one for a stranger", "error", err)
	}
}

// lookAgain is the least time between looks for requests that come out of
// nowhere.
const lookAgain = 100 * time.Millisecond

// known refuses a request of a namespace that is not served. The sibling, which
// may have handed it over, can have noticed the namespace first.
func (s *Namespaces) known(r *upcall.Request) error {
	if s == nil {
		return nil
	}
	_, err := s.set.Find(r.Namespace)
	if err == nil {
		return nil
	}
	s.lookSince(time.Now())
	if _, err = s.set.Find(r.Namespace); err != nil {
		return fmt.Errorf("a request of network namespace %d (cookie): %w", r.Namespace, err)
	}
	return nil
}

// lookSince returns when there has been a look after a moment, its own if need be.
// Those who ask at the same time share one.
func (s *Namespaces) lookSince(moment time.Time) {
	s.looking.Lock()
	pause := lookAgain - time.Since(s.last)
	s.looking.Unlock()
	if pause > 0 {
		time.Sleep(pause)
	}
	s.looking.Lock()
	done := s.last.After(moment)
	s.looking.Unlock()
	if !done {
		s.look(nil)
	}
}

// plus adds counts.
func plus(a, b upcall.Stats) upcall.Stats {
	return upcall.Stats{
		Accepted: a.Accepted + b.Accepted, Adopted: a.Adopted + b.Adopted, Ended: a.Ended + b.Ended,
		HandedOver: a.HandedOver + b.HandedOver, Refused: a.Refused + b.Refused, Lost: a.Lost + b.Lost,
		Overflows: a.Overflows + b.Overflows, Unreported: a.Unreported + b.Unreported, Announced: a.Announced + b.Announced,
		InProgress: a.InProgress + b.InProgress,
	}
}

// stats are the counts of all, those that are gone included.
func (s *Namespaces) stats() (sum upcall.Stats) {
	if s == nil {
		return sum
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sum = s.retired
	for _, sp := range s.served {
		sum = plus(sum, sp.listener.Stats())
	}
	return sum
}

// ping asks every accepting thread.
func (s *Namespaces) ping(ctx context.Context) error {
	for _, sp := range s.all() {
		select {
		case <-sp.listener.Ready():
		default:
			continue // it has just begun
		}
		if err := sp.listener.Ping(ctx); err != nil && ctx.Err() != nil {
			return fmt.Errorf("%s: %w", sp, err)
		}
	}
	return nil
}

// Served is a namespace that is served beside our own.
type Served struct {
	Name       string
	Cookie     uint64
	InProgress int
	Limit      int
	Rivals     []uint32
}

// Served are those that are served now, by name.
func (s *Namespaces) Served() (list []Served) {
	for _, sp := range s.all() {
		list = append(list, Served{sp.String(), sp.Cookie(), sp.listener.Stats().InProgress, sp.listener.Limit(), sp.rivals.Seen()})
	}
	return list
}

// Warnings say what is wrong now, a line each.
func (s *Namespaces) Warnings() (w []string) {
	if s == nil {
		return nil
	}
	if s.lacking != nil {
		w = append(w, fmt.Sprintf("namespaces: none but this daemon's own is served: %v; %s", s.lacking, Hint))
	}
	s.looking.Lock()
	defer s.looking.Unlock()
	for _, text := range s.trouble {
		w = append(w, "namespaces: "+text)
	}
	if s.listErr != "" {
		w = append(w, "namespaces: "+s.listErr)
	}
	if s.full {
		w = append(w, fmt.Sprintf("namespaces: more than %d; some are not served", maxSpaces))
	}
	slices.Sort(w)
	return w
}
