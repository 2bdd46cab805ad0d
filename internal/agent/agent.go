// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/internal/handover"
	"rpctls/internal/history"
	"rpctls/internal/keylog"
	"rpctls/internal/logging"
	"rpctls/internal/metrics"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/internal/sparing"
	"rpctls/ktls"
	"rpctls/upcall"
)

// A Plan says how to do one handshake.
type Plan struct {
	// TLS is the configuration; it may be shared and is not modified.
	TLS *tls.Config
	// Patience for the peer's first record, and Heard when it is there, as in
	// [ktls.Options]; nil: as long as for everything else.
	Patience func(waited time.Duration) time.Duration
	Heard    func(waited time.Duration)
	// LateAlert: after the handshake, wait for about a round trip whether
	// the peer refuses our certificate.
	LateAlert bool
	// Accept, if not nil, has the last word on a handshake that succeeded,
	// before any key reaches the kernel.
	Accept func() error
}

// A Result is what became of a handshake.
type Result struct {
	Err    error // nil: keys are installed
	Reason reason.Reason
	State  tls.ConnectionState // zero unless the handshake itself succeeded
	Cipher ktls.Cipher
	Times  ktls.Times // of the handshake, and of the wait for a late alert
}

// A Verdict is what the kernel hears, and when.
type Verdict struct {
	Status     unix.Errno // 0: success
	RemoteAuth []uint32
	// Delay is how long to wait before saying it. It ends early at the
	// request's deadline and when the daemon stops.
	Delay time.Duration
}

// A Role is what is particular to one side. Its methods are called from many
// goroutines at once and do no I/O with the network.
type Role interface {
	// Role is the role of the requests it serves.
	Role() upcall.Role
	// Plan chooses the configuration for a request.
	Plan(*upcall.Request) (Plan, error)
	// Judge decides what the kernel hears of a result.
	Judge(*upcall.Request, Result) Verdict
}

// A Config is what an [Agent] needs.
type Config struct {
	Role             Role
	RuntimeDirectory string // where the siblings' hand-over sockets are
	Log              *slog.Logger
	History          *history.Log // nil remembers nothing
	// Sessions gets what succeeded; nil remembers nothing.
	Sessions *sessions.Registry
	// Generation counts what peers are judged by; nil is always the first.
	Generation func() uint64
	Metrics    *metrics.Handshakes // nil counts nothing
	KeyLog     *keylog.Tap         // nil: nobody is ever told a secret
	// Namespaces says which network namespaces are served beside the one that
	// the process runs in; nil: none.
	Namespaces *Namespaces
}

// An Agent serves requests. Make one with [New].
type Agent struct {
	role       Role
	dir        string
	log        *slog.Logger
	history    *history.Log
	sessions   *sessions.Registry
	metrics    *metrics.Handshakes
	keylog     *keylog.Tap
	generation func() uint64
	spaces     *Namespaces
	gate       tokens
	// Of lines in the log. They are two, so that a storm of the one does not
	// hide the other.
	successes, failures *sparing.Limiter
	pace                pace
	stop                context.Context
	quit                context.CancelFunc
}

// New returns an agent.
func New(cfg Config) *Agent {
	stop, quit := context.WithCancel(context.Background())
	if cfg.Generation == nil {
		cfg.Generation = func() uint64 { return 1 }
	}
	return &Agent{
		role: cfg.Role, dir: cfg.RuntimeDirectory, log: cfg.Log, history: cfg.History, metrics: cfg.Metrics,
		keylog: cfg.KeyLog, sessions: cfg.Sessions, generation: cfg.Generation, spaces: cfg.Namespaces, gate: make(tokens, runtime.NumCPU()),
		successes: sparing.New(func(_ string, n int) {
			cfg.Log.Info("more handshakes succeeded", "count", n, "within", sparing.Window, logging.MoreHandshakes.Attr())
		}),
		failures: sparing.New(func(why string, n int) {
			cfg.Log.Warn("more handshakes failed like those above", "reason", why, "count", n, "within", sparing.Window, logging.MoreHandshakes.Attr())
		}),
		stop: stop, quit: quit,
	}
}

