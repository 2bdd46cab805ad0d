// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A Role is a side of the handshake.
type Role bool

// The two roles.
const (
	RoleClient Role = false
	RoleServer Role = true
)

// String returns "client" or "server".
func (r Role) String() string {
	if r == RoleServer {
		return "server"
	}
	return "client"
}

// Errors of a handshake that a caller may want to tell apart. Besides them
// stand *[AlertError], [tls.RecordHeaderError], [io.EOF] for a peer that
// closed, [os.ErrDeadlineExceeded], system call errors such as ECONNRESET, and
// whatever the configuration's own callbacks return.
var (
	// ErrNoFirstRecord: the caller's patience ended before the peer had sent
	// one whole record.
	ErrNoFirstRecord = errors.New("no first record in time")
	// ErrNoTurn: the deadline passed while others computed ([Gate]).
	ErrNoTurn = errors.New("no processor was free in time")
)

// A Gate limits how many handshakes compute at once. A handshake is inside
// its gate while it computes and outside while it waits for the network, so a
// silent peer holds nothing.
type Gate interface {
	// Enter waits for a place and reports whether there was one until then.
	// The zero time is no limit.
	Enter(until time.Time) bool
	Leave()
}

// Options are what a handshake needs beside its TLS configuration. The zero
// value is usable.
type Options struct {
	// Deadline ends the handshake with [os.ErrDeadlineExceeded]. Zero: none.
	Deadline time.Time

	// Patience is asked before each wait for the peer's first record, with
	// the time since the first such wait began; it returns how much longer
	// to wait at most before it is asked again. Zero or less gives the
	// handshake up with [ErrNoFirstRecord], but never while the socket has
	// data to read. Nil: no limit but Deadline.
	Patience func(waited time.Duration) time.Duration

	// Heard, if not nil, is told once that the peer's first record is there,
	// and how long it was waited for.
	Heard func(waited time.Duration)

	// Hurry, once closed, leaves a peer that is waited for one more second in
	// all, or Grace if it has sent a record. What has arrived is read all the
	// same. Nil: never.
	Hurry <-chan struct{}

	// Grace says how long a peer that has sent a record may take once Hurry is
	// closed; less than a second is a second, and so is nil.
	Grace func() time.Duration

	// Gate is entered by Handshake and left when it returns. Without a place
	// before the deadline the handshake ends with [ErrNoTurn]. Nil: none.
	Gate Gate

	// KeyLog, if not nil, is told the session's secrets as they are made, each a
	// line of an NSS key log (RFC 9850 section 2). The line is only lent: it is
	// wiped when KeyLog returns. It is called on Handshake's goroutine.
	KeyLog func(line []byte)
}

// hurry is what is left to a silent peer when Options.Hurry has been closed.
const hurry = time.Second

// Times say where the wall-clock time of a handshake went, whatever became of
// it.
type Times struct {
	// Queued is how long it waited for a place inside [Options.Gate].
	Queued time.Duration
	// Network is how long it waited for its peer.
	Network time.Duration
	// Computing is all the rest.
	Computing time.Duration
}

// A Session is a finished handshake whose application keys have not been
// handed to the kernel yet, or have. It is used by one goroutine.
type Session struct {
	// State describes the session. Its ExportKeyingMaterial keeps secrets of
	// its own alive: do not retain State longer than needed.
	State tls.ConnectionState
	// Cipher is the AEAD both directions use.
	Cipher Cipher
	Times

	role   Role
	secret map[string][]byte
}

