// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"rpctls/examples/https/internal/uring"
	"rpctls/ktls"
)

// inGuest is whether this is a guest of the matrix, whose kernel has it all.
// Elsewhere the tests see as much as there is.
var inGuest = os.Getenv("RPCTLS_VM") != ""

type world struct {
	ring   *uring.Ring
	client *tls.Config
	server *tls.Config
	l      net.Listener
}

func newWorld(t *testing.T) *world {
	t.Helper()
	ring, err := uring.New(8)
	if errors.Is(err, uring.ErrUnavailable) && !inGuest {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ring.Close(); err != nil {
			t.Error(err)
		}
	})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &world{
		ring:   ring,
		client: &tls.Config{RootCAs: pool, ClientSessionCache: tls.NewLRUClientSessionCache(4)},
		server: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		l:      l,
	}
}

// connect returns a connection by the ring and what it is connected to.
func (w *world) connect(t *testing.T) (*Conn, *ktls.Conn) {
	t.Helper()
	accepted := make(chan *ktls.Conn, 1)
	go func() {
		defer close(accepted)
		raw, err := w.l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		c := ktls.Server(raw, w.server)
		if err := c.Handshake(); err != nil {
			t.Error(err)
			return
		}
		accepted <- c
	}()
	d := &Dialer{Ring: w.ring, Config: w.client}
	c, err := d.DialContext(t.Context(), "tcp", w.l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer := <-accepted
	if peer == nil {
		t.FailNow()
	}
	t.Cleanup(func() { c.Close(); peer.Close() })
	if inGuest {
		for _, o := range []ktls.Offload{c.(*Conn).TLS().Offload(), peer.Offload()} {
			if !o.TX.Kernel || !o.RX.Kernel {
				t.Fatalf("the kernel has not taken over: %+v", o)
			}
		}
	}
	return c.(*Conn), peer
}

// exchange sends so much in both directions at once and compares.
func exchange(t *testing.T, size int, c, peer net.Conn, halfway func()) {
	t.Helper()
	var wg sync.WaitGroup
	for i, d := range []struct{ from, to net.Conn }{{c, peer}, {peer, c}} {
		want := make([]byte, size)
		_, _ = rand.Read(want)
		wg.Go(func() {
			if _, err := d.from.Write(want[:size/2]); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			if d.from == peer && halfway != nil {
				halfway()
			}
			if _, err := d.from.Write(want[size/2:]); err != nil {
				t.Errorf("write %d: %v", i, err)
			}
		})
		wg.Go(func() {
			got := make([]byte, size)
			if n, err := io.ReadFull(d.to, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("read %d: %d bytes, %v; equal: %t", i, n, err, bytes.Equal(got, want))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("it does not come to an end")
		c.Close()
		peer.Close()
		<-done
	}
}

func TestBothWays(t *testing.T) {
	w := newWorld(t)
	c, peer := w.connect(t)
	const size = 1 << 20
	exchange(t, size, c, peer, nil)
	u := c.Used()
	sent, received := u.Sent.Load(), u.Received.Load()
	t.Logf("by io_uring: %d sent, %d received, %d control records", sent, received, u.Control.Load())
	// What follows a record that is not data may be read by package ktls.
	if inGuest && (sent != size || received < size/2) {
		t.Errorf("by io_uring %d bytes were sent and %d received of %d", sent, received, size)
	}
	if c.Carried() == (sent == 0) {
		t.Errorf("%d bytes sent by io_uring, but: %+v", sent, c.TLS().Offload())
	}
}

// A ticket that arrives between data reaches the session cache.
func TestResumption(t *testing.T) {
	w := newWorld(t)
	for i := range 2 {
		c, peer := w.connect(t)
		exchange(t, 1000, c, peer, nil)
		if got := c.TLS().ConnectionState().DidResume; got != (i > 0) {
			t.Errorf("connection %d: resumed: %t", i, got)
		}
		if inGuest && i == 0 && c.Used().Control.Load() == 0 {
			t.Error("no ticket was seen")
		}
		c.Close()
		peer.Close()
	}
}

// The keys change while both sides send.
func TestKeyUpdate(t *testing.T) {
	w := newWorld(t)
	for _, request := range []bool{false, true} {
		c, peer := w.connect(t)
		rekeyed := false
		exchange(t, 1<<20, c, peer, func() {
			switch err := peer.UpdateKeys(request); {
			case err == nil:
				rekeyed = true
			case !errors.Is(err, ktls.ErrRekey):
				t.Errorf("update keys: %v", err)
			}
		})
		if c.writes.Load() == rekeyed && inGuest {
			t.Errorf("keys were changed: %t; sending goes by io_uring: %t", rekeyed, c.writes.Load())
		}
		exchange(t, 100_000, c, peer, nil)
		t.Logf("asked for an answer: %t, rekeyed: %t", request, rekeyed)
	}
}

func TestEnds(t *testing.T) {
	w := newWorld(t)
	buf := make([]byte, 100)
	t.Run("close_notify", func(t *testing.T) {
		c, peer := w.connect(t)
		if err := peer.Close(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	t.Run("truncated", func(t *testing.T) {
		c, peer := w.connect(t)
		if err := peer.NetConn().(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(buf); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, peer := w.connect(t)
		if err := peer.NetConn().(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
		peer.NetConn().Close()
		if n, err := c.Read(buf); n != 0 || err == nil || err == io.EOF {
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

func TestDeadlinesAndClose(t *testing.T) {
	w := newWorld(t)
	c, peer := w.connect(t)
	exchange(t, 1000, c, peer, nil)
	buf := make([]byte, 100)
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	// The peer does not read: no write of this much can end.
	if err := c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Write(make([]byte, 64<<20)); n == 64<<20 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %d bytes, %v", n, err)
	}
	reading := make(chan error, 1)
	go func() {
		_, err := c.Read(buf)
		reading <- err
	}()
	// Closing sends nothing that waits for a peer that does not read.
	closed := make(chan error, 1)
	go func() { closed <- c.Close() }()
	for what, ended := range map[string]chan error{"read": reading, "close": closed} {
		select {
		case err := <-ended:
			if what == "read" && !errors.Is(err, net.ErrClosed) {
				t.Errorf("read while it is closed: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("%s does not end", what)
		}
	}
	for what, f := range map[string]func([]byte) (int, error){"read": c.Read, "write": c.Write} {
		if _, err := f(buf); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s afterwards: %v", what, err)
		}
	}
}

func TestDialFails(t *testing.T) {
	w := newWorld(t)
	w.l.Close()
	d := &Dialer{Ring: w.ring, Config: w.client}
	for _, address := range []string{w.l.Addr().String(), "127.0.0.1", "127.0.0.1:nosuchservice"} {
		if c, err := d.DialContext(t.Context(), "tcp", address); err == nil {
			c.Close()
			t.Errorf("%s: connected", address)
		}
	}
	if c, err := d.DialContext(t.Context(), "udp", w.l.Addr().String()); err == nil {
		c.Close()
		t.Error("connected by UDP")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("changed our mind")
	cancel(cause)
	if c, err := d.DialContext(ctx, "tcp", w.l.Addr().String()); !errors.Is(err, cause) && !errors.Is(err, context.Canceled) {
		if err == nil {
			c.Close()
		}
		t.Errorf("cancelled: %v", err)
	}
}

// Nothing stays open.
func TestDescriptors(t *testing.T) {
	w := newWorld(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	round := func() {
		c, peer := w.connect(t)
		exchange(t, 1000, c, peer, nil)
		c.Close()
		peer.Close()
	}
	round()
	before := count()
	for range 5 {
		round()
	}
	if n := count(); n > before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}