// Stop ends the delays of failed requests and leaves handshakes whose peer is
// silent one more second, so that a daemon that stops does not wait for them.
// What is in the middle of a handshake is finished: its peer has as long as
// handshakes take of late.
func (a *Agent) Stop() { a.quit() }

// pace knows how long handshakes take of late, in nanoseconds: the longest that
// succeeded, forgotten by and by.
type pace struct{ longest atomic.Int64 }

// maxGrace bounds what a restart waits for, in the face of peers that begin and
// do not go on. Requests that come meanwhile wait in the kernel, for five seconds
// at the most (SVC_HANDSHAKE_TO in net/sunrpc/svcsock.c).
const maxGrace = 3 * time.Second

// took notes a success.
func (p *pace) took(d time.Duration) {
	old := p.longest.Load()
	// One of two that come at once may be lost; the next makes up for it.
	p.longest.Store(max(int64(d), old-old/8))
}

// grace is how long a peer that has begun may take when the daemon stops.
func (p *pace) grace() time.Duration { return min(2*time.Duration(p.longest.Load()), maxGrace) }

// tokens lets as many handshakes compute as there are processors.
type tokens chan struct{}

// Enter implements [ktls.Gate].
func (t tokens) Enter(until time.Time) bool {
	select {
	case t <- struct{}{}:
		return true
	default:
	}
	var late <-chan time.Time
	if !until.IsZero() {
		timer := time.NewTimer(time.Until(until))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case t <- struct{}{}:
		return true
	case <-late:
		return false
	}
}

// Leave implements [ktls.Gate].
func (t tokens) Leave() { <-t }

// Handle serves one request to its end. It is the handler of an
// [upcall.Listener].
func (a *Agent) Handle(r *upcall.Request) {
	// Judging and logging meet what the peer has sent, too. Whatever panics,
	// the request is ended by the listener and the daemon goes on.
	defer func() {
		if p := recover(); p != nil {
			a.panicked(r, p)
		}
	}()
	began := time.Now()
	if r.Role != a.role.Role() {
		a.handOver(r)
		return
	}
	generation := a.generation() // of no later judgement than the one that follows
	res := a.run(r)
	v := a.role.Judge(r, res)
	took := time.Since(began)
	if res.Err == nil {
		a.pace.took(took)
	}
	a.count(res, began.Sub(r.Accepted), took)
	a.wait(r, v.Delay)
	// Remembered before the kernel hears of it: who asks when a mount has
	// failed shall find why.
	a.remember(r, res, v, took)
	if res.Err == nil && v.Status == 0 {
		a.enter(r, res, generation)
	}
	err := r.Done(v.Status, v.RemoteAuth...)
	a.record(r, res, v, took)
	if err != nil {
		a.log.Error("cannot report a handshake to the kernel", "peer", r.Peer, "error", err)
	}
}

// count adds a handshake to the metrics, which took so long after it had waited
// for its turn.
func (a *Agent) count(res Result, waited, took time.Duration) {
	t := res.Times
	t.Computing = took - t.Queued - t.Network
	t.Queued += waited
	a.metrics.Add(metrics.Outcome{
		Reason: res.Reason, Agreed: res.State.Version != 0, Cipher: res.Cipher, Group: res.State.CurveID, Times: t,
	})
}

