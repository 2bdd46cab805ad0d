// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// recordEnd returns where the record ends that the byte at offset at of stream
// is in, or begins. Without the whole header nobody knows: no limit.
func recordEnd(stream []byte, at int) int {
	end := 0
	for end <= at {
		if len(stream) < end+recordHeaderLen {
			return len(stream) + recordHeaderLen
		}
		end += recordHeaderLen + int(binary.BigEndian.Uint16(stream[end+3:]))
	}
	return end
}

// recordsEnd returns where the n-th record of stream ends.
func recordsEnd(stream []byte, n int) (end int) {
	for range n {
		end = recordEnd(stream, end)
	}
	return end
}

// watched is a Transport that looks, at every system call, how much has left
// the socket's queue: what counts is what was taken, not what was returned.
type watched struct {
	*net.UnixConn
	t    testing.TB
	peer *net.UnixConn
	feed func() // called with mu held before each system call; may be nil

	mu     sync.Mutex // held across each system call, none of which blocks
	stream []byte     // sent by the peer so far
	taken  int
}

func newWatched(t testing.TB) *watched {
	w := &watched{t: t}
	w.UnixConn, w.peer = streamPair(t)
	return w
}

// send is called with mu held.
func (w *watched) send(p []byte) error {
	n, err := w.peer.Write(p)
	w.stream = append(w.stream, p[:n]...)
	return err
}

func (w *watched) SyscallConn() (syscall.RawConn, error) {
	raw, err := w.UnixConn.SyscallConn()
	return watchedRaw{raw, w}, err
}

type watchedRaw struct {
	syscall.RawConn
	w *watched
}

func (r watchedRaw) Control(f func(uintptr)) error {
	return r.RawConn.Control(func(fd uintptr) { r.w.call(fd, func() { f(fd) }) })
}

func (r watchedRaw) Read(f func(uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) (done bool) {
		r.w.call(fd, func() { done = f(fd) })
		return done
	})
}

func (w *watched) call(fd uintptr, f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.feed != nil {
		w.feed()
	}
	f()
	queued, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	if err != nil {
		w.t.Errorf("SIOCINQ: %v", err)
	}
	now := len(w.stream) - queued
	if end := recordEnd(w.stream, w.taken); now > end {
		w.t.Errorf("one read took the bytes from %d to %d, beyond the record's end at %d", w.taken, now, end)
	}
	w.taken = now
}

// check says what must be true when Handshake has returned: nothing was taken
// beyond the record that it stopped in and, if it succeeded, that one ended.
func (w *watched) check(s *Session, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if (s == nil) == (err == nil) {
		w.t.Fatalf("session %v with error %v", s, err)
	}
	if err == nil {
		if end := recordEnd(w.stream, w.taken-1); end != w.taken {
			w.t.Errorf("success at %d, within a record that ends at %d", w.taken, end)
		}
		return
	}
	failure, ok := errors.AsType[*HandshakeError](err)
	if !ok {
		w.t.Fatalf("error %v of another type", err)
	}
	from := recordsEnd(w.stream, failure.Records)
	if to := recordEnd(w.stream, from); w.taken < from || w.taken > to {
		w.t.Errorf("failure %v at %d, not in the record after %d, from %d to %d", err, w.taken, failure.Records, from, to)
	}
}

// clientHello returns the first flight of crypto/tls.
func clientHello(t testing.TB) []byte {
	t.Helper()
	ours, peer := streamPair(t)
	go tls.Client(peer, clientConfig()).Handshake()
	hello := make([]byte, 16<<10)
	n, err := ours.Read(hello)
	if err != nil {
		t.Fatal(err)
	}
	ours.Close()
	return hello[:n]
}

// FuzzHandshakeBytes lets the peer send any bytes in pieces of any size. A piece
// of 0 comes late: only when the handshake waits for it.
func FuzzHandshakeBytes(f *testing.F) {
	hello := clientHello(f)
	body := hello[recordHeaderLen:]
	record := func(typ byte, body []byte) []byte {
		return append([]byte{typ, 3, 3, byte(len(body) >> 8), byte(len(body))}, body...)
	}
	first := record(recordHandshake, body[:100])
	f.Add(true, hello, []byte{255})
	f.Add(true, hello, []byte{1, 4, 0, 3})
	f.Add(true, append(bytes.Clone(hello), record(recordApplicationData, body)...), []byte{0})
	f.Add(true, append(first, record(recordHandshake, body[100:])...), []byte{50, 60, 70})
	f.Add(true, append(record(20, []byte{1}), hello...), []byte{7})
	f.Add(true, append(record(recordHandshake, nil), hello...), []byte{5})
	f.Add(true, []byte{recordHandshake, 3, 1, 0xff, 0xff, 1, 2, 3}, []byte{8})
	f.Add(false, record(recordAlert, []byte{2, 40}), []byte{3})
	f.Add(false, append(record(recordHandshake, []byte{2, 0, 0, 2, 3, 3}), hello...), []byte{0, 0, 9})
	cfg := serverConfig(f)
	f.Fuzz(func(t *testing.T, server bool, stream, pieces []byte) {
		if len(stream) > 32<<10 {
			t.Skip("more than the socket holds")
		}
		w := newWatched(t)
		rest, late := stream, false
		w.feed = func() {
			if w.taken < len(w.stream) {
				return
			}
			if len(rest) == 0 {
				w.peer.CloseWrite()
				return
			}
			n := len(rest)
			if len(pieces) > 0 {
				n, pieces = min(n, int(pieces[0])), pieces[1:]
				if n == 0 && !late {
					late = true
					return
				}
			}
			late = false
			if err := w.send(rest[:max(n, 1)]); err != nil {
				t.Errorf("send: %v", err)
			}
			rest = rest[max(n, 1):]
		}
		role, cfg := Role(server), cfg
		if role == RoleClient {
			cfg = clientConfig()
		}
		s, err := Handshake(w, role, cfg, Options{Deadline: time.Now().Add(10 * time.Second)})
		w.check(s, err)
		if err == nil {
			t.Error("a handshake with nobody succeeded")
		}
	})
}

