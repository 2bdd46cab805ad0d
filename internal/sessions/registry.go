// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"rpctls/internal/control"
	"rpctls/internal/netns"
	"rpctls/internal/sockdiag"
)

// maxSessions bounds the memory: a server of that many clients takes some 20 MiB
// for their certificates.
const maxSessions = 8192

// How long the writer waits for more, and how often it looks which connections
// have ended. The first also bounds what a killed daemon forgets.
const (
	batch = 100 * time.Millisecond
	tidy  = 30 * time.Second
)

// A Kernel is what knows the connections: sockdiag.Conn, or a test.
type Kernel interface {
	Available() error
	Find(sockdiag.ID) (sockdiag.Socket, error)
	Destroy(sockdiag.ID) error
	Close() error
}

// Config is what a Registry needs.
type Config struct {
	Directory string // the runtime directory
	Daemon    string // whose file it is
	Log       *slog.Logger
	// Kernel opens one, of the network namespace with a cookie (0: ours); nil is
	// sockdiag's, in ours. The error is netns.ErrGone for a namespace that is not
	// served any more, and its sessions are forgotten.
	Kernel func(namespace uint64) (Kernel, error)
	// Judge judges a session's peer again, by what is loaded now, and says by
	// which generation of it. Its error is why the session must end.
	Judge func(*Session) (generation uint64, err error)
	// Explain returns the word for the reason of such an error.
	Explain func(error) string
}

// A Registry remembers sessions. Make one with [New]. A nil Registry remembers
// nothing.
type Registry struct {
	cfg    Config
	writer writer
	wake   chan struct{} // something is to be written
	again  chan struct{} // sessions are to be judged again
	noDiag sync.Once     // said that nothing can be tidied

	mu         sync.Mutex // guards what follows; held for maps and slices only
	live       map[uint64]*Session
	pending    []*Session
	lost       int
	judged     map[uint64]uint64 // by cookie: by which generation
	generation uint64            // what sessions must have been judged by
}

// New returns a registry that is empty.
func New(cfg Config) *Registry {
	if cfg.Kernel == nil {
		cfg.Kernel = func(uint64) (Kernel, error) { return sockdiag.Open() }
	}
	return &Registry{
		cfg: cfg, writer: writer{path: Path(cfg.Directory, cfg.Daemon)},
		wake: make(chan struct{}, 1), again: make(chan struct{}, 1),
		live: make(map[uint64]*Session), judged: make(map[uint64]uint64),
	}
}

// Load adds what an earlier instance has left, as far as those connections still
// live. It comes before the tasks, and after the directory has been locked. What
// cannot be read is said in the log, and is no reason not to start: mounts wait.
func (r *Registry) Load() {
	list, err := ReadFile(r.writer.path)
	if err != nil {
		r.cfg.Log.Warn("some certificates of earlier sessions are forgotten", "error", err)
	}
	r.mu.Lock()
	for _, s := range list {
		r.live[s.Cookie] = s
	}
	r.mu.Unlock()
	r.forgetEnded()
	r.save(r.rewrite())
}

// Add remembers a session. It does no I/O.
func (r *Registry) Add(s *Session) {
	if r == nil {
		return
	}
	if err := s.check(); err != nil { // else its line would spoil the file
		r.cfg.Log.Warn("a session is not remembered", "peer", s.Remote, "error", err)
		return
	}
	r.mu.Lock()
	if len(r.live) >= maxSessions {
		r.lost++
	} else {
		r.live[s.Cookie] = s
		r.judged[s.Cookie] = s.Generation
		r.pending = append(r.pending, s)
	}
	// What it was judged by has been replaced meanwhile.
	outdated := s.Generation < r.generation
	r.mu.Unlock()
	signal(r.wake)
	if outdated {
		signal(r.again)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Renew has every session judged again whose peer was judged by an earlier
// generation. It does not wait for that.
func (r *Registry) Renew(generation uint64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.generation = max(r.generation, generation)
	r.mu.Unlock()
	signal(r.again)
}

// Write is the task that writes sessions and forgets those that have ended.
func (r *Registry) Write(ctx context.Context) error {
	tick := time.NewTicker(tidy)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if r.forgetEnded() > 0 || r.writer.f == nil {
				r.save(r.rewrite())
			}
		case <-r.wake:
			// Others come along in a storm; when it is over, so does the writer.
			select {
			case <-time.After(batch):
			case <-ctx.Done():
			}
			r.flush()
		}
	}
}

// Close writes what is left. It comes when all tasks have ended.
func (r *Registry) Close() {
	r.flush()
	r.writer.close()
}

