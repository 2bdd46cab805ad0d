// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"bytes"
	"context"
	"crypto/ecdh"
	crand "crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	_ "unsafe" // for crypto/tls's preferences
)

// What crypto/tls offers in TLS 1.3, in this order. It is no setting, but a
// name that crypto/tls promises to those who change it.
//
//go:linkname defaultCipherSuitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var defaultCipherSuitesTLS13 []uint16

//go:linkname defaultCipherSuitesTLS13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var defaultCipherSuitesTLS13NoAES []uint16

// prefer lets crypto/tls have one suite of TLS 1.3 until the test ends.
func prefer(t *testing.T, c Cipher) {
	a, b := defaultCipherSuitesTLS13, defaultCipherSuitesTLS13NoAES
	t.Cleanup(func() { defaultCipherSuitesTLS13, defaultCipherSuitesTLS13NoAES = a, b })
	defaultCipherSuitesTLS13 = []uint16{cipherSpecs[c].suite}
	defaultCipherSuitesTLS13NoAES = defaultCipherSuitesTLS13
}

// suitesOf12 are the suites of TLS 1.2 with an ECDSA certificate.
var suitesOf12 = map[Cipher]uint16{
	AES128GCM:        tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	AES256GCM:        tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	ChaCha20Poly1305: tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
}

// use makes cfg agree on s.
func use(t *testing.T, s Suite, cfgs ...*tls.Config) {
	prefer(t, s.Cipher)
	for _, cfg := range cfgs {
		cfg.MinVersion, cfg.MaxVersion = s.Version, s.Version
		cfg.CipherSuites = []uint16{suitesOf12[s.Cipher]}
	}
}

// A side is how one end of a test's connection is carried.
type side struct {
	name   string
	fake   *fakeKind
	opts   []Option
	kernel bool // something like a kernel carries it
	half   bool // of it only what is sent
	rekey  bool
}

var (
	userSide = side{name: "user", opts: []Option{NoOffload()}}
	fakeSide = side{name: "fake", fake: &fakeKind{}, kernel: true, rekey: true}
)

// sides are those that there are here. In a guest the kernel's must be one: the
// same tests run there.
func sides(t testing.TB) []side {
	all := []side{userSide, fakeSide}
	caps, err := Probe()
	inGuest := os.Getenv("RPCTLS_VM") != ""
	if inGuest && (err != nil || caps.ULP != nil) {
		t.Fatalf("no kernel TLS in a guest: %v, %v", err, caps.ULP)
	}
	if err == nil && caps.ULP == nil {
		all = append(all, side{name: "kernel", opts: []Option{RequireOffload()}, kernel: true, rekey: caps.Rekey == nil})
	}
	return all
}

// best is the kernel, or else what stands for it.
func best(t testing.TB) side {
	s := sides(t)
	return s[len(s)-1]
}

// pairs calls f for every two sides; at most one of them is fake or user where
// there is a kernel.
func pairs(t *testing.T, f func(t *testing.T, client, server side)) {
	all := sides(t)
	b := all[len(all)-1]
	for _, other := range all {
		t.Run(b.name+"-"+other.name, func(t *testing.T) { f(t, b, other) })
		if other.name != b.name {
			t.Run(other.name+"-"+b.name, func(t *testing.T) { f(t, other, b) })
		}
	}
}

func (s side) conn(c net.Conn, cfg *tls.Config, client bool, opts ...Option) *Conn {
	conn := newConn(c, cfg, client, append(append([]Option(nil), s.opts...), opts...))
	if s.fake != nil {
		conn.handOver = s.fake.handOver
	}
	return conn
}

