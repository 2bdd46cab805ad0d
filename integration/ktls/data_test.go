// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

var dataCases = []conformanceCase{
	{name: "exchange", run: testExchange},
	{name: "state", run: testState},
	{name: "first read shakes hands", run: testLazyRead},
	{name: "first write shakes hands", run: testLazyWrite},
	{name: "sizes sent", run: testSizesSent},
	{name: "sizes received", run: testSizesReceived},
	{name: "small buffers", run: testSmallBuffers},
	{name: "both ways at once", run: testBothWays},
	{name: "many writers", run: testManyWriters},
	{name: "empty records", run: testEmptyRecords},
	{name: "padding", versions: only13, run: testPadding},
	{name: "padding, none expected", versions: only13, run: func(x *trial) {
		x.options = append(x.options, ktls.ExpectNoPad())
		testPadding(x)
	}},
	{name: "a record in pieces", run: testPieces},
	{name: "read deadline", run: testReadDeadline},
	{name: "write deadline", run: testWriteDeadline},
	{name: "socket", run: testSocket},
}

func testExchange(x *trial) {
	ours, peer := x.connect()
	for range 5 {
		x.exchange(ours, peer)
	}
}

func testState(x *trial) {
	x.ours.NextProtos, x.peers.NextProtos = []string{"this", "that"}, []string{"that"}
	ours, _ := x.connect()
	cs := ours.ConnectionState()
	if cs.NegotiatedProtocol != "that" {
		x.Errorf("protocol is %q", cs.NegotiatedProtocol)
	}
	if x.role == ktls.RoleClient && (len(cs.PeerCertificates) != 1 || len(cs.VerifiedChains) == 0) {
		x.Errorf("%d certificates, %d chains", len(cs.PeerCertificates), len(cs.VerifiedChains))
	}
	if x.role == ktls.RoleServer && cs.ServerName != serverName {
		x.Errorf("server name is %q", cs.ServerName)
	}
	if a, b := ours.LocalAddr(), ours.NetConn().LocalAddr(); a.String() != b.String() {
		x.Errorf("local address is %v, that of the connection below %v", a, b)
	}
	if a, b := ours.RemoteAddr(), ours.NetConn().RemoteAddr(); a.String() != b.String() {
		x.Errorf("remote address is %v, that of the connection below %v", a, b)
	}
}

func testLazyRead(x *trial) {
	a, b := x.tcp()
	ours, peer := x.wrap(a), x.plain(b)
	text := pattern(1000)
	wait := x.do(func() error { return writeAll(peer, text) })
	x.must(expect(ours, text))
	x.must(wait())
	x.account.check(x.T, ours)
}

func testLazyWrite(x *trial) {
	a, b := x.tcp()
	ours, peer := x.wrap(a), x.plain(b)
	text := pattern(1000)
	// Several at once, of which one shakes hands.
	var waits []func() error
	for range 4 {
		waits = append(waits, x.do(func() error { return writeAll(ours, text) }))
	}
	x.must(expect(peer, bytes.Repeat(text, 4)))
	for _, wait := range waits {
		x.must(wait())
	}
	x.account.check(x.T, ours)
}

// sizes around the limits of a record and of what is copied at once.
var sizes = []int{1, 2, 3, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097, 16383, 16384, 16385, 16386, 32767, 32768, 32769, 65535, 65536, 65537, 100001}

func testSizesSent(x *trial)     { ours, peer := x.connect(); x.sizes(ours, peer) }
func testSizesReceived(x *trial) { ours, peer := x.connect(); x.sizes(peer, ours) }

func (x *trial) sizes(from, to net.Conn) {
	x.Helper()
	if n, err := from.Write(nil); n != 0 || err != nil {
		x.Fatalf("write nothing: %d, %v", n, err)
	}
	for _, n := range sizes {
		text := pattern(n)
		wait := x.do(func() error { return writeAll(from, text) })
		if err := expect(to, text); err != nil {
			x.Fatalf("%d bytes: %v", n, err)
		}
		x.must(wait())
	}
}