// mangler is the peer's end: it changes bytes of what crypto/tls writes, and
// writes it in pieces.
type mangler struct {
	net.Conn
	w      *watched
	edits  []byte // 3 each: offset in the stream, bits to change
	pieces []byte
}

func (m *mangler) Write(p []byte) (int, error) {
	total := len(p)
	p = bytes.Clone(p)
	for len(p) > 0 {
		n := len(p)
		if len(m.pieces) > 0 {
			n, m.pieces = min(n, 1+int(m.pieces[0])), m.pieces[1:]
		}
		m.w.mu.Lock()
		for e := m.edits; len(e) >= 3; e = e[3:] {
			if at := int(binary.BigEndian.Uint16(e)) - len(m.w.stream); at >= 0 && at < n {
				p[at] ^= e[2]
			}
		}
		err := m.w.send(p[:n])
		m.w.mu.Unlock()
		if err != nil {
			return 0, err
		}
		p = p[n:]
		runtime.Gosched()
	}
	return total, nil
}

// FuzzHandshakePeer lets a peer speak TLS and go on with data at once, but
// something changes its bytes on the way. What nothing changed succeeds, and
// what follows it is there for the kernel, from the first record on.
func FuzzHandshakePeer(f *testing.F) {
	const server, mutual, retry = 1, 2, 4 // bits of flags
	f.Add(byte(0), []byte(nil), []byte(nil))
	f.Add(byte(server), []byte(nil), []byte{0, 0, 0, 0, 0, 0})
	f.Add(byte(server|mutual), []byte(nil), []byte{4, 200, 255})
	f.Add(byte(retry), []byte(nil), []byte{5})
	f.Add(byte(server|mutual|retry), []byte(nil), []byte(nil))
	f.Add(byte(server), []byte{0, 3, 1}, []byte(nil))       // length of the first record
	f.Add(byte(server), []byte{0, 0, 2}, []byte{9})         // its type
	f.Add(byte(0), []byte{0, 4, 0x80}, []byte{1, 2, 3})     // length of the ServerHello
	f.Add(byte(0), []byte{0, 130, 1}, []byte{255})          // in the encrypted flight
	f.Add(byte(mutual), []byte{0xff, 0xff, 1}, []byte{100}) // nothing
	certs := []tls.Certificate{certificate(f)}
	early := bytes.Repeat([]byte("first rpc "), 50)
	f.Fuzz(func(t *testing.T, flags byte, edits, pieces []byte) {
		w := newWatched(t)
		role := Role(flags&server != 0)
		ours, theirs := clientConfig(), clientConfig()
		for _, cfg := range []*tls.Config{ours, theirs} {
			cfg.Certificates = certs
			if flags&mutual != 0 {
				cfg.ClientAuth = tls.RequireAnyClientCert
			}
		}
		if flags&retry != 0 {
			// The client's first key share is for another group.
			if role == RoleServer {
				ours.CurvePreferences = []tls.CurveID{tls.CurveP384}
			} else {
				theirs.CurvePreferences = []tls.CurveID{tls.CurveP384}
			}
		}
		clean := true
		for e := edits; len(e) >= 3; e = e[3:] {
			clean = clean && e[2] == 0
		}
		patience := 10 * time.Second
		if !clean {
			patience = 100 * time.Millisecond // both sides may wait for the other
		}
		m := &mangler{Conn: w.peer, w: w, edits: edits, pieces: pieces}
		peer := tls.Client(m, theirs)
		if role == RoleClient {
			peer = tls.Server(m, theirs)
		}
		done := make(chan error, 1)
		go func() {
			_, err := peer.Write(early)
			done <- err
		}()
		s, err := Handshake(w, role, ours, Options{Deadline: time.Now().Add(patience)})
		w.check(s, err)
		if !clean {
			w.UnixConn.Close()
			<-done
			return
		}
		if err != nil {
			t.Fatalf("nothing was changed, and yet: %v", err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got := readRecords(t, w.UnixConn, s, len(early)); !bytes.Equal(got, early) {
			t.Errorf("got %d bytes behind the handshake, want %d", len(got), len(early))
		}
	})
}