// connect makes a session between two sides; nothing waits for ever on it.
func connect(t *testing.T, client, server side, ccfg, scfg *tls.Config, opts ...Option) (c, s *Conn) {
	t.Helper()
	ct, st := pair(t)
	c, s = client.conn(ct, ccfg, true, opts...), server.conn(st, scfg, false, opts...)
	deadline := time.Now().Add(60 * time.Second)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	errs := make(chan error, 1)
	go func() { errs <- s.Handshake() }()
	if err := c.Handshake(); err != nil {
		ct.Close()
		t.Fatalf("client: %v; server: %v", err, <-errs)
	}
	if err := <-errs; err != nil {
		t.Fatalf("server: %v", err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	for _, e := range []struct {
		conn *Conn
		side side
	}{{c, client}, {s, server}} {
		o := e.conn.Offload()
		if o.TX.Kernel != e.side.kernel || o.RX.Kernel != (e.side.kernel && !e.side.half) {
			t.Fatalf("side %s: %+v", e.side.name, o)
		}
		if (o.TX.Reason == nil) != o.TX.Kernel || (o.RX.Reason == nil) != o.RX.Kernel {
			t.Fatalf("side %s: reasons: %+v", e.side.name, o)
		}
	}
	return c, s
}

var edges = []int{1, 2, 255, 16383, 16384, 16385, 32768, 32769, 65535, 65536, 65537}

// sendEdges writes n times each size around the records', and returns the sum.
func sendEdges(c *Conn, n int, seed uint64) ([]byte, error) {
	h := sha256.New()
	var key [32]byte
	key[0] = byte(seed)
	src := rand.NewChaCha8(key)
	for range n {
		for _, size := range edges {
			b := make([]byte, size)
			src.Read(b)
			h.Write(b)
			if got, err := c.Write(b); got != size || err != nil {
				return nil, fmt.Errorf("write of %d: %d, %w", size, got, err)
			}
		}
	}
	return h.Sum(nil), nil
}

// exchange sends edges both ways at once, ends both ways, and compares.
func exchange(t *testing.T, a, b *Conn, n int) {
	t.Helper()
	type sums struct {
		sum []byte
		err error
	}
	send := func(c *Conn, seed uint64) chan sums {
		ch := make(chan sums, 1)
		go func() {
			sum, err := sendEdges(c, n, seed)
			if err == nil {
				err = c.CloseWrite()
			}
			ch <- sums{sum, err}
		}()
		return ch
	}
	receive := func(c *Conn, step int) chan sums {
		ch := make(chan sums, 1)
		go func() {
			h := sha256.New()
			buf := make([]byte, step)
			for {
				m, err := c.Read(buf)
				h.Write(buf[:m])
				if err == io.EOF {
					ch <- sums{h.Sum(nil), nil}
					return
				}
				if err != nil {
					ch <- sums{nil, fmt.Errorf("read: %w", err)}
					return
				}
			}
		}()
		return ch
	}
	sa, sb, ra, rb := send(a, 1), send(b, 2), receive(a, 16384), receive(b, 4099)
	for _, w := range []struct {
		way       string
		sent, got sums
	}{{"to", <-sa, <-rb}, {"fro", <-sb, <-ra}} {
		if w.sent.err != nil || w.got.err != nil {
			t.Fatalf("%s: sent: %v, received: %v", w.way, w.sent.err, w.got.err)
		}
		if !bytes.Equal(w.sent.sum, w.got.sum) {
			t.Fatalf("%s: the bytes differ", w.way)
		}
	}
}

func TestConnCarriesEverySuite(t *testing.T) {
	for _, s := range Suites() {
		t.Run(s.String(), func(t *testing.T) {
			pairs(t, func(t *testing.T, client, server side) {
				ccfg, scfg := clientConfig(), serverConfig(t)
				use(t, s, ccfg, scfg)
				c, srv := connect(t, client, server, ccfg, scfg)
				if v := c.ConnectionState().Version; v != s.Version {
					t.Fatalf("version %x", v)
				}
				exchange(t, c, srv, 2)
			})
		})
	}
}

// TestConnResumes: tickets go both ways through the kernel, in both versions.
func TestConnResumes(t *testing.T) {
	for _, s := range Suites() {
		t.Run(s.String(), func(t *testing.T) {
			pairs(t, func(t *testing.T, client, server side) {
				ccfg, scfg := clientConfig(), serverConfig(t)
				use(t, s, ccfg, scfg)
				ccfg.ServerName = "example"
				ccfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
				for i := range 3 {
					c, srv := connect(t, client, server, ccfg, scfg)
					if got := c.ConnectionState().DidResume; got != (i > 0) {
						t.Fatalf("connection %d resumed: %v", i, got)
					}
					exchange(t, c, srv, 1) // reads the ticket
				}
			})
		})
	}
}

// TestConnGetsWhatFollowsFinished: the first data is in the server's queue when
// Finished is, so that a byte too many would take it along.
func TestConnGetsWhatFollowsFinished(t *testing.T) {
	for _, s := range []Suite{{tls.VersionTLS13, AES128GCM}, {tls.VersionTLS12, AES128GCM}} {
		t.Run(s.String(), func(t *testing.T) {
			ccfg, scfg := clientConfig(), serverConfig(t)
			use(t, s, ccfg, scfg)
			b := best(t)
			ct, st := pair(t)
			c := b.conn(ct, ccfg, true)
			srv := b.conn(st, scfg, false)
			c.SetDeadline(time.Now().Add(30 * time.Second))
			srv.SetDeadline(time.Now().Add(30 * time.Second))
			text := strings.Repeat("first of all ", 3000)
			written := make(chan error, 1)
			if s.Version == tls.VersionTLS13 {
				// Called when the server's flight has gone and before it reads on.
				scfg.VerifyConnection = nil
			}
			go func() {
				_, err := io.WriteString(c, text)
				written <- err
			}()
			if s.Version == tls.VersionTLS13 {
				srv.wire.Conn = &lateReader{Conn: srv.wire.Conn, after: 1, until: written}
			}
			got := make([]byte, len(text))
			if _, err := io.ReadFull(srv, got); err != nil {
				t.Fatal(err)
			}
			if string(got) != text {
				t.Error("the bytes differ")
			}
		})
	}
}

// A lateReader does not read on, after so many writes, until something is done.
type lateReader struct {
	net.Conn
	after int
	until chan error
}

func (l *lateReader) Write(p []byte) (int, error) {
	l.after--
	return l.Conn.Write(p)
}

func (l *lateReader) Read(p []byte) (int, error) {
	if l.after == 0 {
		l.after--
		if err := <-l.until; err != nil {
			return 0, err
		}
	}
	return l.Conn.Read(p)
}

func TestConnEnds(t *testing.T) {
	for _, s := range append(sides(t), side{name: "half", fake: &fakeKind{noRX: true}, kernel: true, half: true, rekey: true}) {
		t.Run(s.name, func(t *testing.T) {
			start := func(t *testing.T, opts ...Option) (it, peer *Conn) {
				it, peer = connect(t, s, userSide, clientConfig(), serverConfig(t), opts...)
				if _, err := peer.Write([]byte("last words")); err != nil {
					t.Fatal(err)
				}
				return it, peer
			}
			want := func(t *testing.T, it *Conn, want error) {
				t.Helper()
				var b [64]byte
				n, err := it.Read(b[:])
				if err == nil {
					if string(b[:n]) != "last words" {
						t.Fatalf("read %q", b[:n])
					}
					_, err = it.Read(b[:])
				}
				if !errors.Is(err, want) {
					t.Fatalf("read: %v, want %v", err, want)
				}
				if _, again := it.Read(b[:]); !errors.Is(again, want) {
					t.Fatalf("read again: %v, want %v", again, want)
				}
			}
			t.Run("close_notify", func(t *testing.T) {
				it, peer := start(t)
				if err := peer.Close(); err != nil {
					t.Fatal(err)
				}
				want(t, it, io.EOF)
			})
			t.Run("half close", func(t *testing.T) {
				it, peer := start(t)
				if err := peer.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				want(t, it, io.EOF)
				if _, err := it.Write([]byte("still here")); err != nil {
					t.Fatal(err)
				}
				if err := it.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if err := it.CloseWrite(); err != nil {
					t.Fatalf("again: %v", err)
				}
				if _, err := it.Write([]byte("x")); err == nil {
					t.Fatal("wrote after CloseWrite")
				}
				if b, err := io.ReadAll(peer); string(b) != "still here" || err != nil {
					t.Fatalf("peer read %q, %v", b, err)
				}
			})
			t.Run("truncated", func(t *testing.T) {
				it, peer := start(t)
				peer.NetConn().Close()
				want(t, it, io.ErrUnexpectedEOF)
			})
			t.Run("truncated and tolerated", func(t *testing.T) {
				it, peer := start(t, TolerateTruncation())
				peer.NetConn().Close()
				want(t, it, io.EOF)
			})
			t.Run("died in a record", func(t *testing.T) {
				it, peer := start(t)
				peer.NetConn().Write([]byte{23, 3, 3, 1, 0, 1, 2, 3})
				peer.NetConn().Close()
				want(t, it, io.ErrUnexpectedEOF)
			})
			t.Run("bad record", func(t *testing.T) {
				it, peer := start(t)
				peer.NetConn().Write(append([]byte{23, 3, 3, 0, 64}, make([]byte, 64)...))
				var b [64]byte
				var err error
				for err == nil {
					_, err = it.Read(b[:])
				}
				if a, ok := errors.AsType[*AlertError](err); !ok || a.Remote || a.Alert != alertBadRecordMAC {
					t.Fatalf("read: %v", err)
				}
				_, err = peer.Read(b[:])
				if a, ok := errors.AsType[*AlertError](err); !ok || !a.Remote || a.Alert != alertBadRecordMAC {
					t.Fatalf("peer read: %v", err)
				}
			})
			t.Run("record too long", func(t *testing.T) {
				if s.fake != nil {
					t.Skip("the fake takes any length")
				}
				it, peer := start(t)
				peer.NetConn().Write([]byte{23, 3, 3, 0xff, 0xff})
				var b [64]byte
				var err error
				for err == nil {
					_, err = it.Read(b[:])
				}
				var header tls.RecordHeaderError
				if a, ok := errors.AsType[*AlertError](err); (!ok || a.Remote || a.Alert != AlertRecordOverflow) && !errors.As(err, &header) {
					t.Fatalf("read: %v", err)
				}
				_, err = peer.Read(b[:])
				if a, ok := errors.AsType[*AlertError](err); !ok || !a.Remote || a.Alert != AlertRecordOverflow {
					t.Fatalf("peer read: %v", err)
				}
			})
			t.Run("closed here", func(t *testing.T) {
				it, peer := start(t)
				done := make(chan error, 1)
				var b [64]byte
				it.Read(b[:])
				go func() {
					_, err := it.Read(b[:])
					done <- err
				}()
				time.Sleep(20 * time.Millisecond) // either order must do
				if err := it.Close(); err != nil {
					t.Fatal(err)
				}
				if err := <-done; !errors.Is(err, net.ErrClosed) {
					t.Fatalf("read: %v", err)
				}
				if err := it.Close(); !errors.Is(err, net.ErrClosed) {
					t.Fatalf("closed again: %v", err)
				}
				if _, err := it.Write(b[:]); err == nil {
					t.Fatal("wrote after Close")
				}
				if b, err := io.ReadAll(peer); len(b) > 0 || err != nil {
					t.Fatalf("peer read %q, %v", b, err)
				}
			})
		})
	}
}

func TestConnDeadlines(t *testing.T) {
	for _, s := range sides(t) {
		t.Run(s.name, func(t *testing.T) {
			c, peer := connect(t, s, userSide, clientConfig(), serverConfig(t))
			var b [64]byte
			c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, err := c.Read(b[:])
			if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("read: %v", err)
			}
			c.SetReadDeadline(time.Now().Add(30 * time.Second))
			peer.Write([]byte("late"))
			if n, err := c.Read(b[:]); string(b[:n]) != "late" || err != nil {
				t.Fatalf("read %q, %v", b[:n], err)
			}
			// Nobody reads: the buffers fill.
			c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			big := make([]byte, 1<<20)
			for err = nil; err == nil; {
				_, err = c.Write(big)
			}
			if ne, ok := errors.AsType[net.Error](err); !ok || !ne.Timeout() {
				t.Fatalf("write: %v", err)
			}
			c.SetWriteDeadline(time.Now().Add(30 * time.Second))
			if _, again := c.Write([]byte("x")); again == nil {
				t.Fatal("wrote after a write that timed out")
			}
			if err := c.Close(); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("close: %v", err)
			}
		})
	}
}

