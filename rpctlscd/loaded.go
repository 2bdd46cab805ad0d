// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/alpn"
	"rpctls/internal/config"
	"rpctls/internal/daemon"
	"rpctls/internal/names"
	"rpctls/internal/netns"
	"rpctls/internal/pin"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/status"
	"rpctls/rpc"
)

// Loaded is what the configuration's files hold. It does not change.
type Loaded struct {
	servers   []server // the last one matches everything
	named     map[string]named
	trouble   []string // with named ones
	alpn      config.ALPN
	reconnect Reconnect
	spaces    []space
}

// A space is how to talk to servers in some network namespaces.
type space struct {
	match   []netns.Pattern
	servers []server // the last one matches everything
}

// server is how to talk to some servers.
type server struct {
	match    []names.Pattern
	identity *certs.Identity // nil: none
	trust    *certs.Trust
	pin      []pin.Pin
}

// Build loads the files that c names.
func Build(c Config, f *certs.Files) (*Loaded, error) { return build(c, f, nil) }

// rebuild returns a Build that knows what it has loaded the last time. It is called
// by one goroutine at a time, as [certs.Live] does.
func rebuild() func(Config, *certs.Files) (*Loaded, error) {
	var before map[string]named
	return func(c Config, f *certs.Files) (*Loaded, error) {
		l, err := build(c, f, before)
		if err == nil {
			before = l.named
		}
		return l, err
	}
}

func build(c Config, f *certs.Files, before map[string]named) (*Loaded, error) {
	l := &Loaded{alpn: c.ALPN, reconnect: c.Reconnect}
	rest, err := override(server{}, config.Namespace{Certificate: c.Certificate, PrivateKey: c.PrivateKey, Trust: c.Trust}, c.Settings, f)
	if err != nil {
		return nil, err
	}
	if l.servers, err = loadServers(c, rest, nil, f); err != nil {
		return nil, err
	}
	for _, n := range c.Spaces {
		in := c
		in.Settings = c.In(n)
		rest, err := override(rest, n, in.Settings, f)
		var servers []server
		if err == nil {
			servers, err = loadServers(in, rest, l.servers, f)
		}
		if err != nil {
			return nil, fmt.Errorf("namespace %s: %w", netns.Join(n.Match), err)
		}
		l.spaces = append(l.spaces, space{n.Match, servers})
	}
	l.loadNamed(c, f, before)
	return l, nil
}

// override returns s with what n sets loaded anew; settings are those that result.
func override(s server, n config.Namespace, settings config.Settings, f *certs.Files) (_ server, err error) {
	if n.Certificate != "" {
		if s.identity, err = certs.LoadIdentity(f, string(n.Certificate), string(n.PrivateKey)); err != nil {
			return server{}, err
		}
	}
	if n.Trust != "" || n.CRL != nil {
		if s.trust, err = daemon.LoadTrust(settings, f); err != nil {
			return server{}, err
		}
	}
	return s, nil
}

