// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// certificate makes a self-signed certificate; nothing here verifies chains, but
// a session is not resumed behind one that has expired.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverConfig(t testing.TB) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{certificate(t)}}
}

func clientConfig() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// pair returns the two ends of a TCP connection over loopback.
func pair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := listenLoopback()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		t.Fatal(err)
	}
	server, err = l.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

type outcome struct {
	s   *Session
	err error
}

func start(t Transport, role Role, cfg *tls.Config, o Options) <-chan outcome {
	if o.Deadline.IsZero() {
		o.Deadline = time.Now().Add(10 * time.Second)
	}
	c := make(chan outcome, 1)
	go func() {
		s, err := Handshake(t, role, cfg, o)
		c <- outcome{s, err}
	}()
	return c
}

func wait(t testing.TB, c <-chan outcome) (*Session, error) {
	t.Helper()
	select {
	case o := <-c:
		return o.s, o.err
	case <-time.After(20 * time.Second):
		t.Fatal("handshake did not end")
		return nil, nil
	}
}

func TestHandshakeAgreesOnSecrets(t *testing.T) {
	c, s := pair(t)
	sc := start(s, RoleServer, serverConfig(t), Options{})
	client, err := wait(t, start(c, RoleClient, clientConfig(), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	server, err := wait(t, sc)
	if err != nil {
		t.Fatal(err)
	}
	for _, send := range []bool{true, false} {
		a, err := client.keys(send)
		if err != nil {
			t.Fatal(err)
		}
		b, err := server.keys(!send)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.key, b.key) || !bytes.Equal(a.iv, b.iv) {
			t.Errorf("client send=%v: keys differ", send)
		}
	}
	if len(client.secret) != 2 {
		t.Errorf("session keeps %d secrets, want the two application secrets", len(client.secret))
	}
	client.Wipe()
	if _, err := client.keys(true); err == nil {
		t.Error("keys after Wipe")
	}
}

// A client's first request may be queued behind its Finished, and a server's
// tickets behind its own. Not a byte of either may be taken.
func TestHandshakeLeavesWhatFollows(t *testing.T) {
	early := bytes.Repeat([]byte("first rpc "), 500)
	t.Run("server with data behind Finished", func(t *testing.T) {
		c, s := pair(t)
		peer := tls.Client(c, clientConfig())
		done := make(chan error, 1)
		go func() {
			_, err := peer.Write(early) // handshake, then data, as fast as it goes
			done <- err
		}()
		// The server is slow, so that everything is queued.
		session, err := wait(t, start(slow{s}, RoleServer, serverConfig(t), Options{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := readRecords(t, s, session, len(early)); !bytes.Equal(got, early) {
			t.Errorf("got %d bytes, want %d", len(got), len(early))
		}
	})
	t.Run("client with tickets behind Finished", func(t *testing.T) {
		c, s := pair(t)
		done := make(chan error, 1)
		go func() {
			peer := tls.Server(s, serverConfig(t)) // sends a ticket
			_, err := peer.Write(early)
			done <- err
		}()
		session, err := wait(t, start(slow{c}, RoleClient, clientConfig(), Options{}))
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got := readRecords(t, c, session, len(early))
		if !bytes.Equal(got, early) {
			t.Errorf("got %d bytes, want %d", len(got), len(early))
		}
	})
}

// slow gives the peer time to send before every read.
type slow struct{ *net.TCPConn }

func (s slow) SyscallConn() (syscall.RawConn, error) {
	raw, err := s.TCPConn.SyscallConn()
	return slowRaw{raw}, err
}

type slowRaw struct{ syscall.RawConn }

func (s slowRaw) Control(f func(uintptr)) error {
	time.Sleep(5 * time.Millisecond)
	return s.RawConn.Control(f)
}

// readRecords reads from the socket as the kernel would after TLS_RX: from
// where the handshake stopped, with sequence numbers from 0.
func readRecords(t *testing.T, conn net.Conn, s *Session, want int) (data []byte) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	k, err := s.keys(false)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(0); len(data) < want; seq++ {
		record := make([]byte, recordHeaderLen)
		if _, err := io.ReadFull(conn, record); err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
		record = append(record, make([]byte, binary.BigEndian.Uint16(record[3:]))...)
		if _, err := io.ReadFull(conn, record[recordHeaderLen:]); err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
		typ, content, err := k.open(s.Cipher, seq, record)
		if err != nil {
			t.Fatalf("record %d: %v", seq, err)
		}
		if typ == recordApplicationData {
			data = append(data, content...)
		}
	}
	return data
}

type refusal struct{ alert Alert }

func (r refusal) Error() string   { return "refused" }
func (r refusal) TLSAlert() uint8 { return uint8(r.alert) }

// crypto/tls answers a failed verification with bad_certificate, always; the
// peer should hear what is really wrong.
func TestVerificationErrorsChooseTheAlert(t *testing.T) {
	t.Run("client refuses", func(t *testing.T) {
		c, s := pair(t)
		sc := start(s, RoleServer, serverConfig(t), Options{})
		cfg := clientConfig()
		cfg.VerifyConnection = func(tls.ConnectionState) error { return refusal{AlertUnknownCA} }
		_, err := wait(t, start(c, RoleClient, cfg, Options{}))
		if _, ok := errors.AsType[refusal](err); !ok {
			t.Errorf("client: %v", err)
		}
		_, err = wait(t, sc)
		wantRemoteAlert(t, err, AlertUnknownCA)
	})
	t.Run("server refuses after the client is done", func(t *testing.T) {
		c, s := pair(t)
		cfg := serverConfig(t)
		cfg.ClientAuth = tls.RequestClientCert
		cfg.VerifyConnection = func(tls.ConnectionState) error { return refusal{AlertCertificateRevoked} }
		sc := start(s, RoleServer, cfg, Options{})
		ccfg := clientConfig()
		ccfg.Certificates = []tls.Certificate{certificate(t)}
		session, err := wait(t, start(c, RoleClient, ccfg, Options{}))
		if err != nil {
			t.Fatal(err)
		}
		err = session.LateAlert(c, 5*time.Second)
		wantRemoteAlert(t, err, AlertCertificateRevoked)
		if _, err := wait(t, sc); err == nil {
			t.Error("server accepted")
		}
		// The alert is still there for the kernel to see.
		var b [recordHeaderLen]byte
		if _, err := io.ReadFull(c, b[:]); err != nil || b[0] != recordApplicationData {
			t.Errorf("queue after LateAlert: %x, %v", b, err)
		}
	})
}

// An alert that is no verdict is a warning to the kernel's client, which would take
// a fatal one for a verdict (xs_sock_process_cmsg, net/sunrpc/xprtsock.c).
func TestAlertLevels(t *testing.T) {
	for alert, want := range map[Alert]byte{AlertCloseNotify: 1, AlertUserCanceled: 1, AlertAccessDenied: 2} {
		c, s := pair(t)
		cfg := serverConfig(t)
		cfg.VerifyConnection = func(tls.ConnectionState) error { return refusal{alert} }
		sc := start(s, RoleServer, cfg, Options{})
		session, err := wait(t, start(c, RoleClient, clientConfig(), Options{}))
		if err != nil {
			t.Fatal(err)
		}
		wantRemoteAlert(t, session.LateAlert(c, 5*time.Second), alert)
		if _, err := wait(t, sc); err == nil {
			t.Error("server accepted")
		}
		b := make([]byte, 512)
		n, err := c.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := session.keys(false)
		if err != nil {
			t.Fatal(err)
		}
		typ, content, err := keys.open(session.Cipher, 0, b[:n])
		if err != nil || typ != recordAlert || len(content) != 2 || content[0] != want || Alert(content[1]) != alert {
			t.Errorf("%v: type %d, content %v, %v; want level %d", alert, typ, content, err, want)
		}
	}
}

func wantRemoteAlert(t *testing.T, err error, want Alert) {
	t.Helper()
	a, ok := errors.AsType[*AlertError](err)
	if !ok || !a.Remote || a.Alert != want {
		t.Errorf("got %v, want the peer's alert %v", err, want)
	}
}

func TestLateAlertLooksPastTickets(t *testing.T) {
	c, s := pair(t)
	go func() {
		peer := tls.Server(s, serverConfig(t))
		peer.Handshake() // ticket follows
	}()
	session, err := wait(t, start(c, RoleClient, clientConfig(), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if err := session.LateAlert(c, 50*time.Millisecond); err != nil {
		t.Errorf("tickets only: %v", err)
	}
}

func TestLateAlertNoticesTheEnd(t *testing.T) {
	c, s := pair(t)
	sc := start(s, RoleServer, serverConfig(t), Options{})
	session, err := wait(t, start(c, RoleClient, clientConfig(), Options{}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wait(t, sc); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := session.LateAlert(c, 5*time.Second); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
}

func hangUp(c *net.TCPConn) { c.Close() }

func isErr(want error) func(error) bool {
	return func(err error) bool { return errors.Is(err, want) }
}

func isSent(want Alert) func(error) bool {
	return func(err error) bool {
		a, ok := errors.AsType[*AlertError](err)
		return ok && !a.Remote && a.Alert == want
	}
}

func TestHandshakeRefuses(t *testing.T) {
	record := func(typ byte, length int, body ...byte) []byte {
		return append([]byte{typ, 3, 1, byte(length >> 8), byte(length)}, body...)
	}
	tests := []struct {
		name string
		send []byte
		then func(*net.TCPConn)
		want func(error) bool
	}{
		{"garbage", []byte("GET / HTTP/1.0\r\n\r\n"), nil, func(err error) bool {
			_, ok := errors.AsType[tls.RecordHeaderError](err)
			return ok
		}},
		{"a record longer than allowed", record(recordHandshake, 0xffff, 1, 2, 3), nil, isSent(AlertRecordOverflow)},
		{"an empty record", record(recordHandshake, 0), hangUp, isSent(AlertUnexpectedMessage)},
		{"half a record, then the end", record(recordHandshake, 100, 1, 2, 3), hangUp, isErr(io.EOF)},
		{"the end at once", nil, hangUp, isErr(io.EOF)},
		{"a reset", nil, func(c *net.TCPConn) { c.SetLinger(0); c.Close() }, isErr(unix.ECONNRESET)},
		{"an alert", record(recordAlert, 2, 2, 40), nil, func(err error) bool {
			a, ok := errors.AsType[*AlertError](err)
			return ok && a.Remote && a.Alert == 40
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, s := pair(t)
			sc := start(s, RoleServer, serverConfig(t), Options{Deadline: time.Now().Add(10 * time.Second)})
			if _, err := c.Write(tt.send); err != nil {
				t.Fatal(err)
			}
			if tt.then != nil {
				tt.then(c)
			}
			_, err := wait(t, sc)
			if _, ok := errors.AsType[*HandshakeError](err); !ok || !tt.want(err) {
				t.Errorf("got %#v: %v", err, err)
			}
		})
	}
}

func TestTLS12IsRefused(t *testing.T) {
	c, s := pair(t)
	sc := start(s, RoleServer, serverConfig(t), Options{})
	cfg := clientConfig()
	cfg.MaxVersion = tls.VersionTLS12
	go tls.Client(c, cfg).Handshake()
	if _, err := wait(t, sc); !isSent(AlertProtocolVersion)(err) {
		t.Errorf("server: %v", err)
	}
	c, s = pair(t)
	scfg := serverConfig(t)
	scfg.MaxVersion = tls.VersionTLS12
	go tls.Server(s, scfg).Handshake()
	if _, err := wait(t, start(c, RoleClient, clientConfig(), Options{})); err == nil {
		t.Error("client accepted TLS 1.2")
	}
}

// A peer that stops at any flight costs no more than the deadline.
func TestDeadline(t *testing.T) {
	t.Run("server waits for ClientHello", func(t *testing.T) {
		_, s := pair(t)
		_, err := wait(t, start(s, RoleServer, serverConfig(t), Options{Deadline: time.Now().Add(150 * time.Millisecond)}))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("client waits for ServerHello", func(t *testing.T) {
		c, _ := pair(t)
		_, err := wait(t, start(c, RoleClient, clientConfig(), Options{Deadline: time.Now().Add(150 * time.Millisecond)}))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("server waits for Finished", func(t *testing.T) {
		c, s := pair(t)
		sc := start(s, RoleServer, serverConfig(t), Options{Deadline: time.Now().Add(300 * time.Millisecond)})
		go tls.Client(&mute{Conn: c, writes: 1}, clientConfig()).Handshake()
		if _, err := wait(t, sc); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A daemon that stops does not wait for a silent peer, and finishes with one
// that answers.
func TestHurry(t *testing.T) {
	hurried := make(chan struct{})
	close(hurried)
	_, s := pair(t)
	began := time.Now()
	_, err := wait(t, start(s, RoleServer, serverConfig(t), Options{Deadline: began.Add(15 * time.Second), Hurry: hurried}))
	if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) > 10*time.Second {
		t.Errorf("silent peer: %v after %v", err, time.Since(began))
	}
	c, s := pair(t)
	sc := start(s, RoleServer, serverConfig(t), Options{Hurry: hurried})
	if _, err := wait(t, start(c, RoleClient, clientConfig(), Options{Hurry: hurried})); err != nil {
		t.Error(err)
	}
	if _, err := wait(t, sc); err != nil {
		t.Error(err)
	}
}

// Whoever has sent something may take as long as clients do, and what has arrived
// is read however late it is: waiting for a turn to compute takes its time, too.
func TestGrace(t *testing.T) {
	hurried := make(chan struct{})
	close(hurried)
	grace := func() time.Duration { return time.Hour }
	t.Run("the second flight is late", func(t *testing.T) {
		c, s := pair(t)
		sc := start(s, RoleServer, serverConfig(t), Options{Hurry: hurried, Grace: grace})
		slow := &late{Conn: c, before: 1, pause: hurry + hurry/4}
		if err := tls.Client(slow, clientConfig()).Handshake(); err != nil {
			t.Fatal(err)
		}
		if _, err := wait(t, sc); err != nil {
			t.Error(err)
		}
	})
	t.Run("the first record is late", func(t *testing.T) {
		_, s := pair(t)
		_, err := wait(t, start(s, RoleServer, serverConfig(t), Options{Hurry: hurried, Grace: grace}))
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("it is there and the turn is late", func(t *testing.T) {
		c, s := pair(t)
		sc := start(s, RoleServer, serverConfig(t), Options{Hurry: hurried, Gate: slowGate(hurry + hurry/4)})
		if err := tls.Client(c, clientConfig()).Handshake(); err != nil {
			t.Fatal(err)
		}
		if _, err := wait(t, sc); err != nil {
			t.Error(err)
		}
	})
}

// late pauses in front of a write.
type late struct {
	net.Conn
	before int // writes
	pause  time.Duration
}

func (l *late) Write(p []byte) (int, error) {
	if l.before--; l.before < 0 {
		time.Sleep(l.pause)
		l.pause = 0
	}
	return l.Conn.Write(p)
}

// slowGate lets everybody in, after so long.
type slowGate time.Duration

func (g slowGate) Enter(time.Time) bool {
	time.Sleep(time.Duration(g))
	return true
}

func (slowGate) Leave() {}

// mute swallows all writes but the first few.
type mute struct {
	net.Conn
	writes int
}

func (m *mute) Write(p []byte) (int, error) {
	if m.writes--; m.writes < 0 {
		return len(p), nil
	}
	return m.Conn.Write(p)
}

func TestPatience(t *testing.T) {
	t.Run("ends for a silent peer", func(t *testing.T) {
		_, s := pair(t)
		left := func(waited time.Duration) time.Duration { return 50*time.Millisecond - waited }
		_, err := wait(t, start(s, RoleServer, serverConfig(t), Options{Patience: left}))
		if !errors.Is(err, ErrNoFirstRecord) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("ends for a peer that drips", func(t *testing.T) {
		c, s := pair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for _, b := range []byte{22, 3, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1} {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}()
		left := func(waited time.Duration) time.Duration { return 100*time.Millisecond - waited }
		_, err := wait(t, start(s, RoleServer, serverConfig(t), Options{Patience: left}))
		if !errors.Is(err, ErrNoFirstRecord) {
			t.Errorf("got %v", err)
		}
		s.Close()
		<-done
	})
	t.Run("does not end while data waits", func(t *testing.T) {
		c, s := pair(t)
		go tls.Client(c, clientConfig()).Handshake()
		for n := 0; n <= 0; { // until the ClientHello has arrived
			raw, _ := s.SyscallConn()
			n, _ = peek(raw, make([]byte, 1))
		}
		none := func(time.Duration) time.Duration { return 0 }
		if _, err := wait(t, start(s, RoleServer, serverConfig(t), Options{Patience: none})); err != nil {
			t.Errorf("got %v", err)
		}
	})
}

// TestHeard: once, for the first record, with the time that it was waited for.
func TestHeard(t *testing.T) {
	const pause = 30 * time.Millisecond
	c, s := pair(t)
	heard := make(chan time.Duration, 8)
	waiting := make(chan struct{})
	var once sync.Once
	server := start(s, RoleServer, serverConfig(t), Options{
		Patience: func(time.Duration) time.Duration {
			once.Do(func() { close(waiting) })
			return time.Hour
		},
		Heard: func(d time.Duration) { heard <- d },
	})
	<-waiting
	time.Sleep(pause)
	if err := tls.Client(c, clientConfig()).Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := wait(t, server); err != nil {
		t.Fatal(err)
	}
	if n := len(heard); n != 1 {
		t.Fatalf("heard %d times", n)
	}
	if d := <-heard; d < pause {
		t.Errorf("waited %v, the client was silent for %v", d, pause)
	}
}

type countingGate struct{ inside, entered, maxInside atomic.Int64 }

func (g *countingGate) Enter(time.Time) bool {
	g.entered.Add(1)
	g.maxInside.Store(max(g.maxInside.Load(), g.inside.Add(1)))
	return true
}
func (g *countingGate) Leave() { g.inside.Add(-1) }

func TestGateIsLeftWhileWaiting(t *testing.T) {
	c, s := pair(t)
	g := new(countingGate)
	sc := start(s, RoleServer, serverConfig(t), Options{Gate: g})
	for g.entered.Load() == 0 || g.inside.Load() != 0 { // in, then out to wait
		time.Sleep(time.Millisecond)
	}
	if _, err := wait(t, start(c, RoleClient, clientConfig(), Options{})); err != nil {
		t.Fatal(err)
	}
	if _, err := wait(t, sc); err != nil {
		t.Fatal(err)
	}
	if g.inside.Load() != 0 || g.maxInside.Load() != 1 || g.entered.Load() < 2 {
		t.Errorf("inside %d, at most %d, entered %d", g.inside.Load(), g.maxInside.Load(), g.entered.Load())
	}
}

// A fullGate has no place after the first few times.
type fullGate struct {
	places int
	inside int
	until  []time.Time
}

func (g *fullGate) Enter(until time.Time) bool {
	g.until = append(g.until, until)
	if g.places == 0 {
		return false
	}
	g.places--
	g.inside++
	return true
}
func (g *fullGate) Leave() { g.inside-- }

// A handshake that gets no turn before its deadline ends, wherever it is, and
// leaves the gate as often as it was let in.
func TestNoTurn(t *testing.T) {
	for _, places := range []int{0, 1} {
		c, s := pair(t)
		g := &fullGate{places: places}
		end := time.Now().Add(time.Minute)
		sc := start(s, RoleServer, serverConfig(t), Options{Gate: g, Deadline: end})
		if places > 0 {
			// It is let in, waits for the client and is not let in again.
			go func() {
				time.Sleep(20 * time.Millisecond)
				tls.Client(c, clientConfig()).Handshake()
			}()
		}
		_, err := wait(t, sc)
		if !errors.Is(err, ErrNoTurn) {
			t.Errorf("with %d places: %v, want %v", places, err, ErrNoTurn)
		}
		if g.inside != 0 || len(g.until) != places+1 || !g.until[places].Equal(end) {
			t.Errorf("with %d places: inside %d, asked until %v", places, g.inside, g.until)
		}
	}
}

// The kernel's socket is returned with the options it came with.
func TestOptionsStayAsFound(t *testing.T) {
	c, s := pair(t)
	options := func(conn *net.TCPConn) (v [4]int) {
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) {
			for i, o := range [][2]int{
				{unix.IPPROTO_TCP, unix.TCP_NODELAY}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE},
				{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE}, {unix.SOL_SOCKET, unix.SO_LINGER},
			} {
				v[i], _ = unix.GetsockoptInt(int(fd), o[0], o[1])
			}
		})
		return v
	}
	s.SetNoDelay(false)
	s.SetKeepAlive(false)
	before := options(s)
	sc := start(s, RoleServer, serverConfig(t), Options{})
	if _, err := wait(t, start(c, RoleClient, clientConfig(), Options{})); err != nil {
		t.Fatal(err)
	}
	if _, err := wait(t, sc); err != nil {
		t.Fatal(err)
	}
	if after := options(s); after != before {
		t.Errorf("options changed from %v to %v", before, after)
	}
}

func session(c Cipher) *Session {
	n := cipherSpecs[c].hash.Size()
	return &Session{Cipher: c, secret: map[string][]byte{
		labelClientTraffic: bytes.Repeat([]byte{1}, n), labelServerTraffic: bytes.Repeat([]byte{2}, n),
	}}
}

func TestInstallStopsAtTheFirstFailure(t *testing.T) {
	defer func(f func(int, int, int, []byte) error) { setsockopt = f }(setsockopt)
	for _, fail := range []string{"TCP_ULP", "TLS_TX", "TLS_RX"} {
		t.Run(fail, func(t *testing.T) {
			var calls []string
			setsockopt = func(_, level, opt int, _ []byte) error {
				op := map[[2]int]string{{unix.IPPROTO_TCP, unix.TCP_ULP}: "TCP_ULP", {solTLS, optTX}: "TLS_TX", {solTLS, optRX}: "TLS_RX"}[[2]int{level, opt}]
				calls = append(calls, op)
				if op == fail {
					return unix.ENOMEM
				}
				return nil
			}
			c, _ := pair(t)
			err := session(AES128GCM).Install(c)
			ie, ok := errors.AsType[*InstallError](err)
			if !ok {
				t.Fatalf("got %v", err)
			}
			// Nothing was really set, so what cannot be read back fails too.
			if fail == "TLS_RX" {
				if ie.Op != "TLS_TX read back" {
					t.Errorf("got %v, want the read back to fail", err)
				}
				return
			}
			if ie.Op != fail || !errors.Is(err, unix.ENOMEM) || calls[len(calls)-1] != fail {
				t.Errorf("got %v after %v", err, calls)
			}
		})
	}
}

func TestErrorsHoldNoSecret(t *testing.T) {
	s := session(AES256GCM)
	c, _ := pair(t)
	c.Close()
	err := s.Install(c)
	if err == nil {
		t.Fatal("installed on a closed socket")
	}
	if text := err.Error(); strings.Contains(text, "0101") || strings.Contains(text, "0202") {
		t.Errorf("%q", text)
	}
}

// Both sides tell the same four lines, lend them, and nobody is told without asking.
func TestKeyLog(t *testing.T) {
	c, s := pair(t)
	var lent [2][][]byte
	var kept [2][]string
	options := func(i int) Options {
		return Options{KeyLog: func(line []byte) {
			lent[i] = append(lent[i], line)
			kept[i] = append(kept[i], string(line))
		}}
	}
	sc := start(s, RoleServer, serverConfig(t), options(0))
	client, err := wait(t, start(c, RoleClient, clientConfig(), options(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Wipe()
	server, err := wait(t, sc)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Wipe()
	for i := range kept {
		slices.Sort(kept[i])
		for _, line := range lent[i] {
			if bytes.ContainsFunc(line, func(r rune) bool { return r != 0 }) {
				t.Errorf("a line was not wiped: %q", line)
			}
		}
	}
	if len(kept[0]) != 4 || !slices.Equal(kept[0], kept[1]) {
		t.Errorf("the server told %q, the client %q", kept[0], kept[1])
	}
	for i, label := range []string{labelClientHandshake, labelClientTraffic, labelServerHandshake, labelServerTraffic} {
		if !strings.HasPrefix(kept[0][i], label+" ") || !strings.HasSuffix(kept[0][i], "\n") {
			t.Errorf("line %d is %q", i, kept[0][i])
		}
	}
	if want := hex.EncodeToString(server.secret[labelServerTraffic]); !strings.HasSuffix(kept[0][3], " "+want+"\n") {
		t.Errorf("%q, the secret is %s", kept[0][3], want)
	}
}