// talk exchanges a few bytes each way.
func talk(t *testing.T, a, b *Conn, i int) {
	t.Helper()
	for _, w := range []struct{ from, to *Conn }{{a, b}, {b, a}} {
		text := fmt.Sprintf("message %d", i)
		if _, err := w.from.Write([]byte(text)); err != nil {
			t.Fatalf("%d: write: %v", i, err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(w.to, got); string(got) != text || err != nil {
			t.Fatalf("%d: read %q, %v", i, got, err)
		}
	}
}

func TestConnUpdatesKeys(t *testing.T) {
	for _, cipher := range Ciphers() {
		t.Run(cipher.String(), func(t *testing.T) {
			pairs(t, func(t *testing.T, client, server side) {
				ccfg, scfg := clientConfig(), serverConfig(t)
				use(t, Suite{tls.VersionTLS13, cipher}, ccfg, scfg)
				c, s := connect(t, client, server, ccfg, scfg)
				for _, e := range []struct {
					conn *Conn
					side side
				}{{c, client}, {s, server}} {
					if !e.side.rekey {
						if err := e.conn.UpdateKeys(true); !errors.Is(err, ErrRekey) {
							t.Fatalf("%s: %v, want ErrRekey", e.side.name, err)
						}
					}
				}
				talk(t, c, s, -1)
				for _, e := range []struct {
					from, to *Conn
					ok       bool
				}{{c, s, client.rekey && (server.rekey || !server.kernel)}, {s, c, server.rekey && (client.rekey || !client.kernel)}} {
					for i := range 100 {
						if !e.ok {
							break
						}
						if err := e.from.UpdateKeys(i%2 == 0); err != nil {
							t.Fatalf("update %d: %v", i, err)
						}
						talk(t, e.from, e.to, i)
					}
					row := 100
					if !client.kernel || !server.kernel {
						row = 14 // crypto/tls takes 16 without data between
					}
					for i := range row {
						if !e.ok {
							break
						}
						if err := e.from.UpdateKeys(i%3 == 0); err != nil {
							t.Fatalf("update %d in a row: %v", i, err)
						}
					}
				}
				// crypto/tls forgets the key that it should read with if it has a
				// KeyUpdate to answer after CloseWrite.
				talk(t, c, s, 0)
				talk(t, s, c, 0)
				exchange(t, c, s, 1)
			})
		})
	}
}

// TestConnCannotFollow: a KeyUpdate that the kernel cannot do is a typed error,
// behind all that came before it, and the peer hears of it.
func TestConnCannotFollow(t *testing.T) {
	it := side{name: "old", fake: &fakeKind{noRekey: true}, kernel: true}
	if b := best(t); b.fake == nil && !b.rekey {
		it = b
	}
	c, peer := connect(t, it, fakeSide, clientConfig(), serverConfig(t))
	peer.Write([]byte("before"))
	if err := peer.UpdateKeys(true); err != nil {
		t.Fatal(err)
	}
	peer.Write([]byte("after"))
	b, err := io.ReadAll(c)
	if string(b) != "before" || !errors.Is(err, ErrRekey) {
		t.Fatalf("read %q, %v", b, err)
	}
	_, err = peer.Read(make([]byte, 1))
	if a, ok := errors.AsType[*AlertError](err); !ok || a.Alert != alertInternalError {
		t.Errorf("peer: %v", err)
	}
}

// fakeOf returns what a fake side's connection runs on.
func fakeOf(c *Conn) *fakeKernel { return c.kernel.sock.(*fakeKernel) }

// TestConnOddKeyUpdates: parts of a message, and several in one record.
func TestConnOddKeyUpdates(t *testing.T) {
	it := best(t)
	if !it.rekey {
		it = fakeSide
	}
	c, peer := connect(t, it, fakeSide, clientConfig(), serverConfig(t))
	f := fakeOf(peer)
	control := func(p ...byte) {
		t.Helper()
		if err := f.sendControl(recordHandshake, p, true); err != nil {
			t.Fatal(err)
		}
	}
	next := func() {
		t.Helper()
		k := peer.kernel
		if err := errors.Join(k.tx.next(k.suite.Cipher), f.setTX(k.tx.keys)); err != nil {
			t.Fatal(err)
		}
	}
	control(24, 0)
	control(0)
	control(1, 0)
	next()
	talk(t, peer, c, 0)
	// Behind a ticket in its record: the kernel does not notice it.
	control(4, 0, 0, 1, 0, 24, 0, 0, 1, 1)
	next()
	talk(t, peer, c, 1)
	talk(t, peer, c, 2)
	control(24, 0, 0, 1, 2)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("a KeyUpdate that is none was taken")
	} else if a, ok := errors.AsType[*AlertError](err); !ok || a.Alert != alertIllegalParameter {
		t.Fatal(err)
	}
}

// TestConnAnswersWhenItCan: a KeyUpdate that is asked for while nothing can be
// sent is owed, and sent before the next data.
func TestConnAnswersWhenItCan(t *testing.T) {
	c, peer := connect(t, fakeSide, fakeSide, clientConfig(), serverConfig(t))
	fakeOf(c).full = true
	if err := peer.UpdateKeys(true); err != nil {
		t.Fatal(err)
	}
	peer.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if !c.kernel.owed.Load() || fakeOf(c).tx.seq != 0 {
		t.Fatalf("owed %v, %d sent", c.kernel.owed.Load(), fakeOf(c).tx.seq)
	}
	talk(t, c, peer, 1)
	if c.kernel.owed.Load() {
		t.Error("still owed")
	}
}

func TestConnKeyLimit(t *testing.T) {
	b := best(t)
	old := side{name: "old", fake: &fakeKind{noRekey: true}, kernel: true}
	for i, it := range []side{fakeSide, old, old, b} {
		raw := i == 1
		t.Run(it.name, func(t *testing.T) {
			c, peer := connect(t, it, userSide, clientConfig(), serverConfig(t))
			c.kernel.limit = 3
			for i := range 20 {
				talk(t, c, peer, i)
			}
			if it.rekey && c.kernel.count > 3 {
				t.Errorf("%d records under one key", c.kernel.count)
			}
			if it.rekey {
				return
			}
			// As if the kernel had sent nearly all that it may.
			if it.fake == nil {
				return
			}
			f := fakeOf(c)
			f.wmu.Lock()
			real := f.tx.seq
			f.tx.seq = gcmLimit
			f.wmu.Unlock()
			// The limit is one of full records, and these were not.
			c.kernel.writeMu.Lock()
			if err := c.kernel.ready(1); err != nil {
				t.Errorf("small records: %v", err)
			}
			c.kernel.unlock()
			if raw {
				// Of another writer's nobody knows.
				if _, err := c.SyscallConn(); err != nil {
					t.Fatal(err)
				}
			} else {
				c.kernel.bytes = gcmLimit * maxPlaintext
			}
			if _, err := c.Write([]byte("one too many")); !errors.Is(err, ErrKeyLimit) {
				t.Fatalf("write: %v", err)
			}
			f.tx.seq = real
			if _, err := peer.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Fatalf("read: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
				t.Fatalf("peer: %v", err)
			}
		})
	}
}

// TestConnHalf: the kernel sends and crypto/tls receives. What crypto/tls
// answers leaves through the kernel.
func TestConnHalf(t *testing.T) {
	half := side{name: "half", fake: &fakeKind{noRX: true}, kernel: true, half: true, rekey: true}
	t.Run("fake", func(t *testing.T) { testHalf(t, half) })
	if b := best(t); b.fake == nil {
		// A kernel that cannot receive, as far as Probe knows.
		probed.Lock()
		real := probed.caps
		caps := *real
		caps.Suites = maps.Clone(real.Suites)
		for s := range caps.Suites {
			caps.Suites[s] = Directions{RX: errUntried}
		}
		probed.caps = &caps
		probed.Unlock()
		defer func() {
			probed.Lock()
			probed.caps = real
			probed.Unlock()
		}()
		t.Run("kernel", func(t *testing.T) { testHalf(t, side{name: "half", kernel: true, half: true, rekey: b.rekey}) })
	}
}

func testHalf(t *testing.T, half side) {
	for _, s := range Suites() {
		t.Run(s.String(), func(t *testing.T) {
			ccfg, scfg := clientConfig(), serverConfig(t)
			use(t, s, ccfg, scfg)
			c, peer := connect(t, half, fakeSide, ccfg, scfg)
			if s.Version == tls.VersionTLS13 && half.rekey {
				for i := range 10 {
					if err := peer.UpdateKeys(i%2 == 0); err != nil {
						t.Fatal(err)
					}
					talk(t, peer, c, i)
					if err := c.UpdateKeys(i%3 == 0); err != nil {
						t.Fatal(err)
					}
					talk(t, c, peer, i)
				}
			}
			exchange(t, c, peer, 1)
		})
	}
	t.Run("closed for writing", func(t *testing.T) {
		c, peer := connect(t, half, fakeSide, clientConfig(), serverConfig(t))
		c.CloseWrite()
		if err := peer.UpdateKeys(true); err != nil {
			t.Fatal(err)
		}
		peer.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("old kernel", func(t *testing.T) {
		if half.fake == nil && half.rekey {
			return // it is not old
		}
		old := half
		if half.fake != nil {
			old.fake = &fakeKind{noRX: true, noRekey: true}
		}
		c, peer := connect(t, old, fakeSide, clientConfig(), serverConfig(t))
		peer.UpdateKeys(false)
		talk(t, peer, c, 1)
		peer.UpdateKeys(true)
		peer.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrRekey) {
			t.Fatalf("write: %v", err)
		}
	})
}

// A countingCache counts what it is given.
type countingCache struct {
	tls.ClientSessionCache
	puts atomic.Int32
}

func (c *countingCache) Put(key string, cs *tls.ClientSessionState) {
	c.puts.Add(1)
	c.ClientSessionCache.Put(key, cs)
}

// TestConnTakesTicketsAnyTime: late, in the middle of data, in parts and
// several in a record. One that is none does no harm.
func TestConnTakesTicketsAnyTime(t *testing.T) {
	cache := &countingCache{ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	ccfg := clientConfig()
	ccfg.ClientSessionCache = cache
	ccfg.ServerName = "example"
	b := best(t)
	c, peer := connect(t, b, fakeSide, ccfg, serverConfig(t))
	f := fakeOf(peer)
	ticket := func(size int) []byte {
		m := []byte{4, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3, 4, 1, 9, byte(size >> 8), byte(size)}
		m = append(append(m, make([]byte, size)...), 0, 0)
		m[2], m[3] = byte((len(m)-4)>>8), byte(len(m)-4)
		return m
	}
	send := func(p []byte) {
		t.Helper()
		if err := f.sendControl(recordHandshake, p, true); err != nil {
			t.Fatal(err)
		}
	}
	talk(t, c, peer, 0)
	had := cache.puts.Load()
	one, long := ticket(100), ticket(20000)
	send(one)
	talk(t, peer, c, 1)
	send(append(bytes.Clone(one), one...))
	talk(t, peer, c, 2)
	for _, b := range one {
		send([]byte{b})
	}
	talk(t, peer, c, 3)
	send(long[:16000])
	send(append(bytes.Clone(long[16000:]), one...))
	talk(t, peer, c, 4)
	if got := cache.puts.Load() - had; got != 6 {
		t.Errorf("%d tickets arrived, want 6", got)
	}
	for range 3 {
		send([]byte{4, 0, 0, 2, 1, 2})
		talk(t, peer, c, 5)
	}
	exchange(t, c, peer, 1)
}

func TestConnRefusesOtherMessages(t *testing.T) {
	tests := []struct {
		name    string
		version uint16
		typ     byte
		p       []byte
		alert   Alert
	}{
		{"CertificateRequest", tls.VersionTLS13, recordHandshake, []byte{13, 0, 0, 3, 0, 0, 0}, AlertUnexpectedMessage},
		{"endless message", tls.VersionTLS13, recordHandshake, []byte{4, 0xff, 0xff, 0xff}, alertDecodeError},
		{"unknown type", tls.VersionTLS13, 99, []byte{1}, AlertUnexpectedMessage},
		{"empty handshake", tls.VersionTLS13, recordHandshake, nil, AlertUnexpectedMessage},
		{"long alert", tls.VersionTLS13, recordAlert, []byte{2, 40, 40}, alertDecodeError},
		{"handshake in 1.2", tls.VersionTLS12, recordHandshake, []byte{4, 0, 0, 0}, AlertUnexpectedMessage},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ccfg, scfg := clientConfig(), serverConfig(t)
			use(t, Suite{tt.version, AES128GCM}, ccfg, scfg)
			b := best(t)
			c, peer := connect(t, b, fakeSide, ccfg, scfg)
			talk(t, c, peer, 0)
			if err := fakeOf(peer).sendControl(tt.typ, tt.p, true); err != nil {
				t.Fatal(err)
			}
			_, err := c.Read(make([]byte, 100))
			if a, ok := errors.AsType[*AlertError](err); !ok || a.Remote || a.Alert != tt.alert {
				t.Fatalf("read: %v", err)
			}
			_, err = peer.Read(make([]byte, 100))
			if a, ok := errors.AsType[*AlertError](err); !ok || !a.Remote || a.Alert != tt.alert {
				t.Fatalf("peer read: %v", err)
			}
			if _, err := c.Write([]byte("x")); err == nil {
				t.Error("wrote after a fatal alert")
			}
		})
	}
}

func TestConnAlerts(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		ccfg, scfg := clientConfig(), serverConfig(t)
		use(t, Suite{version, AES128GCM}, ccfg, scfg)
		c, peer := connect(t, best(t), fakeSide, ccfg, scfg)
		f := fakeOf(peer)
		f.sendControl(recordAlert, []byte{1, byte(AlertUserCanceled)}, true)
		talk(t, peer, c, 0)
		if version == tls.VersionTLS12 {
			f.sendControl(recordHandshake, []byte{messageHelloRequest, 0, 0, 0}, true)
			f.sendControl(recordHandshake, []byte{messageHelloRequest, 0, 0, 0}, true)
			talk(t, peer, c, 1)
		}
		f.sendControl(recordAlert, []byte{2, byte(AlertAccessDenied)}, true)
		_, err := c.Read(make([]byte, 1))
		if a, ok := errors.AsType[*AlertError](err); !ok || !a.Remote || a.Alert != AlertAccessDenied {
			t.Fatalf("read: %v", err)
		}
	}
}

