// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The test vectors for TLS 1.2's PRF that were posted to the TLS working
// group's list when it was made.
func TestPRF(t *testing.T) {
	tests := []struct {
		hash               crypto.Hash
		secret, seed, want string
	}{
		{
			crypto.SHA256, "9bbe436ba940f017b17652849a71db35", "a0ba9f936cda311827a6f796ffd5198c",
			"e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66",
		},
		{
			crypto.SHA384, "b80b733d6ceefcdc71566ea48e5567df", "cd665cf6a8447dd6ff8b27555edb7465",
			"7b0c18e9ced410ed1804f2cfa34a336a1c14dffb4900bb5fd7942107e81c83cde9ca0faa60be9fe34f82b1233c9146a0e534cb400fed2700884f9dc236f80edd8bfa961144c9e8d792eca722a7b32fc3d416d473ebc2c5fd4abfdad05d9184259b5bf8cd4d90fa0d31e2dec479e4f1a26066f2eea9a69236a3e52655c9e9aee691c8f3a26854308d5eaa3be85e0990703d73e56f",
		},
	}
	for _, tt := range tests {
		got := hex.EncodeToString(prf(tt.hash, unhex(t, tt.secret), "test label", unhex(t, tt.seed), len(tt.want)/2))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", tt.hash, diff)
		}
	}
}

// TestDeriveKeys12CutsTheBlock: keys first, then IVs, the client's before the
// server's (RFC 5246 section 6.3).
func TestDeriveKeys12CutsTheBlock(t *testing.T) {
	var client, server [randomLen]byte
	client[0], server[0] = 1, 2
	master := bytes.Repeat([]byte{7}, masterLen)
	for id, s := range suites12 {
		c, srv := deriveKeys12(s, master, client, server)
		block := prf(s.hash, master, "key expansion", append(server[:], client[:]...), 2*(cipherSpecs[s.cipher].keyLen+s.ivLen()))
		if got := bytes.Join([][]byte{c.key, srv.key, c.iv, srv.iv}, nil); !bytes.Equal(got, block) {
			t.Errorf("%s: %x, want %x", tls.CipherSuiteName(id), got, block)
		}
	}
}

