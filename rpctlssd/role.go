// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/alpn"
	"rpctls/internal/config"
	"rpctls/internal/daemon"
	"rpctls/internal/forward"
	"rpctls/internal/halfopen"
	"rpctls/internal/lifecycle"
	"rpctls/internal/names"
	"rpctls/internal/netns"
	"rpctls/internal/nfsd"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/status"
	"rpctls/ktls"
	"rpctls/rpc"
	"rpctls/upcall"
)

// Program is the daemon.
func Program() daemon.Program[Config, Loaded] {
	// What is known of names outlives a reload.
	table := forward.New(forward.System())
	return daemon.Program[Config, Loaded]{
		Name:     "rpctlssd",
		About:    "answers the kernel's TLS handshakes for the NFS server",
		Load:     Load,
		Settings: func(c Config) config.Settings { return c.Settings },
		Build: func(c Config, f *certs.Files) (*Loaded, error) {
			l, err := build(c, f, table)
			if err == nil {
				l.expect()
			}
			return l, err
		},
		Warnings:  (*Loaded).Warnings,
		Inventory: (*Loaded).Inventory,
		Role: func(_ Config, live *certs.Live[Loaded], log *slog.Logger) (agent.Role, error) {
			r := &Role{live: live, log: log, halfOpen: halfopen.New(), table: table, others: make(map[uint64]*halfopen.Table)}
			r.threads.Store(-1)
			return r, nil
		},
	}
}

// Loaded is what the configuration's files hold. It does not change.
type Loaded struct {
	tls         *tls.Config
	firstRecord time.Duration // the most; 0: no limit
	identities  []*certs.Identity
	uses        []string // of the identities
	clients
	spaces []space // what differs in other network namespaces
}

// A space is what is loaded for some network namespaces.
type space struct {
	match []netns.Pattern
	of    config.Namespace
	*Loaded
}

// build loads the files that c names.
func build(c Config, f *certs.Files, table *forward.Table) (*Loaded, error) {
	cl, err := loadClients(c, f, table)
	if err != nil {
		return nil, err
	}
	l, err := buildOne(c, f, cl)
	if err != nil {
		return nil, err
	}
	for _, n := range c.Spaces {
		in, cl := c.in(n), cl // which is the same where nothing else is said: trust is large
		if n.Trust != "" || n.CRL != nil {
			cl, err = loadClients(in, f, table)
		}
		var inside *Loaded
		if err == nil {
			inside, err = buildOne(in, f, cl)
		}
		if err != nil {
			return nil, fmt.Errorf("namespace %s: %w", netns.Join(n.Match), err)
		}
		l.spaces = append(l.spaces, space{n.Match, n, inside})
	}
	return l, nil
}

// in returns what goes for a network namespace with these names; none: our own.
func (l *Loaded) in(paths []string) *Loaded {
	for _, s := range l.spaces {
		if netns.MatchAny(s.match, paths) {
			return s.Loaded
		}
	}
	return l
}

// buildOne loads the files for some network namespaces.
func buildOne(c Config, f *certs.Files, cl clients) (*Loaded, error) {
	l := &Loaded{clients: cl}
	main, err := certs.LoadIdentity(f, string(c.Certificate), string(c.PrivateKey))
	if err != nil {
		return nil, err
	}
	l.identities, l.uses = append(l.identities, main), append(l.uses, status.Default)
	type named struct {
		match    []names.Pattern
		identity *certs.Identity
	}
	var byName []named
	for _, ic := range c.Identities {
		id, err := certs.LoadIdentity(f, string(ic.Certificate), string(ic.PrivateKey))
		if err != nil {
			return nil, err
		}
		l.identities, l.uses = append(l.identities, id), append(l.uses, "name "+names.Join(ic.Match))
		byName = append(byName, named{ic.Match, id})
	}
	l.firstRecord = c.FirstRecordTimeout
	l.tls = &tls.Config{
		NextProtos: []string{rpc.ALPN},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			for _, n := range byName {
				if names.Any(n.match, hello.ServerName) {
					return n.identity.Certificate(), nil
				}
			}
			return main.Certificate(), nil
		},
		ClientAuth: clientAuth[c.ClientCertificate],
		// crypto/tls judges nothing with these ClientAuth values: all of
		// it happens in VerifyConnection, before the client's signature is
		// checked and long before any key reaches the kernel.
		VerifyConnection: l.verifier(netip.Addr{}),
	}
	return l, nil
}