func TestConnFallsBack(t *testing.T) {
	t.Run("pipe", func(t *testing.T) {
		a, b := net.Pipe()
		c, s := Client(a, clientConfig()), Server(b, serverConfig(t))
		go s.Handshake()
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		if o := c.Offload(); o.TX.Kernel || !errors.Is(o.TX.Reason, errNotTCP) {
			t.Errorf("%+v", o)
		}
		if _, err := c.SyscallConn(); err == nil {
			t.Error("a pipe has a socket")
		}
		go io.Copy(s, io.LimitReader(s, 5))
		c.Write([]byte("hello"))
		if b, err := io.ReadAll(io.LimitReader(c, 5)); string(b) != "hello" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
	})
	t.Run("CBC", func(t *testing.T) {
		ccfg, scfg := clientConfig(), serverConfig(t)
		use(t, Suite{tls.VersionTLS12, AES128GCM}, ccfg, scfg)
		ccfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		scfg.CipherSuites = ccfg.CipherSuites
		cbc := side{name: "cbc", fake: &fakeKind{}}
		c, s := connect(t, cbc, cbc, ccfg, scfg)
		if o := c.Offload(); !errors.Is(o.TX.Reason, ErrCipher) {
			t.Errorf("%+v", o)
		}
		exchange(t, c, s, 1)
	})
	t.Run("renegotiation", func(t *testing.T) {
		ccfg, scfg := clientConfig(), serverConfig(t)
		use(t, Suite{tls.VersionTLS12, AES128GCM}, ccfg, scfg)
		ccfg.Renegotiation = tls.RenegotiateOnceAsClient
		c, s := connect(t, side{name: "renegotiating", fake: &fakeKind{}}, userSide, ccfg, scfg)
		if o := c.Offload(); !errors.Is(o.TX.Reason, errRenegotiation) {
			t.Errorf("%+v", o)
		}
		exchange(t, c, s, 1)
	})
	t.Run("required", func(t *testing.T) {
		ct, st := pair(t)
		go Server(st, serverConfig(t)).Handshake()
		c := Client(ct, clientConfig(), NoOffload(), RequireOffload())
		if err := c.Handshake(); !errors.Is(err, ErrOffload) || !errors.Is(err, errNotWanted) {
			t.Fatalf("handshake: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrOffload) {
			t.Errorf("read: %v", err)
		}
		if _, err := ct.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("not closed: %v", err)
		}
	})
}