// Handshake opens a TLS 1.3 session over t as role (RFC 8446 section 2).
//
// cfg is not modified and may be shared. Whatever it says, the version is TLS
// 1.3, session tickets and the session cache are off, and its KeyLogWriter is
// not used. On success nothing beyond the peer's last handshake record has
// been taken from t and nothing beyond our own Finished written to it. On
// failure the alert, if there is one to send, has been sent, and t can only be
// closed. Any error is a *[HandshakeError].
func Handshake(t Transport, role Role, cfg *tls.Config, opts Options) (*Session, error) {
	began := time.Now()
	c, err := newRecordConn(t, opts)
	if err != nil {
		return nil, &HandshakeError{Role: role, Err: err}
	}
	if err := c.enter(); err != nil {
		return nil, &HandshakeError{Role: role, Times: c.times(began), Err: err}
	}
	defer c.leave()
	// The waits leave deadlines behind.
	defer t.SetReadDeadline(time.Time{})
	defer t.SetWriteDeadline(time.Time{})
	log := &secretLog{also: opts.KeyLog}
	cfg = cfg.Clone()
	cfg.MinVersion, cfg.MaxVersion = tls.VersionTLS13, tls.VersionTLS13
	cfg.SessionTicketsDisabled = true
	cfg.ClientSessionCache = nil
	cfg.KeyLogWriter = log
	if verify := cfg.VerifyConnection; verify != nil {
		cfg.VerifyConnection = func(cs tls.ConnectionState) error {
			err := verify(cs)
			if a, ok := errors.AsType[alerter](err); ok {
				c.substitute = log.alertRecord(role, cs.CipherSuite, Alert(a.TLSAlert()))
				c.substituted = Alert(a.TLSAlert())
			}
			return err
		}
	}
	conn := tls.Client(c, cfg)
	if role == RoleServer {
		conn = tls.Server(c, cfg)
	}
	if err := conn.Handshake(); err != nil {
		log.wipe()
		return nil, &HandshakeError{Role: role, Records: c.records, Times: c.times(began), Err: c.explain(err)}
	}
	s := &Session{
		State:  conn.ConnectionState(),
		Times:  c.times(began),
		role:   role,
		secret: log.secrets,
	}
	var ok bool
	if s.Cipher, ok = cipherOf(s.State.CipherSuite); !ok {
		err = fmt.Errorf("%w: %s", ErrCipher, tls.CipherSuiteName(s.State.CipherSuite))
	} else if !c.atBoundary() {
		err = ErrLeftover
	} else if len(s.secret[labelClientTraffic]) == 0 || len(s.secret[labelServerTraffic]) == 0 {
		err = errors.New("crypto/tls revealed no traffic secrets")
	}
	if err != nil {
		s.Wipe()
		return nil, &HandshakeError{Role: role, Records: c.records, Times: s.Times, Err: err}
	}
	// The handshake keys have done their work.
	for _, l := range []string{labelClientHandshake, labelServerHandshake} {
		clear(s.secret[l])
		delete(s.secret, l)
	}
	return s, nil
}

// explain turns an error of crypto/tls into one that errors.Is and errors.As
// can work with.
func (c *recordConn) explain(err error) error {
	if a, ok := remoteAlert(err); ok {
		return &AlertError{Alert: a, Remote: true}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF // in the middle of a record or between two: it is gone
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if c.alertSent {
		return &AlertError{Alert: c.sentAlert, Err: err}
	}
	return err
}

// alertRecord returns a function that replaces the record in which crypto/tls
// says bad_certificate, its only answer to a failed verification callback, by
// one that says a.
//
// The record's key and number are known: a client refuses the server's
// certificate before it has sent anything under its handshake keys, and a
// server refuses the client's when its Finished was the last thing it sent
// and its application keys are new, so the number is 0 in both cases.
func (l *secretLog) alertRecord(role Role, suite uint16, a Alert) func([]byte) []byte {
	return func(record []byte) []byte {
		label := labelClientHandshake
		if role == RoleServer {
			label = labelServerTraffic
		}
		c, ok := cipherOf(suite)
		if !ok || len(l.secrets[label]) == 0 {
			return nil
		}
		keys, err := deriveKeys(c, l.secrets[label])
		if err != nil {
			return nil
		}
		defer keys.wipe()
		// Only what really is crypto/tls's own alert is replaced.
		typ, content, err := keys.open(c, 0, record)
		if err != nil || typ != recordAlert || len(content) != 2 || Alert(content[1]) != AlertBadCertificate {
			return nil
		}
		const warning, fatal = 1, 2
		level := byte(fatal)
		if a == AlertCloseNotify || a == AlertUserCanceled {
			level = warning // RFC 8446 section 6.1; the kernel's client goes by it
		}
		r, err := keys.seal(c, 0, recordAlert, []byte{level, byte(a)})
		if err != nil {
			return nil
		}
		return r
	}
}

// keys returns the keys of what this side sends or receives.
func (s *Session) keys(send bool) (trafficKeys, error) {
	label := labelServerTraffic
	if send == (s.role == RoleClient) {
		label = labelClientTraffic
	}
	secret := s.secret[label]
	if len(secret) == 0 {
		return trafficKeys{}, errors.New("secrets have been wiped")
	}
	return deriveKeys(s.Cipher, secret)
}

// Wipe clears the session's secrets; Install and LateAlert fail afterwards.
// It may be called more than once.
func (s *Session) Wipe() {
	for l, b := range s.secret {
		clear(b)
		delete(s.secret, l)
	}
}

// A HandshakeError says why a handshake failed.
type HandshakeError struct {
	Role    Role
	Records int // whole records received before the failure
	Times
	Err error
}

func (e *HandshakeError) Error() string {
	return fmt.Sprintf("tls %v handshake: %v", e.Role, e.Err)
}

// Unwrap returns the cause.
func (e *HandshakeError) Unwrap() error { return e.Err }