// checkStaple judges the OCSP response that a client may send with its certificate,
// which has been judged before.
func (l *Loaded) checkStaple(cs tls.ConnectionState, now time.Time) error {
	if len(cs.OCSPResponse) == 0 || l.trust == nil {
		return nil
	}
	chains, err := l.trust.Verify(cs.PeerCertificates, certs.ClientAuth, "", now)
	if err != nil {
		return err
	}
	return l.trust.CheckStaple(cs.OCSPResponse, chains, now)
}

// Rejudge implements daemon.Rejudger. Where clients are not asked for certificates
// (any more), one that has shown its own is as good as one that has not.
func (r *Role) Rejudge(s *sessions.Session, chain []*x509.Certificate, now time.Time) error {
	paths, err := r.spaces.Paths(s.Namespace)
	if err != nil {
		return nil // no verdict: it is about to be forgotten
	}
	l := r.live.Get().in(paths)
	if l.trust == nil {
		chain = nil
	}
	err = l.judge(chain, s.Remote.Addr(), now)
	if reason.Of(err) == reason.AddressUnknown {
		// After a restart no name has been looked up yet.
		return sessions.ErrNotYet
	}
	return err
}

var clientAuth = map[ClientCertificate]tls.ClientAuthType{
	CertificateNone:    tls.NoClientCert,
	CertificateRequest: tls.RequestClientCert,
	CertificateRequire: tls.RequestClientCert, // and VerifyConnection insists
}

// verifier judges clients at an address.
func (l *Loaded) verifier(from netip.Addr) func(tls.ConnectionState) error {
	return func(cs tls.ConnectionState) error {
		if err := alpn.Check(l.alpn, cs); err != nil {
			return err
		}
		now := time.Now()
		if err := l.judge(cs.PeerCertificates, from, now); err != nil {
			return err
		}
		return l.checkStaple(cs, now)
	}
}

// tlsFor returns the configuration for one client. crypto/tls does not tell its
// callbacks where a client is, so whoever's address matters gets one of its own:
// a copy costs some hundred nanoseconds.
func (l *Loaded) tlsFor(from netip.Addr) *tls.Config {
	if !l.needsSource() {
		return l.tls
	}
	cfg := l.tls.Clone()
	cfg.VerifyConnection = l.verifier(from)
	return cfg
}

// Warnings says what will soon be, or is, wrong.
func (l *Loaded) Warnings(now time.Time) (w []string) {
	for _, s := range l.spaces {
		w = append(w, s.ownWarnings(now)...)
	}
	for _, id := range l.identities {
		w = append(w, id.Warnings(now)...)
	}
	if l.trust != nil {
		w = append(w, l.trust.Warnings(now)...)
	}
	if l.requireAddress {
		if err := forward.CanLookUp(); err != nil {
			w = append(w, fmt.Sprintf("require_address_match: %v: only addresses in certificates and names in /etc/hosts count", err))
		}
		if l.unexpected > 0 {
			w = append(w, fmt.Sprintf("require_address_match: %d names of clients are too many to be looked up ahead: those clients have to try twice", l.unexpected))
		}
	}
	return w
}

// ownWarnings are those about what a block sets.
func (s space) ownWarnings(now time.Time) (w []string) {
	if s.of.Certificate != "" {
		for _, id := range s.identities {
			w = append(w, id.Warnings(now)...)
		}
	}
	if s.trust != nil && (s.of.Trust != "" || s.of.CRL != nil) {
		w = append(w, s.trust.Warnings(now)...)
	}
	return w
}

// Inventory describes what is loaded, for status and metrics.
func (l *Loaded) Inventory(now time.Time) (inv status.Inventory) {
	for i, id := range l.identities {
		inv.AddIdentity(l.uses[i], id, now)
	}
	inv.AddTrust(status.Default, l.trust, now)
	for _, s := range l.spaces {
		use := "namespace " + netns.Join(s.match)
		if s.of.Certificate != "" {
			inv.AddIdentity(use, s.identities[0], now)
		}
		if s.of.Trust != "" || s.of.CRL != nil {
			inv.AddTrust(use, s.trust, now)
		}
	}
	return inv
}

// Role is the server's [agent.Role].
type Role struct {
	live     *certs.Live[Loaded]
	log      *slog.Logger
	halfOpen *halfopen.Table
	table    *forward.Table
	threads  atomic.Int64 // nfsd's; -1: it does not answer

	spaces *netns.Set // nil: none but our own
	mu     sync.Mutex // guards others
	others map[uint64]*halfopen.Table
}

// UseNamespaces implements daemon.Namespaced.
func (r *Role) UseNamespaces(s *netns.Set) { r.spaces = s }

