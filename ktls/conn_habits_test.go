// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

var halfSide = side{name: "half", fake: &fakeKind{noRX: true}, kernel: true, half: true, rekey: true}

// within fails the test if f does not return.
func within(t *testing.T, what string, f func() error) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s: still not done", what)
	}
}

// TestConnReadFromWaitsAlone: while ReadFrom waits for its source, others write,
// keys are replaced, and close_notify is sent.
func TestConnReadFromWaitsAlone(t *testing.T) {
	for _, s := range sides(t) {
		for _, source := range []string{"tcp", "unix", "pipe"} {
			t.Run(s.name+" "+source, func(t *testing.T) {
				c, peer := connect(t, s, userSide, clientConfig(), serverConfig(t))
				var from io.ReadCloser
				var into io.WriteCloser
				switch source {
				case "tcp":
					from, into = pair(t)
				case "unix":
					from, into = streamPair(t)
				default:
					r, w, err := os.Pipe()
					if err != nil {
						t.Fatal(err)
					}
					from, into = r, w
				}
				defer from.Close()
				defer into.Close()
				copied := make(chan int64, 1)
				go func() {
					n, _ := c.ReadFrom(from)
					copied <- n
				}()
				expect := func(text string) {
					t.Helper()
					got := make([]byte, len(text))
					if _, err := io.ReadFull(peer, got); string(got) != text || err != nil {
						t.Fatalf("peer read %q, %v", got, err)
					}
				}
				into.Write([]byte("copied"))
				expect("copied") // and so it waits for more
				within(t, "write", func() error { _, err := c.Write([]byte("written")); return err })
				expect("written")
				if s.rekey {
					within(t, "update keys", func() error { return c.UpdateKeys(false) })
				}
				into.Write([]byte("again"))
				expect("again")
				// Close says it too, unless a Write has not quite returned.
				within(t, "close for writing", c.CloseWrite)
				if _, err := peer.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("peer: %v, want close_notify", err)
				}
				into.Close()
				if n := <-copied; n != int64(len("copiedagain")) {
					t.Errorf("copied %d", n)
				}
			})
		}
	}
}

// TestConnOddFragments: the rest of a fragmented message may begin like a
// KeyUpdate, which stops the kernel.
func TestConnOddFragments(t *testing.T) {
	it := best(t)
	if !it.rekey {
		it = fakeSide
	}
	c, peer := connect(t, it, fakeSide, clientConfig(), serverConfig(t))
	for _, part := range [][]byte{{4, 0, 0, 5}, {24, 0, 0, 1, 0}} {
		if err := fakeOf(peer).sendControl(recordHandshake, part, true); err != nil {
			t.Fatal(err)
		}
	}
	talk(t, peer, c, 0)
	if err := peer.UpdateKeys(true); err != nil {
		t.Fatal(err)
	}
	talk(t, peer, c, 1)
}

// TestConnIsClosed: after Close everything says so.
func TestConnIsClosed(t *testing.T) {
	for _, s := range append(sides(t), halfSide) {
		t.Run(s.name, func(t *testing.T) {
			c, _ := connect(t, s, userSide, clientConfig(), serverConfig(t))
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write: %v", err)
			}
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
				t.Errorf("read: %v", err)
			}
		})
	}
}

// TestConnWritesNothingBehindAnAlert of crypto/tls's, either.
func TestConnWritesNothingBehindAnAlert(t *testing.T) {
	for _, s := range append(sides(t), halfSide) {
		t.Run(s.name, func(t *testing.T) {
			c, peer := connect(t, s, userSide, clientConfig(), serverConfig(t))
			peer.NetConn().Write(append([]byte{23, 3, 3, 0, 64}, make([]byte, 64)...))
			if _, err := c.Read(make([]byte, 1)); err == nil {
				t.Fatal("read what was no record")
			}
			if _, err := c.Write([]byte("x")); err == nil {
				t.Error("wrote behind a fatal alert")
			}
		})
	}
}

// TestConnWipesWithClose: nothing that could decrypt the session stays.
func TestConnWipesWithClose(t *testing.T) {
	for _, s := range []side{fakeSide, halfSide} {
		t.Run(s.name, func(t *testing.T) {
			c, _ := connect(t, s, userSide, clientConfig(), serverConfig(t))
			var all [][]byte
			for _, f := range []*flow{c.kernel.tx, c.kernel.rx, c.kernel.shadow} {
				if f != nil {
					all = append(all, f.secret, f.keys.key, f.keys.iv)
				}
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			for i, b := range all {
				for _, x := range b {
					if x != 0 {
						t.Errorf("secret %d of %d is still there", i, len(all))
						break
					}
				}
			}
		})
	}
}

// TestConnClosedWhileHandingOver: Close that comes before the handshake's end
// closes what the handshake opened.
func TestConnClosedWhileHandingOver(t *testing.T) {
	ct, st := pair(t)
	c, s := newConn(ct, clientConfig(), true, nil), newConn(st, serverConfig(t), false, []Option{NoOffload()})
	c.handOver = func(conn *net.TCPConn, p *plan, o connOptions) (kernelSocket, Offload, bool) {
		k, off, rekey := fakeKind{}.handOver(conn, p, o)
		c.Close()
		return k, off, rekey
	}
	go s.Handshake()
	if err := c.Handshake(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("handshake: %v", err)
	}
	if c.kernel.tx != nil || c.kernel.rx != nil {
		t.Error("secrets are still there")
	}
}

// A stuffed kernel sends nothing but data.
type stuffed struct{ kernelSocket }

func (stuffed) sendControl(byte, []byte, bool) error { return os.ErrDeadlineExceeded }

// TestConnSaysThatCloseNotifyDidNotLeave each time that it is asked.
func TestConnSaysThatCloseNotifyDidNotLeave(t *testing.T) {
	c, _ := connect(t, fakeSide, userSide, clientConfig(), serverConfig(t))
	c.kernel.sock = stuffed{c.kernel.sock}
	for range 2 {
		if err := c.CloseWrite(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("close for writing: %v", err)
		}
	}
	if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("close: %v", err)
	}
}

// TestConnIsBored by a peer that sends everything but data, in the end.
func TestConnIsBored(t *testing.T) {
	for name, message := range map[string][]byte{
		"tickets": {4, 0, 0, 1, 0}, "key updates": {24, 0, 0, 1, 1}, "alerts": {1, byte(AlertUserCanceled)},
	} {
		t.Run(name, func(t *testing.T) {
			c, peer := connect(t, fakeSide, fakeSide, clientConfig(), serverConfig(t))
			f := fakeOf(peer)
			typ := byte(recordHandshake)
			if name == "alerts" {
				typ = recordAlert
			}
			send := func(n int) {
				for range n {
					if err := f.sendControl(typ, message, true); err != nil {
						t.Error(err)
					}
					if k := peer.kernel; name == "key updates" {
						if err := errors.Join(k.tx.next(k.suite.Cipher), f.setTX(k.tx.keys)); err != nil {
							t.Error(err)
						}
					}
				}
			}
			for i := range 2 {
				send(maxIdle)
				if _, err := peer.Write([]byte{'x'}); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Read(make([]byte, 1)); err != nil {
					t.Fatalf("%d: %v", i, err)
				}
			}
			send(maxIdle + 1)
			_, err := c.Read(make([]byte, 1))
			if a, ok := errors.AsType[*AlertError](err); !ok || a.Remote || a.Alert != AlertUnexpectedMessage {
				t.Errorf("read: %v", err)
			}
		})
	}
}