// TestConnHandshakes: what a configuration may ask for.
func TestConnHandshakes(t *testing.T) {
	tests := map[string]func(c, s *tls.Config){
		"hello retry": func(c, s *tls.Config) {
			c.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP384}
			s.CurvePreferences = []tls.CurveID{tls.CurveP384}
		},
		"client certificate": func(c, s *tls.Config) {
			s.ClientAuth = tls.RequireAnyClientCert
			c.Certificates = s.Certificates
		},
		"another configuration": func(c, s *tls.Config) {
			other := s.Clone()
			other.NextProtos = []string{"b"}
			c.NextProtos = []string{"b"}
			s.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				if _, ok := h.Conn.(*net.TCPConn); !ok {
					return nil, fmt.Errorf("connection is a %T", h.Conn)
				}
				return other, nil
			}
		},
		"encrypted hello": func(c, s *tls.Config) {
			if s.MaxVersion < tls.VersionTLS13 {
				return
			}
			key, err := ecdh.X25519().GenerateKey(crand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			// ECHConfig (RFC 9849 section 4): DHKEM(X25519), HKDF-SHA256, AES-128-GCM.
			body := append([]byte{1, 0, 0x20, 0, 32}, key.PublicKey().Bytes()...)
			body = append(body, 0, 4, 0, 1, 0, 1, 32, 14)
			body = append(append(body, "public.example"...), 0, 0)
			config := append([]byte{0xfe, 0x0d, 0, byte(len(body))}, body...)
			c.EncryptedClientHelloConfigList = append([]byte{0, byte(len(config))}, config...)
			c.ServerName = "secret"
			s.EncryptedClientHelloKeys = []tls.EncryptedClientHelloKey{{Config: config, PrivateKey: key.Bytes()}}
			s.VerifyConnection = func(cs tls.ConnectionState) error {
				if !cs.ECHAccepted || cs.ServerName != "secret" {
					return fmt.Errorf("hello was not encrypted: %+v", cs.ServerName)
				}
				return nil
			}
		},
		"no tickets": func(c, s *tls.Config) { s.SessionTicketsDisabled = true },
	}
	for name, change := range tests {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			t.Run(name+" "+tls.VersionName(version), func(t *testing.T) {
				ccfg, scfg := clientConfig(), serverConfig(t)
				use(t, Suite{version, AES128GCM}, ccfg, scfg)
				change(ccfg, scfg)
				var log bytes.Buffer
				ccfg.KeyLogWriter = &log
				b := best(t)
				c, s := connect(t, b, b, ccfg, scfg)
				exchange(t, c, s, 1)
				if !strings.Contains(log.String(), map[uint16]string{tls.VersionTLS12: labelMaster, tls.VersionTLS13: labelServerTraffic}[version]+" ") {
					t.Error("the caller's key log is empty")
				}
			})
		}
	}
}