// A panicError is a panic that a handshake ended in.
type panicError struct{ value any }

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// panicked logs a panic; it is called while that is being recovered from.
func (a *Agent) panicked(r *upcall.Request, value any) {
	a.log.Error("panic while serving a request; please report it", "peer", r.Peer, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
}

// run does the handshake and hands the keys over.
func (a *Agent) run(r *upcall.Request) (res Result) {
	defer func() {
		// A peer that finds a way to make us panic gets a failed handshake,
		// judged and paced like any other, and nothing else ends.
		if p := recover(); p != nil {
			a.panicked(r, p)
			res = Result{Err: &panicError{p}}
		}
		res.Reason = reason.Of(res.Err)
	}()
	if err := a.spaces.known(r); err != nil {
		return Result{Err: err}
	}
	plan, err := a.role.Plan(r)
	if err != nil {
		return Result{Err: err}
	}
	heard := a.metrics.Begin()
	defer heard()
	opts := ktls.Options{Deadline: r.Deadline, Patience: plan.Patience, Gate: a.gate, Hurry: a.stop.Done(), Grace: a.pace.grace, KeyLog: a.keylog.Sink()}
	opts.Heard = func(waited time.Duration) {
		heard()
		if plan.Heard != nil {
			plan.Heard(waited)
		}
	}
	s, err := ktls.Handshake(r.Conn(), ktls.Role(r.Role == upcall.Server), plan.TLS, opts)
	if err != nil {
		res = Result{Err: err}
		if he, ok := errors.AsType[*ktls.HandshakeError](err); ok {
			res.Times = he.Times
		}
		return res
	}
	defer s.Wipe()
	res = Result{State: s.State, Cipher: s.Cipher, Times: s.Times}
	if plan.Accept != nil {
		if res.Err = plan.Accept(); res.Err != nil {
			return res
		}
	}
	if plan.LateAlert {
		began := time.Now()
		res.Err = s.LateAlert(r.Conn(), lateWait(r, s))
		res.Times.Network += time.Since(began)
		if res.Err != nil {
			return res
		}
	}
	if res.Err = install(s, r.Conn()); res.Err != nil && r.Role == upcall.Client {
		// No keys go into a connection that the server has closed; if it did so
		// for want of a certificate, it has said that before.
		if last := s.LateAlert(r.Conn(), 0); reason.Of(last) == reason.PeerAlert {
			res.Err = last
		}
	}
	return res
}

// install is a variable for tests.
var install = (*ktls.Session).Install

// Bounds on the wait for a late alert. The least is a variable for tests, whose
// servers share a busy machine with all other tests.
var minLateWait = 5 * time.Millisecond

const maxLateWait = 500 * time.Millisecond

// lateWait is how long the server's verdict on our certificate may take: a
// round trip, and as long to verify our chain as we took to verify its.
func lateWait(r *upcall.Request, s *ktls.Session) time.Duration {
	rtt, err := ktls.RTT(r.Conn())
	if err != nil {
		rtt = 0
	}
	return min(max(rtt+s.Computing, minLateWait), maxLateWait, max(time.Until(r.Deadline), 0))
}

// wait delays an answer.
func (a *Agent) wait(r *upcall.Request, d time.Duration) {
	if d = min(d, time.Until(r.Deadline)); d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.stop.Done():
	}
}

// siblingPause is what a client's request waits for when its daemon did not take
// it, before the kernel hears that it may try again.
const siblingPause = time.Second

// handOver gives a request for the other role to the daemon that serves it.
func (a *Agent) handOver(r *upcall.Request) {
	err := r.HandOver(func(fd int, attrs upcall.Attributes, left time.Duration) error {
		return handover.Give(a.stop, a.dir, fd, attrs, left)
	})
	if err == nil {
		a.log.Debug("request handed over", "role", r.Role, "peer", r.Peer)
		return
	}
	why := reason.Of(err)
	status := unix.ETIMEDOUT
	if why.Definite() {
		status = unix.EOPNOTSUPP
	}
	if status == unix.ETIMEDOUT && r.Role == upcall.Client {
		a.wait(r, siblingPause) // the kernel's client tries again at once
	}
	derr := r.Done(status)
	if derr == nil && !a.failures.Allow(r.Peer.Addr().String(), string(why)) {
		return
	}
	a.log.Warn("cannot serve a request for the other role", "role", r.Role, "peer", r.Peer, "reason", why,
		"missing", handover.DaemonName(r.Role), "error", errors.Join(err, derr), "errno", ErrnoName(status), "hint", why.Hint(), logging.RequestRefused.Attr())
}

// remember adds a handshake to the history.
func (a *Agent) remember(r *upcall.Request, res Result, v Verdict, took time.Duration) {
	e := history.Event{
		Time: time.Now(), Role: r.Role.String(), PeerName: r.PeerName, Peer: r.Peer,
		Mutual: mutual(r, res), Reason: string(res.Reason), Errno: ErrnoName(v.Status), Duration: took,
		Namespace: a.spaces.Set().Name(r.Namespace),
	}
	if res.Err != nil {
		e.Error, e.Hint = bounded(res.Err.Error()), res.Reason.Hint()
	}
	a.history.Add(e)
}