func TestCryptoInfo12Layout(t *testing.T) {
	keys := trafficKeys{key: bytes.Repeat([]byte{0xee}, 16), iv: unhex(t, "00010203")}
	want := unhex(t, "0303 3300 0000000000000007 eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee 00010203 0000000000000007")
	if diff := cmp.Diff(want, cryptoInfo12(AES128GCM, keys, 7)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	keys = trafficKeys{key: bytes.Repeat([]byte{0xee}, 32), iv: unhex(t, "000102030405060708090a0b")}
	want = unhex(t, "0303 3600 000102030405060708090a0b eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee 0000000000000007")
	if diff := cmp.Diff(want, cryptoInfo12(ChaCha20Poly1305, keys, 7)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// serverHello is the head of one, with a session ID of two bytes.
func serverHello() []byte {
	b := []byte{2, 0, 0, 40, 3, 3}
	for i := range randomLen {
		b = append(b, byte(i))
	}
	return append(b, 2, 8, 9, 0xc0, 0x2b, 0)
}

func TestParseHello(t *testing.T) {
	good := serverHello()
	edit := func(at int, b byte) []byte {
		c := bytes.Clone(good)
		c[at] = b
		return c
	}
	tests := []struct {
		name string
		typ  byte
		b    []byte
		ok   bool
	}{
		{"server's", 2, good, true},
		{"a client's", 1, edit(0, 1), true},
		{"other type", 1, good, false},
		{"cut before the suite", 2, good[:len(good)-2], false},
		{"cut in the random", 2, good[:20], false},
		{"message shorter than its head", 2, edit(3, 36), false},
		{"session ID too long", 2, edit(38, 33), false},
		{"version 2", 2, edit(4, 2), false},
		{"version 4.0 in the old field", 2, edit(5, 4), false},
		{"empty", 2, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h, err := parseHello(tt.typ, tt.b)
			if (err == nil) != tt.ok {
				t.Fatalf("error %v", err)
			}
			if tt.ok && !bytes.Equal(h.random[:], good[6:38]) {
				t.Errorf("random %x", h.random)
			}
			if tt.ok && tt.typ == 2 && h.suite != 0xc02b {
				t.Errorf("suite %x", h.suite)
			}
		})
	}
}

// FuzzHello: what is read is where it stands, and the rest of a hello does not
// change it.
func FuzzHello(f *testing.F) {
	f.Add(byte(2), serverHello(), uint8(7))
	f.Add(byte(1), serverHello(), uint8(0))
	f.Add(byte(2), []byte{2, 0, 0, 0}, uint8(1))
	f.Fuzz(func(t *testing.T, typ byte, b []byte, step uint8) {
		h, err := parseHello(typ, b)
		var tap helloTap
		for rest := b; len(rest) > 0; {
			n := min(len(rest), int(step)+1)
			tap.add(rest[:n])
			rest = rest[n:]
		}
		if len(tap) > helloLen {
			t.Fatalf("kept %d bytes", len(tap))
		}
		again, aerr := parseHello(typ, tap)
		if again != h || (aerr == nil) != (err == nil) {
			t.Fatalf("whole: %v, %v; head: %v, %v", h, err, again, aerr)
		}
		if err == nil && (b[0] != typ || !bytes.Equal(h.random[:], b[6:38])) {
			t.Fatalf("%x of %x", h.random, b)
		}
	})
}

// FuzzMessages: a stream's messages do not depend on how it is cut.
func FuzzMessages(f *testing.F) {
	f.Add([]byte{24, 0, 0, 1, 1, 4, 0, 0, 0}, uint16(0))
	f.Add([]byte{4, 0, 0, 3, 1, 2, 3, 24, 0, 0, 1, 0, 9}, uint16(3))
	f.Add([]byte{4, 0xff, 0xff, 0xff}, uint16(2))
	f.Fuzz(func(t *testing.T, stream []byte, step uint16) {
		collect := func(step int) (all [][]byte, err error) {
			var m messages
			for rest := stream; len(rest) > 0; {
				n := min(len(rest), step)
				m.add(rest[:n])
				rest = rest[n:]
				for {
					one, err := m.next()
					if err != nil {
						return all, err
					}
					if one == nil {
						break
					}
					all = append(all, bytes.Clone(one))
				}
				if len(m.buf) >= maxMessage+step {
					t.Fatalf("holds %d bytes", len(m.buf))
				}
			}
			return all, nil
		}
		whole, werr := collect(len(stream) + 1)
		parts, perr := collect(int(step) + 1)
		if diff := cmp.Diff(whole, parts); diff != "" || werr != perr {
			t.Fatalf("errors %v, %v; messages (-whole +parts):\n%s", werr, perr, diff)
		}
		if werr == nil && !bytes.HasPrefix(stream, bytes.Join(whole, nil)) {
			t.Fatalf("%x of %x", whole, stream)
		}
	})
}

// chunks is a connection whose reads give a stream in pieces of some size.
type chunks struct {
	net.Conn
	stream []byte
	step   int
	asked  int // the most that one Read asked for
}

func (c *chunks) Read(p []byte) (int, error) {
	c.asked = max(c.asked, len(p))
	if len(c.stream) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), c.step)], c.stream)
	c.stream = c.stream[n:]
	return n, nil
}

// FuzzWire: a Read ends at the end of the record that it is in, whatever comes,
// and the records are counted right.
func FuzzWire(f *testing.F) {
	f.Add([]byte{22, 3, 3, 0, 1, 9, 20, 3, 3, 0, 1, 1, 22, 3, 3, 0, 2, 7, 7}, uint8(3), uint16(100))
	f.Add([]byte{20, 3, 3, 0, 0, 23, 3, 3, 0, 0, 23, 3, 3}, uint8(0), uint16(1))
	f.Add([]byte{23, 3, 3, 0xff, 0xff, 1}, uint8(9), uint16(9))
	f.Fuzz(func(t *testing.T, stream []byte, step uint8, size uint16) {
		c := &chunks{stream: bytes.Clone(stream), step: int(step) + 1}
		w := newWire(c, true, true)
		p := make([]byte, int(size)+1)
		var got []byte
		for {
			start := len(got)
			n, err := w.Read(p)
			got = append(got, p[:n]...)
			if len(got) > recordEnd(stream, start) {
				t.Fatalf("from %d to %d: past the record's end", start, len(got))
			}
			if errors.Is(err, errRecordTooLong) {
				return
			}
			if err != nil {
				break
			}
			if n == 0 {
				t.Fatal("a Read without a byte or an error")
			}
		}
		if !bytes.Equal(got, stream) || !w.eof.Load() {
			t.Fatalf("read %x of %x", got, stream)
		}
		var want passed
		rest := stream
		for r := firstRecord(rest); r != nil; r = firstRecord(rest) {
			want.record(r[0])
			rest = rest[len(r):]
		}
		if w.in != want || w.atBoundary() != (len(rest) == 0) {
			t.Fatalf("counted %+v, want %+v; %d bytes left, boundary: %v", w.in, want, len(rest), w.atBoundary())
		}
	})
}