func (r *Registry) flush() {
	r.mu.Lock()
	list, lost, full := r.pending, r.lost, len(r.live) >= maxSessions
	r.pending, r.lost = nil, 0
	r.mu.Unlock()
	if full {
		r.forgetEnded()
	}
	if lost > 0 {
		r.cfg.Log.Error("too many sessions; some are not remembered and will not be judged again", "count", lost, "limit", maxSessions)
	}
	if len(list) == 0 {
		return
	}
	err := r.writer.append(list)
	if errors.Is(err, errFull) {
		r.forgetEnded()
		err = r.rewrite()
	}
	r.save(err)
}

func (r *Registry) save(err error) {
	if err != nil {
		r.cfg.Log.Warn("cannot remember sessions across restarts", "error", err)
	}
}

// rewrite is called by the writer, or before there is one.
func (r *Registry) rewrite() error {
	list := r.Sessions()
	for {
		err := r.writer.rewrite(list)
		if err != nil || r.writer.size <= maxFile {
			return err
		}
		list = list[len(list)/2:] // the latest
	}
}

// Count returns how many sessions are remembered: those that live, and those that
// have ended a short while ago.
func (r *Registry) Count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// Sessions returns what is remembered, the oldest first.
func (r *Registry) Sessions() []*Session {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	list := slices.Collect(maps.Values(r.live))
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b *Session) int { return cmp.Compare(a.Cookie, b.Cookie) })
	return list
}

// forgetEnded asks the kernel about every session and forgets those that are gone.
func (r *Registry) forgetEnded() (n int) {
	spaces := make(map[uint64][]*Session)
	for _, s := range r.Sessions() {
		spaces[s.Namespace] = append(spaces[s.Namespace], s)
	}
	for cookie, list := range spaces {
		n += r.forgetEndedOf(cookie, list)
	}
	return n
}

// forgetEndedOf is forgetEnded for the sessions of one network namespace.
func (r *Registry) forgetEndedOf(namespace uint64, list []*Session) (n int) {
	k, err := r.cfg.Kernel(namespace)
	if errors.Is(err, netns.ErrGone) {
		for _, s := range list {
			r.forget(s)
		}
		return len(list)
	}
	if err == nil {
		defer k.Close()
		// Else everything would look as if it were gone.
		err = k.Available()
	}
	if err != nil {
		r.noDiag.Do(func() { r.cfg.Log.Warn("cannot tell which sessions have ended", "error", err) })
		return 0
	}
	for _, s := range list {
		_, err := k.Find(s.ID)
		switch {
		case err == nil:
		case errors.Is(err, sockdiag.ErrGone):
			r.forget(s)
			n++
		default:
			r.cfg.Log.Debug("cannot tell whether a session has ended", "session", s.Name(), "error", err)
			return n
		}
	}
	return n
}

func (r *Registry) forget(s *Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, s.Cookie)
	delete(r.judged, s.Cookie)
}

// JudgeAgain is the task that judges sessions again, when Renew says so and at
// first, and ends those that no longer pass.
func (r *Registry) JudgeAgain(ctx context.Context) error {
	for {
		var retry <-chan time.Time
		if r.judgeAll() > 0 {
			retry = time.After(tidy)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.again:
		case <-retry:
		}
	}
}

// ErrNotYet is returned by Config.Judge where nothing can be said of a peer yet: it
// is asked again a little later, and the session goes on meanwhile.
var ErrNotYet = errors.New("not known yet")

// judgeAll returns how many sessions are to be looked at again: they had to be
// ended and could not be, or could not be judged yet.
func (r *Registry) judgeAll() (again int) {
	began := time.Now()
	count, ended := 0, 0
	for _, s := range r.Sessions() {
		r.mu.Lock()
		done := r.generation > 0 && r.judged[s.Cookie] >= r.generation
		r.mu.Unlock()
		if done {
			continue
		}
		generation, err := r.cfg.Judge(s)
		if errors.Is(err, ErrNotYet) {
			again++
			continue
		}
		count++
		if err == nil {
			r.mu.Lock()
			if _, ok := r.live[s.Cookie]; ok {
				r.judged[s.Cookie] = generation
			}
			r.mu.Unlock()
			continue
		}
		switch err := r.end(s, err); {
		case err == nil:
			ended++
		case !errors.Is(err, sockdiag.ErrGone):
			again++
		}
	}
	if count > 0 {
		r.cfg.Log.Info("sessions judged again", "count", count, "ended", ended, "took", time.Since(began).Round(time.Millisecond))
	}
	return again
}