func testSmallBuffers(x *trial) {
	ours, peer := x.connect()
	if n, err := ours.Read(nil); n != 0 || err != nil {
		x.Fatalf("read nothing: %d, %v", n, err)
	}
	for _, size := range []int{1, 5, 100, 16383, 16385, 1 << 20} {
		text := pattern(min(40000, 700*size))
		wait := x.do(func() error { return writeAll(peer, text) })
		if err := readTo(ours, text, size); err != nil {
			x.Fatalf("buffers of %d bytes: %v", size, err)
		}
		x.must(wait())
	}
}

func testBothWays(x *trial) {
	ours, peer := x.connect()
	x.bulk(ours, peer, 512<<10)
}

// bulk sends n bytes each way at the same time and compares sums.
func (x *trial) bulk(a, b net.Conn, n int64) {
	x.Helper()
	var waits []func() error
	for _, d := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
		sent, got := sha256.New(), sha256.New()
		source := io.TeeReader(io.LimitReader(newRandom(), n), sent)
		send := x.do(func() error {
			_, err := io.CopyBuffer(struct{ io.Writer }{d.from}, source, make([]byte, 70000))
			return err
		})
		receive := x.do(func() error {
			_, err := io.CopyBuffer(got, io.LimitReader(struct{ io.Reader }{d.to}, n), make([]byte, 70000))
			return err
		})
		waits = append(waits, func() error {
			if err := errors.Join(send(), receive()); err != nil {
				return err
			}
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				return errors.New("what came is not what was sent")
			}
			return nil
		})
	}
	for _, wait := range waits {
		x.must(wait())
	}
}