// halfOpenIn is the table of a network namespace: nfsd's threads are its own, and
// so are those who keep them waiting.
func (r *Role) halfOpenIn(cookie uint64) *halfopen.Table {
	if cookie = r.spaces.Key(cookie); cookie == 0 {
		return r.halfOpen
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.others[cookie]
	if t == nil {
		t = halfopen.New()
		r.others[cookie] = t
	}
	return t
}

// Threads returns how many threads nfsd had when it was looked at last, if it
// answered.
func (r *Role) Threads() (int, bool) {
	n := int(r.threads.Load())
	return n, n >= 0
}

// Role implements [agent.Role].
func (*Role) Role() upcall.Role { return upcall.Server }

// Plan implements [agent.Role].
func (r *Role) Plan(req *upcall.Request) (agent.Plan, error) {
	paths, err := r.spaces.Paths(req.Namespace)
	if err != nil {
		return agent.Plan{}, err // never with the identity of another
	}
	halfOpen := r.halfOpenIn(req.Namespace)
	halfOpen.Begin()
	l := r.live.Get().in(paths)
	plan := agent.Plan{TLS: l.tlsFor(req.Peer.Addr()), Heard: halfOpen.Heard}
	if l.firstRecord > 0 {
		rtt := time.Duration(-1)
		plan.Patience = func(waited time.Duration) time.Duration {
			if rtt < 0 {
				// Without it patience is that for a client nearby.
				rtt, _ = ktls.RTT(req.Conn())
			}
			return halfOpen.Patience(req.Peer.Addr(), rtt, l.firstRecord) - waited
		}
	}
	return plan, nil
}

// outcome is what a client has shown of itself.
func outcome(err error) halfopen.Outcome {
	failed, ok := errors.AsType[*ktls.HandshakeError](err)
	switch {
	case errors.Is(err, ktls.ErrNoTurn): // it was not even asked
		return halfopen.Unknown
	case !ok || failed.Records > 0: // whatever failed, it was not the client's silence
		return halfopen.Spoke
	case errors.Is(err, ktls.ErrNoFirstRecord), errors.Is(err, os.ErrDeadlineExceeded):
		return halfopen.Silent
	}
	return halfopen.Unknown
}

// nfsdEvery is how often nfsd is asked for the number of its threads: an
// administrator changes it, nothing else does.
const nfsdEvery = 5 * time.Second

// Tasks are what the role does beside requests.
func (r *Role) Tasks() []lifecycle.Task {
	return []lifecycle.Task{
		lifecycle.New("watch nfsd", r.watchNFSD),
		lifecycle.New("look names up", func(ctx context.Context) error { return r.table.Run(ctx, r.log) }),
	}
}

func (r *Role) watchNFSD(ctx context.Context) error {
	tick := time.NewTicker(nfsdEvery)
	defer tick.Stop()
	last := -1
	for {
		n, err := nfsd.Threads()
		if err == nil {
			r.threads.Store(int64(n))
		} else {
			r.threads.Store(-1)
			n = 0
		}
		if n != last {
			r.halfOpen.SetThreads(n)
			r.log.Debug("nfsd's threads", "threads", n, "error", err)
			last = n
		}
		r.watchOthers()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// watchOthers asks nfsd in the other network namespaces, and forgets those that are
// gone.
func (r *Role) watchOthers() {
	for _, n := range r.spaces.Others() {
		threads := 0
		err := n.Do(func() (err error) { threads, err = nfsd.Threads(); return err })
		if err != nil {
			threads = 0
		}
		r.halfOpenIn(n.Cookie()).SetThreads(threads)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for cookie := range r.others {
		if _, err := r.spaces.Find(cookie); err != nil { // and hence no request is left
			delete(r.others, cookie)
		}
	}
}

// Judge implements [agent.Role]. The kernel only distinguishes zero, but its
// trace events show the number.
func (r *Role) Judge(req *upcall.Request, res agent.Result) agent.Verdict {
	if res.Reason == reason.Unsupported {
		return agent.Verdict{Status: unix.EACCES} // of no namespace of ours: Plan has not begun
	}
	r.halfOpenIn(req.Namespace).End(req.Peer.Addr(), outcome(res.Err))
	switch {
	case res.Err == nil && len(res.State.PeerCertificates) > 0:
		return agent.Verdict{RemoteAuth: []uint32{upcall.RemoteAuthenticated}}
	case res.Err == nil:
		return agent.Verdict{}
	case res.Reason.Definite():
		return agent.Verdict{Status: unix.EACCES}
	case res.Reason == reason.Internal, res.Reason == reason.OutOfResources:
		return agent.Verdict{Status: unix.EIO}
	}
	return agent.Verdict{Status: unix.ETIMEDOUT}
}