// loadServers loads the files of the server blocks, and puts rest, which is for all
// others, at the end. Others are those of our own namespace, or nil: a certificate
// that a block names is the same everywhere.
func loadServers(c Config, rest server, others []server, f *certs.Files) (list []server, err error) {
	for i, sc := range c.Servers {
		own := config.Namespace{Certificate: sc.Certificate, PrivateKey: sc.PrivateKey, Trust: sc.Trust, CRL: sc.CRL}
		base := server{match: sc.Match, identity: rest.identity, trust: rest.trust, pin: sc.Pin}
		if others != nil && own.Certificate != "" {
			base.identity, own.Certificate = others[i].identity, ""
		}
		s, err := override(base, own, c.In(own), f)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return append(list, rest), nil
}

// in returns how to talk to servers in a network namespace with these names; none:
// our own.
func (l *Loaded) in(paths []string) []server {
	for _, s := range l.spaces {
		if netns.MatchAny(s.match, paths) {
			return s.servers
		}
	}
	return l.servers
}

// all are the servers of all namespaces, those of our own first.
func (l *Loaded) all() []server {
	list := slices.Clone(l.servers)
	for _, s := range l.spaces {
		list = append(list, s.servers...)
	}
	return list
}

// Warnings says what will soon be, or is, wrong.
func (l *Loaded) Warnings(now time.Time) (w []string) {
	for _, s := range l.all() {
		if s.identity != nil {
			w = append(w, s.identity.Warnings(now)...)
		}
		w = append(w, s.trust.Warnings(now)...)
	}
	w = append(w, l.namedWarnings(now)...)
	slices.Sort(w)
	return slices.Compact(w) // blocks share what they do not set
}

// Inventory describes what is loaded, for status and metrics.
func (l *Loaded) Inventory(now time.Time) (inv status.Inventory) {
	rest := l.servers[len(l.servers)-1]
	inv.AddIdentity(status.Default, rest.identity, now)
	inv.AddTrust(status.Default, rest.trust, now)
	for _, s := range l.servers[:len(l.servers)-1] {
		use := "server " + names.Join(s.match)
		if s.identity != rest.identity { // blocks share what they do not set
			inv.AddIdentity(use, s.identity, now)
		}
		if s.trust != rest.trust {
			inv.AddTrust(use, s.trust, now)
		}
	}
	for _, in := range l.spaces {
		use, own := "namespace "+netns.Join(in.match), in.servers[len(in.servers)-1]
		if own.identity != rest.identity {
			inv.AddIdentity(use, own.identity, now)
		}
		if own.trust != rest.trust {
			inv.AddTrust(use, own.trust, now)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.named)) {
		if n := l.named[name]; n.err != nil {
			inv.AddBroken("mount "+name, n.err)
		} else {
			inv.AddIdentity("mount "+name, n.identity, now)
		}
	}
	return inv
}

// find returns how to talk, from our own network namespace, to the server of that
// name or address.
func (l *Loaded) find(hosts ...string) server { return find(l.servers, hosts...) }

func find(servers []server, hosts ...string) server {
	last := len(servers) - 1
	for _, s := range servers[:last] {
		if names.Any(s.match, hosts...) {
			return s
		}
	}
	return servers[last]
}

// judge decides whether the chain that the server called name has sent is
// believed, and returns the chains to trust anchors that stood.
func (s server) judge(chain []*x509.Certificate, name string, now time.Time) ([][]*x509.Certificate, error) {
	chains, err := s.trust.Verify(chain, certs.ServerAuth, name, now)
	if err != nil {
		return nil, err
	}
	if len(s.pin) > 0 {
		seen := pin.Of(chain[0])
		if !slices.Contains(s.pin, seen) {
			return nil, &reason.PinError{Seen: seen.String()}
		}
	}
	return chains, nil
}

// Rejudge implements daemon.Rejudger.
func (r *Role) Rejudge(s *sessions.Session, chain []*x509.Certificate, now time.Time) error {
	paths, err := r.spaces.Paths(s.Namespace)
	if err != nil {
		return nil // no verdict: it is about to be forgotten
	}
	_, err = find(r.live.Get().in(paths), s.PeerName, addrText(s.Remote.Addr())).judge(chain, s.PeerName, now)
	return err
}

// plan returns how to do one handshake with the server called name. With
// mutual set, our identity is presented and has to be asked for: a server that
// does not ask has not authenticated us, whatever the mount believes.
func (s server) plan(name string, mutual bool, policy config.ALPN) agent.Plan {
	asked := false
	sni := name
	if _, literal := names.Addr(name); literal {
		sni = "" // RFC 6066 section 3: no literal addresses
	}
	cfg := &tls.Config{
		ServerName: sni,
		NextProtos: []string{rpc.ALPN},
		// crypto/tls would verify as a web browser does. VerifyConnection
		// replaces all of it, and fails closed: it is called for every
		// handshake, with what the server sent.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			now := time.Now()
			chains, err := s.judge(cs.PeerCertificates, name, now)
			if err != nil {
				return err
			}
			if err := s.trust.CheckStaple(cs.OCSPResponse, chains, now); err != nil {
				return err
			}
			return alpn.Check(policy, cs)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			if !mutual {
				return &tls.Certificate{}, nil // the mount wants to stay anonymous
			}
			return s.identity.Certificate(), nil
		},
	}
	plan := agent.Plan{TLS: cfg, LateAlert: mutual}
	if mutual {
		plan.Accept = func() error {
			if !asked {
				return reason.ErrNotAsked
			}
			return nil
		}
	}
	return plan
}