// Each Write is one piece of the stream, even if it does not fit into the socket
// at once and others write as well.
func testManyWriters(x *trial) {
	const writers, writes, size = 4, 5, 150000
	ours, peer := x.connect()
	var waits []func() error
	for i := range writers {
		waits = append(waits, x.do(func() error {
			piece := bytes.Repeat([]byte{byte(i + 1)}, size)
			for range writes {
				if err := writeAll(ours, piece); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	piece, count := make([]byte, size), make(map[byte]int)
	for range writers * writes {
		_, err := io.ReadFull(peer, piece)
		x.must(err)
		if n := bytes.Count(piece, piece[:1]); n != size {
			x.Fatalf("a write of %d bytes was torn", size)
		}
		count[piece[0]]++
	}
	for _, wait := range waits {
		x.must(wait())
	}
	for i := range writers {
		if n := count[byte(i+1)]; n != writes {
			x.Errorf("%d writes of writer %d", n, i)
		}
	}
}

// A record without data is not the end.
func testEmptyRecords(x *trial) {
	ours, peer := x.connectRaw()
	for _, text := range []string{"a", "b"} {
		x.must(peer.send(peer.data(nil)))
		x.must(peer.send(peer.data(nil), peer.data(nil), peer.data([]byte(text))))
		x.must(expect(ours, []byte(text)))
	}
	x.must(peer.send(peer.data(nil), peer.alert(1, ktls.AlertCloseNotify)))
	x.is(expectEnd(ours), io.EOF)
}

func testPadding(x *trial) {
	ours, peer := x.connectRaw()
	for _, padding := range []int{1, 15, 16, 1000, maxPlain - 100} {
		text := pattern(100)
		x.must(peer.send(peer.written.seal(typeData, text, padding), peer.data(text)))
		x.must(expect(ours, append(bytes.Clone(text), text...)))
	}
	// A close_notify in disguise.
	x.must(peer.send(peer.written.seal(typeAlert, []byte{1, 0}, 300)))
	x.is(expectEnd(ours), io.EOF)
}

// A record that arrives byte by byte, and in halves.
func testPieces(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(300)
	wait := x.do(func() error { return expect(ours, append(bytes.Clone(text), text...)) })
	for _, b := range peer.data(text) {
		x.must(peer.send([]byte{b}))
	}
	record := peer.data(text)
	x.must(peer.send(record[:7]))
	x.must(peer.send(record[7:]))
	x.must(wait())
}

// timedOut fails unless an error is that of a deadline.
func (x *trial) timedOut(err error) {
	x.Helper()
	x.is(err, os.ErrDeadlineExceeded)
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		x.Errorf("%v (%T) is no net.Error with Timeout", err, err)
	}
}

// After a read's deadline nothing is lost, even in the middle of a record.
func testReadDeadline(x *trial) {
	ours, peer := x.connectRaw()
	buf := make([]byte, 10)
	soon := func() { x.must(ours.SetReadDeadline(time.Now().Add(50 * time.Millisecond))) }
	soon()
	_, err := ours.Read(buf)
	x.timedOut(err)
	_, err = ours.Read(buf) // and it stays past
	x.timedOut(err)
	text := pattern(2000)
	record := peer.data(text)
	x.must(peer.send(record[:1000]))
	soon()
	_, err = ours.Read(buf)
	x.timedOut(err)
	x.must(peer.send(record[1000:]))
	x.must(ours.SetReadDeadline(time.Now().Add(limit)))
	x.must(expect(ours, text))
	// A deadline wakes who waits already.
	wait := x.do(func() error { _, err := ours.Read(buf); return err })
	x.must(ours.SetReadDeadline(time.Unix(1, 0)))
	x.timedOut(wait())
	x.must(ours.SetReadDeadline(time.Time{}))
	x.must(peer.send(peer.data(text)))
	x.must(expect(ours, text))
}

func testWriteDeadline(x *trial) {
	ours, _ := x.connect()
	x.must(ours.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)))
	_, err := ours.Write(make([]byte, 32<<20)) // nobody reads
	x.timedOut(err)
}

// The socket can be had where it is the kernel's TLS, and nowhere else.
func testSocket(x *trial) {
	ours, _ := x.connect()
	raw, err := ours.SyscallConn()
	if x.kernel() {
		x.must(err)
		called := false
		x.must(raw.Control(func(fd uintptr) { called = fd != 0 }))
		if !called {
			x.Error("no descriptor")
		}
	} else {
		x.is(err, ktls.ErrOffload)
	}
	if _, err := x.wrapPipe().SyscallConn(); err == nil {
		x.Error("a pipe has a descriptor")
	}
	if !guest.InVM() {
		return
	}
	local := ours.LocalAddr().(*net.TCPAddr).AddrPort()
	found := 0
	for _, s := range guest.TLSSockets(x.T, nil) {
		if s.Local == local {
			found++
			if want := map[uint16]string{0x303: "1.2", 0x304: "1.3"}[x.suite.version]; s.Version != want || s.RX != "sw" || s.TX != "sw" {
				x.Errorf("the socket is %+v", s)
			}
		}
	}
	if want := int(oneIf(x.kernel())); found != want {
		x.Errorf("%d such sockets with TLS, want %d", found, want)
	}
}

// wrapPipe returns our end on something that is not a socket.
func (x *trial) wrapPipe() *ktls.Conn {
	a, b := net.Pipe()
	x.later(func() { a.Close(); b.Close() })
	return x.wrap(a)
}

// A random is a cheap source of bytes.
type random struct {
	mu    sync.Mutex
	block []byte
	at    int
	round byte
}

func newRandom() *random { return &random{block: pattern(1<<16 + 1)} }

// Read gives one block again and again, each time with another mask: so no
// piece of the stream can stand for another.
func (r *random) Read(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := copy(p, r.block[r.at:])
	for i := range p[:n] {
		p[i] ^= r.round
	}
	if r.at += n; r.at == len(r.block) {
		r.at, r.round = 0, r.round+1
	}
	return n, nil
}
