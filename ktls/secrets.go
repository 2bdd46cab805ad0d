// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
)

// secrets are what a Conn learns of its handshake beside what crypto/tls tells
// everybody: the session's secrets, by the key log. They live until the kernel
// has the keys, or does not get them.
type secrets struct {
	secretLog
	also io.Writer // the caller's key log; may be nil
	// resumed is the master secret of the TLS 1.2 session that may be resumed:
	// crypto/tls writes none to the key log then.
	resumed []byte
	sent    sentCounter
}

// Write implements the key log, like [secretLog.Write].
func (s *secrets) Write(line []byte) (int, error) {
	if s.also != nil {
		// crypto/tls holds its lock for all key logs meanwhile.
		if n, err := s.also.Write(line); err != nil {
			return n, err
		}
	}
	return s.secretLog.Write(line)
}

func (s *secrets) wipe() {
	if s == nil {
		return
	}
	s.secretLog.wipe()
	clear(s.resumed)
	s.resumed = nil
	s.sent.wipe()
}

// reveal returns a copy of cfg that tells s the session's secrets, and is the
// same otherwise.
func (s *secrets) reveal(cfg *tls.Config, client bool, inner net.Conn) *tls.Config {
	s.also = cfg.KeyLogWriter
	original := cfg
	cfg = cloneConfig(original, client)
	cfg.KeyLogWriter = s
	if client && cfg.ClientSessionCache != nil {
		cfg.ClientSessionCache = &clientCache{cfg.ClientSessionCache, s}
	}
	if !client {
		s.keepInTickets(cfg, original)
	}
	unseen(cfg, inner)
	if get := cfg.GetConfigForClient; get != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			other, err := get(h)
			if other == nil || err != nil {
				return other, err
			}
			// Its ticket keys are its own, if it has any, or cfg's; nobody but
			// crypto/tls can tell. So its TLS 1.2 sessions are not resumed
			// into the kernel.
			s.also = other.KeyLogWriter
			other = other.Clone()
			other.KeyLogWriter = s
			unseen(other, inner)
			return other, nil
		}
	}
	return cfg
}

// cloneConfig is cfg's Clone.
func cloneConfig(cfg *tls.Config, client bool) *tls.Config {
	if !client {
		// crypto/tls makes its ticket keys when it needs them first, and would
		// make them in each copy anew, so that no copy knows another's tickets.
		// A look at a ticket makes them in the original.
		_, _ = cfg.DecryptTicket(nil, tls.ConnectionState{})
	}
	return cfg.Clone()
}

// looksAtConn: a callback of cfg is told the connection.
func looksAtConn(cfg *tls.Config) bool {
	return cfg.GetCertificate != nil || cfg.GetConfigForClient != nil || cfg.GetEncryptedClientHelloKeys != nil
}

// unseen lets cfg's callbacks have inner for the connection, as if the wire were
// not there.
func unseen(cfg *tls.Config, inner net.Conn) {
	if get := cfg.GetCertificate; get != nil {
		cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
			h.Conn = inner
			return get(h)
		}
	}
	if get := cfg.GetEncryptedClientHelloKeys; get != nil {
		cfg.GetEncryptedClientHelloKeys = func(h *tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
			h.Conn = inner
			return get(h)
		}
	}
	if get := cfg.GetConfigForClient; get != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			h.Conn = inner
			return get(h)
		}
	}
}

// extraLabel marks, in a session's Extra, the master secret of a TLS 1.2
// session. The session holds it as well, in a form that only crypto/tls reads.
var extraLabel = []byte("rpctls/ktls: TLS 1.2 master secret: ")

// keep puts the TLS 1.2 master secret of this session into ss, if it has one.
func (s *secrets) keep(ss *tls.SessionState) bool {
	master := s.secrets[labelMaster]
	if len(master) == 0 {
		master = s.resumed
	}
	if len(master) == 0 || len(s.secrets[labelClientTraffic]) > 0 {
		return false
	}
	var extra [][]byte
	for _, e := range ss.Extra {
		if !bytes.HasPrefix(e, extraLabel) {
			extra = append(extra, e)
		}
	}
	ss.Extra = append(extra, append(bytes.Clone(extraLabel), master...))
	return true
}

// recall remembers the master secret of a session that may be resumed. The
// session may be shared: it is not changed.
func (s *secrets) recall(ss *tls.SessionState) {
	clear(s.resumed)
	s.resumed = nil
	for _, e := range ss.Extra {
		if m, ok := bytes.CutPrefix(e, extraLabel); ok && len(m) == masterLen {
			s.resumed = bytes.Clone(m)
		}
	}
}

// keepInTickets makes a server's tickets carry TLS 1.2's master secret, under
// the same encryption as the rest of the session.
func (s *secrets) keepInTickets(cfg, original *tls.Config) {
	wrap, unwrap := cfg.WrapSession, cfg.UnwrapSession
	if wrap == nil {
		wrap = original.EncryptTicket
	}
	if unwrap == nil {
		unwrap = original.DecryptTicket
	}
	cfg.WrapSession = func(cs tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
		if cs.Version == tls.VersionTLS12 {
			s.keep(ss)
		}
		return wrap(cs, ss)
	}
	cfg.UnwrapSession = func(identity []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := unwrap(identity, cs)
		if ss != nil {
			s.recall(ss)
		}
		return ss, err
	}
}

// A clientCache does the same for a client's sessions.
type clientCache struct {
	tls.ClientSessionCache
	s *secrets
}

func (c *clientCache) Get(key string) (*tls.ClientSessionState, bool) {
	cs, ok := c.ClientSessionCache.Get(key)
	if !ok || cs == nil {
		return cs, ok
	}
	if _, ss, err := cs.ResumptionState(); err == nil && ss != nil {
		c.s.recall(ss)
	}
	return cs, ok
}

func (c *clientCache) Put(key string, cs *tls.ClientSessionState) {
	if cs != nil {
		if ticket, ss, err := cs.ResumptionState(); err == nil && ss != nil && c.s.keep(ss) {
			if with, err := tls.NewResumptionState(ticket, ss); err == nil {
				cs = with
			}
		}
	}
	c.ClientSessionCache.Put(key, cs)
}

// watch lets s count what w sends.
func (s *secrets) watch(w *wire) {
	label := labelServerTraffic
	if w.client {
		label = labelClientTraffic
	}
	w.countTX = func(record []byte) {
		if secret := s.secrets[label]; len(secret) > 0 {
			s.sent.see(w, secret, record)
		}
	}
}

// A sentCounter counts the records that crypto/tls sends under the application
// keys of TLS 1.3 before the kernel has them: a server's session tickets. It
// looks: a record is one if the key and the next number open it.
type sentCounter struct {
	count  uint64
	cipher Cipher
	keys   *trafficKeys
	err    error
}

func (s *sentCounter) see(w *wire, secret, record []byte) {
	if s.keys == nil && s.err == nil {
		_, h, err := w.hellos()
		if err != nil {
			s.err = err
			return
		}
		c, ok := cipherOf(h.suite)
		if !ok {
			return // TLS 1.2, or a suite that the kernel does not have
		}
		keys, err := deriveKeys(c, secret)
		if err != nil {
			s.err = err
			return
		}
		s.cipher, s.keys = c, &keys
	}
	if s.keys == nil {
		return
	}
	if _, _, err := s.keys.open(s.cipher, s.count, record); err == nil {
		s.count++
	}
}

func (s *sentCounter) wipe() {
	if s.keys != nil {
		s.keys.wipe()
	}
}