func TestConnHandshakeFails(t *testing.T) {
	ct, st := pair(t)
	scfg := serverConfig(t)
	scfg.ClientAuth = tls.RequireAnyClientCert
	s := Server(st, scfg)
	go s.Handshake()
	c := Client(ct, clientConfig())
	_, err := c.Read(make([]byte, 1))
	if a, ok := errors.AsType[*AlertError](err); !ok || !a.Remote || a.Alert != AlertCertificateRequired {
		t.Errorf("read: %v", err)
	}

	ct, _ = pair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := Client(ct, clientConfig()).HandshakeContext(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("handshake: %v", err)
	}
}

func TestConnReadFrom(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	data := make([]byte, 3<<20+17)
	rand.NewChaCha8([32]byte{}).Read(data)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, s := range sides(t) {
		for _, opts := range [][]Option{nil, {ZeroCopySendfile(), ExpectNoPad()}} {
			t.Run(fmt.Sprint(s.name, len(opts)), func(t *testing.T) {
				c, peer := connect(t, s, s, clientConfig(), serverConfig(t), opts...)
				got := make(chan []byte, 1)
				go func() {
					var b bytes.Buffer
					if _, err := io.Copy(&b, peer); err != nil {
						t.Errorf("peer: %v", err)
					}
					got <- b.Bytes()
				}()
				f, err := os.Open(name)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if n, err := io.Copy(c, f); n != int64(len(data)) || err != nil {
					t.Fatalf("file: %d, %v", n, err)
				}
				f.Seek(0, io.SeekStart)
				lr := &io.LimitedReader{R: f, N: 1 << 20}
				if n, err := c.ReadFrom(lr); n != 1<<20 || err != nil || lr.N != 0 {
					t.Fatalf("part of a file: %d, %v", n, err)
				}
				if n, err := c.ReadFrom(strings.NewReader("and a string")); n != 12 || err != nil {
					t.Fatalf("string: %d, %v", n, err)
				}
				a, b := pair(t)
				go func() {
					a.Write(data[:100000])
					a.Close()
				}()
				if n, err := c.ReadFrom(b); n != 100000 || err != nil {
					t.Fatalf("connection: %d, %v", n, err)
				}
				c.Write([]byte("end"))
				if err := c.Close(); err != nil {
					t.Fatal(err)
				}
				want := slicesConcat(data, data[:1<<20], []byte("and a string"), data[:100000], []byte("end"))
				if !bytes.Equal(<-got, want) {
					t.Error("the bytes differ")
				}
			})
		}
	}
}