// enter remembers a session for as long as its connection lives. What identifies
// the socket has to be read while its descriptor is at hand.
func (a *Agent) enter(r *upcall.Request, res Result, generation uint64) {
	if a.sessions == nil {
		return
	}
	id, err := sockdiag.Identify(r.Conn(), r.Local, r.Peer)
	if err != nil {
		a.log.Warn("a session is not remembered", "peer", r.Peer, "error", err)
		return
	}
	s := &sessions.Session{
		ID: id, Role: r.Role.String(), PeerName: bounded(r.PeerName), Mutual: mutual(r, res),
		Cipher: uint16(res.Cipher), Began: time.Now(), Generation: generation,
		Namespace: a.spaces.Set().Key(r.Namespace),
	}
	s.SetChain(res.State.PeerCertificates)
	a.sessions.Add(s)
}

// mutual reports whether both sides have shown a certificate, as far as is known.
func mutual(r *upcall.Request, res Result) bool {
	return r.AuthMode == upcall.X509 && (r.Role == upcall.Client || len(res.State.PeerCertificates) > 0)
}

// record writes the log line of a handshake.
func (a *Agent) record(r *upcall.Request, res Result, v Verdict, took time.Duration) {
	level, result, lines, event := slog.LevelInfo, metrics.Success, a.successes, logging.HandshakeSuccess
	if res.Err != nil {
		level, result, lines, event = slog.LevelWarn, metrics.Failure, a.failures, logging.HandshakeFailure
	}
	if !a.log.Enabled(context.Background(), level) {
		return
	}
	// In a storm the line costs a tenth of the handshake, most of it in the
	// journal.
	debugging := a.log.Enabled(context.Background(), slog.LevelDebug)
	if !debugging && !lines.Allow(r.Peer.Addr().String(), string(res.Reason)) {
		return
	}
	attrs := []slog.Attr{
		event.Attr(),
		slog.String("role", r.Role.String()),
		slog.String("peer", Peer(r.PeerName, r.Peer)),
	}
	if name := a.spaces.Set().Name(r.Namespace); name != "" {
		attrs = append(attrs, slog.String("namespace", name))
	}
	attrs = append(attrs,
		slog.String("result", result),
		slog.String("reason", string(res.Reason)))
	if res.State.Version != 0 {
		attrs = append(attrs,
			slog.String("cipher", res.Cipher.String()),
			slog.String("group", res.State.CurveID.String()))
		if res.State.NegotiatedProtocol != "" {
			attrs = append(attrs, slog.String("alpn", res.State.NegotiatedProtocol))
		}
		if len(res.State.PeerCertificates) > 0 {
			leaf := res.State.PeerCertificates[0]
			sum := sha256.Sum256(leaf.Raw)
			attrs = append(attrs,
				slog.String("subject", bounded(leaf.Subject.String())),
				slog.String("fingerprint", hex.EncodeToString(sum[:])))
		}
	}
	attrs = append(attrs,
		slog.String("duration", fmt.Sprintf("%.2fms", float64(took)/float64(time.Millisecond))),
		slog.String("errno", ErrnoName(v.Status)))
	if res.Err != nil {
		attrs = append(attrs, slog.String("error", bounded(res.Err.Error())))
		if h := res.Reason.Hint(); h != "" {
			attrs = append(attrs, slog.String("hint", h))
		}
	}
	a.log.LogAttrs(context.Background(), level, "handshake "+result, attrs...)
}

// maxText bounds what a peer can put into a log line, in bytes.
const maxText = 512

func bounded(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

// Peer names a peer: the name it was mounted by, if any, and its address.
func Peer(name string, addr netip.AddrPort) string {
	switch {
	case !addr.IsValid() && name == "":
		return "unknown"
	case !addr.IsValid():
		return name
	case name == "":
		return addr.String()
	}
	return name + " (" + addr.String() + ")"
}

// ErrnoName is the symbolic name of a status, "0" for success.
func ErrnoName(e unix.Errno) string {
	switch e {
	case 0:
		return "0"
	case unix.EOPNOTSUPP:
		return "EOPNOTSUPP" // the same number as ENOTSUP
	}
	if n := unix.ErrnoName(e); n != "" {
		return n
	}
	return fmt.Sprint(uint(e))
}