// A script is a kernelSocket that gives what a test says.
type script struct {
	steps [][]byte // type, content
	sent  int
}

func (s *script) receive(p []byte) (int, byte, bool, error) {
	if len(s.steps) == 0 {
		return 0, 0, false, nil
	}
	step := s.steps[0]
	n := copy(p, step[1:])
	s.steps[0] = append([]byte{step[0]}, step[1+n:]...)
	whole := len(step) == 1+n
	if whole {
		s.steps = s.steps[1:]
	}
	return n, step[0], whole, nil
}

func (s *script) send(p []byte) (int, error)           { return len(p), nil }
func (s *script) sendControl(byte, []byte, bool) error { s.sent++; return nil }
func (s *script) setTX(trafficKeys) error              { return nil }
func (s *script) setRX(trafficKeys) error              { return nil }
func (s *script) resumeRX() error                      { return nil }
func (s *script) from(io.Reader) (int64, error)        { return 0, nil }
func (s *script) flush() error                         { return nil }
func (s *script) setWriteDeadline(time.Time) error     { return nil }
func (s *script) close() error                         { return nil }

// FuzzReceived: whatever records a peer that has the keys sends, reading ends,
// with an error that stays, and the data before it arrives.
func FuzzReceived(f *testing.F) {
	f.Add([]byte{23, 2, 'h', 'i', 22, 5, 24, 0, 0, 1, 1, 23, 1, 'x', 21, 2, 1, 0}, uint8(0), true, true)
	f.Add([]byte{22, 3, 24, 0, 0, 23, 1, 'x'}, uint8(1), true, false)
	f.Add([]byte{22, 4, 0, 0, 0, 0, 21, 2, 1, 100, 21, 2, 2, 40}, uint8(99), false, true)
	f.Add([]byte{21, 0, 99, 1, 1}, uint8(3), false, false)
	f.Fuzz(func(t *testing.T, text []byte, size uint8, tls13, client bool) {
		s := new(script)
		for len(text) >= 2 {
			n := min(int(text[1]), len(text)-2)
			s.steps = append(s.steps, append([]byte{text[0]}, text[2:2+n]...))
			text = text[2+n:]
		}
		k := &carried{sock: scriptSocket{s}, suite: Suite{tls.VersionTLS12, AES128GCM}, client: client, limit: noLimit}
		if tls13 {
			k.suite.Version = tls.VersionTLS13
			k.rx, k.tx = &flow{secret: make([]byte, 32)}, &flow{secret: make([]byte, 32)}
		}
		data := 0
		for _, step := range s.steps {
			data += len(step)
		}
		p := make([]byte, int(size)+1)
		var err error
		for rounds := 0; err == nil; rounds++ {
			if rounds > data {
				t.Fatal("reading does not end")
			}
			_, err = k.read(p)
		}
		if _, again := k.read(p); again != err {
			t.Fatalf("%v, then %v", err, again)
		}
		if _, ok := errors.AsType[*AlertError](err); !ok && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	})
}

// A peer cannot keep a Read busy with records that say nothing.
func TestRecordsThatSayNothing(t *testing.T) {
	for name, step := range map[string][]byte{
		"empty": {recordApplicationData}, "warning": {recordAlert, alertWarning, byte(AlertUserCanceled)},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(n int) error {
				s := new(script)
				for range n {
					s.steps = append(s.steps, bytes.Clone(step))
				}
				s.steps = append(s.steps, []byte{recordApplicationData, 'x'})
				k := &carried{sock: scriptSocket{s}, suite: Suite{tls.VersionTLS13, AES128GCM}, client: true, limit: noLimit}
				_, err := k.read(make([]byte, 16))
				return err
			}
			if err := read(maxIdle); err != nil {
				t.Errorf("%d records: %v", maxIdle, err)
			}
			if a, ok := errors.AsType[*AlertError](read(maxIdle + 1)); !ok || a.Alert != AlertUnexpectedMessage || a.Remote {
				t.Errorf("%d records: %v", maxIdle+1, a)
			}
		})
	}
}

type scriptSocket struct{ *script }

func (s scriptSocket) sent() (uint64, error) { return 0, nil }