func slicesConcat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestConnCloseLosesNothing: a reader that comes late gets all that Write took,
// and the end, whatever the send buffer.
func TestConnCloseLosesNothing(t *testing.T) {
	for _, s := range sides(t) {
		for _, sndbuf := range []int{4096, 65536} {
			t.Run(fmt.Sprint(s.name, sndbuf), func(t *testing.T) {
				c, peer := connect(t, s, userSide, clientConfig(), serverConfig(t))
				c.NetConn().(*net.TCPConn).SetWriteBuffer(sndbuf)
				sent := make(chan int, 1)
				go func() {
					n := 0
					for n < 4<<20 {
						m, err := c.Write(make([]byte, 50001))
						n += m
						if err != nil {
							t.Errorf("write: %v", err)
							break
						}
					}
					if err := c.Close(); err != nil {
						t.Errorf("close: %v", err)
					}
					sent <- n
				}()
				n, err := io.Copy(io.Discard, onlyReader{slowReader{peer}})
				if err != nil {
					t.Fatalf("read: %v", err)
				}
				if want := <-sent; n != int64(want) {
					t.Errorf("%d of %d bytes arrived", n, want)
				}
			})
		}
	}
}

type slowReader struct{ io.Reader }

func (s slowReader) Read(p []byte) (int, error) {
	time.Sleep(100 * time.Microsecond)
	return s.Reader.Read(p)
}

