// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"rpctls/ktls"
)

// A trial is one case in one mode, role and version.
type trial struct {
	*testing.T
	mode    mode
	role    ktls.Role // of our end
	suite   suite
	account *account

	// Configurations of the two ends; a case may change them before it connects.
	ours, peers *tls.Config
	options     []ktls.Option // besides the mode's

	closers []func()
}

// newTrial makes a trial. What it opened is closed by finish.
func newTrial(t *testing.T, m mode, role ktls.Role, s suite, a *account) *trial {
	x := &trial{T: t, mode: m, role: role, suite: s, account: a}
	x.ours, x.peers = clientConfig(t, s), serverConfig(t, s)
	if role == ktls.RoleServer {
		x.ours, x.peers = x.peers, x.ours
	}
	return x
}

func (x *trial) finish() {
	for i := len(x.closers) - 1; i >= 0; i-- {
		x.closers[i]()
	}
	x.closers = nil
}

// later has f called at the end of the trial, before anything is counted.
func (x *trial) later(f func()) { x.closers = append(x.closers, f) }

// do runs a part of the trial beside the rest; what it returns is waited for with
// the function returned.
func (x *trial) do(f func() error) (wait func() error) {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() error {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case err := <-done:
			return err
		case <-timer.C:
			return errors.New("it hangs")
		}
	}
}

// must fails the trial on an error.
func (x *trial) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

// is fails the trial unless the error is the one wanted.
func (x *trial) is(err, want error) {
	x.Helper()
	if !errors.Is(err, want) {
		x.Fatalf("error is %v (%T), want %v", err, err, want)
	}
}

// tcp returns the ends of a new connection, ours and the peer's. Both are closed
// at the end, and neither waits for ever.
func (x *trial) tcp() (ours, peer *net.TCPConn) {
	x.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	x.must(err)
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	x.must(err)
	s, err := l.AcceptTCP()
	x.must(err)
	ours, peer = c.(*net.TCPConn), s
	if x.role == ktls.RoleServer {
		ours, peer = peer, ours
	}
	x.later(func() { ours.Close(); peer.Close() })
	x.must(peer.SetDeadline(time.Now().Add(limit)))
	return ours, peer
}

// wrap puts our end on a connection; nothing is sent yet.
func (x *trial) wrap(c net.Conn) *ktls.Conn {
	x.Helper()
	options := x.mode.options(x.options...)
	var conn *ktls.Conn
	if x.role == ktls.RoleServer {
		conn = ktls.Server(c, x.ours, options...)
	} else {
		conn = ktls.Client(c, x.ours, options...)
	}
	x.later(func() { conn.Close() })
	x.must(conn.SetDeadline(time.Now().Add(limit)))
	return conn
}

// plain makes crypto/tls's end of a connection.
func (x *trial) plain(c net.Conn) *tls.Conn {
	if x.role == ktls.RoleServer {
		return tls.Client(c, x.peers)
	}
	return tls.Server(c, x.peers)
}

// connect makes a session with crypto/tls as the peer.
func (x *trial) connect() (ours *ktls.Conn, peer *tls.Conn) {
	x.Helper()
	a, b := x.tcp()
	ours, peer = x.wrap(a), x.plain(b)
	x.later(func() { b.Close() }) // before ours says farewell
	wait := x.do(peer.Handshake)
	x.must(ours.Handshake())
	x.must(wait())
	x.account.check(x.T, ours)
	if cs := ours.ConnectionState(); !cs.HandshakeComplete || cs.Version != x.suite.version || cs.CipherSuite != x.suite.id {
		x.Fatalf("state: complete %t, version %#x, suite %#x", cs.HandshakeComplete, cs.Version, cs.CipherSuite)
	}
	return ours, peer
}

// connectRaw makes a session with a peer whose records are made by hand.
func (x *trial) connectRaw(opts ...rawOption) (ours *ktls.Conn, peer *raw) {
	x.Helper()
	a, b := x.tcp()
	ours = x.wrap(a)
	x.later(func() { b.Close() })
	wait := x.do(func() (err error) {
		peer, err = shakeHands(b, !x.role, x.suite, x.peers, opts...)
		return err
	})
	x.must(ours.Handshake())
	x.must(wait())
	x.account.check(x.T, ours)
	return ours, peer
}

// exchange sends a little each way.
func (x *trial) exchange(a, b net.Conn) {
	x.Helper()
	for _, d := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
		text := pattern(100)
		wait := x.do(func() error { return writeAll(d.from, text) })
		x.must(expect(d.to, text))
		x.must(wait())
	}
}

// pattern returns bytes that do not repeat soon and are the same each time.
func pattern(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)})
	_, _ = source.Read(b)
	return b
}

func writeAll(w io.Writer, p []byte) error {
	n, err := w.Write(p)
	if err != nil {
		return fmt.Errorf("write %d bytes: %d written: %w", len(p), n, err)
	}
	if n != len(p) {
		return fmt.Errorf("write %d bytes: %d written and no error", len(p), n)
	}
	return nil
}

// expect reads just what is wanted.
func expect(r io.Reader, want []byte) error {
	got := make([]byte, len(want))
	if n, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("read %d bytes: %d read: %w", len(want), n, err)
	}
	return same(got, want)
}

func same(got, want []byte) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Errorf("of %d bytes, those from %d on differ", len(want), i)
		}
	}
	return nil
}

// expectEnd reads until an error, which it returns; nothing may come before it.
func expectEnd(r io.Reader) error {
	n, err := r.Read(make([]byte, 100))
	switch {
	case n > 0:
		return fmt.Errorf("%d bytes were read where the end should be (%v)", n, err)
	case err == nil:
		return errors.New("a read returned nothing, and no error")
	}
	return err
}

// readTo reads with a buffer of that size until there are as many bytes as wanted.
func readTo(r io.Reader, want []byte, size int) error {
	var got bytes.Buffer
	for buf := make([]byte, size); got.Len() < len(want); {
		n, err := r.Read(buf)
		if n == 0 && err == nil {
			return errors.New("a read returned nothing, and no error")
		}
		got.Write(buf[:n])
		if err != nil && got.Len() < len(want) {
			return fmt.Errorf("after %d of %d bytes: %w", got.Len(), len(want), err)
		}
	}
	return same(got.Bytes(), want)
}

// within is a context that ends when something hangs.
func within() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), limit)
}

// part runs a part of a trial that has connections of its own.
func (x *trial) part(name string, f func(x *trial)) {
	x.T.Run(name, func(t *testing.T) {
		p := newTrial(t, x.mode, x.role, x.suite, x.account)
		p.options = x.options
		defer p.finish()
		f(p)
	})
}