// end ends a session whose peer no longer passes, and says so.
func (r *Registry) end(s *Session, why error) error {
	attrs := append(attributes(s), "reason", r.cfg.Explain(why), "error", why)
	err := r.destroy(s)
	switch {
	case err == nil:
		r.cfg.Log.Warn("session ended: its peer is no longer accepted", attrs...)
	case !errors.Is(err, sockdiag.ErrGone):
		// It stays due, and is tried again.
		r.cfg.Log.Error("session cannot be ended although its peer is no longer accepted", append(attrs, "failure", err)...)
		return err
	}
	r.forget(s)
	return err
}

func (r *Registry) destroy(s *Session) error {
	k, err := r.cfg.Kernel(s.Namespace)
	if errors.Is(err, netns.ErrGone) {
		return sockdiag.ErrGone
	}
	if err != nil {
		return err
	}
	defer k.Close()
	if err := k.Destroy(s.ID); !errors.Is(err, sockdiag.ErrGone) {
		return err
	}
	// Gone, or not to be asked about?
	if err := k.Available(); err != nil {
		return err
	}
	return sockdiag.ErrGone
}

// attributes are those of a log line.
func attributes(s *Session) []any {
	i := s.Info()
	peer := i.Peer.String()
	if i.PeerName != "" {
		peer = i.PeerName + " (" + peer + ")"
	}
	attrs := []any{"role", s.Role, "session", i.Name, "peer", peer}
	if i.Certificate != nil {
		attrs = append(attrs, "subject", i.Certificate.Subject, "fingerprint", i.Certificate.Fingerprint)
	}
	return append(attrs, "since", s.Began.UTC().Format(time.RFC3339))
}

// The requests on the control socket.
const (
	OpList = "sessions"
	OpKill = "kill"
)

// MaxPage bounds an answer, so that it fits into a line of the control socket.
const MaxPage = 40

// A Query asks for sessions.
type Query struct {
	// After leaves out sessions up to that one, for the next page.
	After string `json:"after,omitempty"`
	// Limit is how many are wanted, 1 to MaxPage; 0 is MaxPage.
	Limit int `json:"limit,omitempty"`
}

// A Page is the answer: sessions that the daemon has set up, by ID. Some of them
// may have ended: the kernel knows. More is set if there is another page.
type Page struct {
	Sessions []Info `json:"sessions,omitempty"`
	More     bool   `json:"more,omitempty"`
}

// Ended is the answer to a Selector with OpKill.
type Ended struct {
	Sessions []Info `json:"sessions,omitempty"`
	// More: as many as fit were ended, and there are others. Ask again.
	More bool `json:"more,omitempty"`
}

// Handlers answer on the control socket.
func (r *Registry) Handlers() map[string]control.Handler {
	return map[string]control.Handler{
		OpList: control.Typed(func(_ context.Context, _ *control.Call, q Query) (Page, error) { return r.page(q) }),
		OpKill: control.Typed(func(_ context.Context, c *control.Call, q Selector) (Ended, error) { return r.kill(c, q) }),
	}
}

func (r *Registry) page(q Query) (p Page, err error) {
	if q.Limit < 0 || q.Limit > MaxPage {
		return Page{}, fmt.Errorf("limit %d: want 1 to %d", q.Limit, MaxPage)
	}
	after := uint64(0)
	if q.After != "" {
		if after, err = ParseName(q.After); err != nil {
			return Page{}, err
		}
	}
	for _, s := range r.Sessions() {
		if s.Cookie <= after {
			continue
		}
		if len(p.Sessions) == cmp.Or(q.Limit, MaxPage) {
			p.More = true
			break
		}
		p.Sessions = append(p.Sessions, s.Info())
	}
	return p, nil
}

func (r *Registry) kill(c *control.Call, q Selector) (e Ended, err error) {
	if err := q.Check(); err != nil {
		return Ended{}, err
	}
	for _, s := range r.Sessions() {
		i := s.Info()
		if !q.Match(i) {
			continue
		}
		if len(e.Sessions) == MaxPage {
			e.More = true
			break
		}
		switch err := r.destroy(s); {
		case err == nil:
			r.cfg.Log.Warn("session ended: somebody asked for it", append(attributes(s), "pid", c.Peer.Pid, "uid", c.Peer.Uid)...)
			e.Sessions = append(e.Sessions, i)
		case errors.Is(err, sockdiag.ErrGone):
		default:
			return Ended{}, err
		}
		r.forget(s)
	}
	return e, nil
}