// TestConnLetsNobodyPast: package os looks for a socket in what it copies to and
// from, and would use that of a session in user space in clear.
func TestConnLetsNobodyPast(t *testing.T) {
	for _, s := range append(sides(t), side{name: "half", fake: &fakeKind{noRX: true}, kernel: true, half: true, rekey: true}) {
		t.Run(s.name, func(t *testing.T) {
			c, peer := connect(t, s, userSide, clientConfig(), serverConfig(t))
			raw, err := c.SyscallConn()
			if o := c.Offload(); o.TX.Kernel && o.RX.Kernel {
				if _, ok := raw.(interface{ Network() string }); err != nil || ok {
					t.Errorf("%v, %T", err, raw)
				}
				if reflect.TypeOf(raw).NumMethod() != 3 {
					t.Errorf("%T has %d methods", raw, reflect.TypeOf(raw).NumMethod())
				}
			} else if !errors.Is(err, ErrOffload) {
				t.Errorf("SyscallConn: %v", err)
			}
			name := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(name, []byte("from a file"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteTo(c); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 11)
			if _, err := io.ReadFull(peer, got); string(got) != "from a file" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			peer.Write([]byte("to a file"))
			peer.CloseWrite()
			f.Seek(0, io.SeekStart)
			if n, err := f.ReadFrom(c); n != 9 || err != nil {
				t.Fatalf("%d, %v", n, err)
			}
			if b, _ := os.ReadFile(name); string(b) != "to a filele" {
				t.Errorf("%q", b)
			}
		})
	}
}

func TestConnConcurrently(t *testing.T) {
	for _, s := range sides(t) {
		t.Run(s.name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			for range 5 {
				c, peer := connect(t, s, s, clientConfig(), serverConfig(t))
				var wg sync.WaitGroup
				for _, e := range []*Conn{c, peer} {
					for range 2 {
						wg.Go(func() {
							buf := make([]byte, 1000)
							for {
								if _, err := e.Read(buf); err != nil {
									return
								}
							}
						})
						wg.Go(func() {
							for {
								if _, err := e.Write(make([]byte, 20000)); err != nil {
									return
								}
							}
						})
					}
					wg.Go(func() {
						for range 50 {
							e.SetDeadline(time.Now().Add(time.Minute))
							if err := e.UpdateKeys(true); err != nil {
								break
							}
							_, _ = e.Offload(), e.ConnectionState()
						}
						time.Sleep(10 * time.Millisecond)
						e.Close()
					})
				}
				wg.Wait()
			}
			for range 100 {
				if runtime.NumGoroutine() <= before {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		})
	}
}

// TestConnServesHTTP: net/http's server and client over it, both ends.
func TestConnServesHTTP(t *testing.T) {
	l, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !r.TLS.HandshakeComplete {
			t.Errorf("r.TLS: %+v", r.TLS)
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})}
	go srv.Serve(NewListener(l, serverConfig(t)))
	defer srv.Close()
	d := &Dialer{Config: clientConfig()}
	tr := &http.Transport{DialTLSContext: d.DialContext}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	for i := range 3 {
		text := strings.Repeat("hello ", i*10000)
		resp, err := client.Post("https://"+l.Addr().String(), "text/plain", strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != text || err != nil {
			t.Fatalf("%d bytes, %v", len(b), err)
		}
	}
}
