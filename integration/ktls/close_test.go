// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

var closeCases = []conformanceCase{
	{name: "close before the handshake", run: testCloseFirst},
	{name: "close during the handshake", run: testCloseDuring},
	{name: "context ends during the handshake", run: testContextEnds},
	{name: "handshake deadline", run: testHandshakeDeadline},
	{name: "close", run: testClose},
	{name: "close while a read waits", run: testCloseWhileReading},
	{name: "close while a write waits", run: testCloseWhileWriting},
	{name: "close with unread data", run: testCloseUnread},
	{name: "close after an error", run: testCloseAfterError},
	{name: "close of the peer", run: testPeerCloses},
	{name: "CloseWrite", run: testCloseWrite},
	{name: "CloseWrite of the peer", run: testPeerClosesWrite},
	{name: "CloseWrite of both", run: testBothCloseWrite},
	{name: "CloseWrite before the handshake", run: testCloseWriteFirst},
	{name: "close_notify and then data", run: testDataAfterEnd},
}

// closed asserts that nothing can be done any more.
func (x *trial) closed(c *ktls.Conn) {
	x.Helper()
	_, err := c.Read(make([]byte, 1))
	x.is(err, net.ErrClosed)
	_, err = c.Write([]byte("a"))
	x.is(err, net.ErrClosed)
}

func testCloseFirst(x *trial) {
	a, b := x.tcp()
	ours := x.wrap(a)
	x.must(ours.Close())
	x.closed(ours)
	x.is(expectEnd(b), io.EOF)
	if err := ours.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		x.Errorf("the second Close: %v", err)
	}
}

// The handshake has begun, and waits for a peer that says nothing more.
func testCloseDuring(x *trial) {
	a, b := x.tcp()
	ours := x.wrap(a)
	wait := x.do(ours.Handshake)
	if x.role == ktls.RoleClient {
		_, err := b.Read(make([]byte, 1))
		x.must(err)
	} else {
		x.must(writeAll(b, []byte{typeHandshake}))
		guest.Poll(x.T, limit, "the first byte's reading", func() error { return unread(a) })
	}
	x.must(ours.Close())
	if err := wait(); err == nil {
		x.Error("the handshake succeeded")
	}
	x.closed(ours)
}

// unread returns an error while a socket has data that nobody has read.
func unread(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var n int
	cerr := raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	if cerr != nil || err != nil {
		return errors.Join(cerr, err)
	}
	if n > 0 {
		return fmt.Errorf("%d bytes are not read", n)
	}
	return nil
}

func testContextEnds(x *trial) {
	a, _ := x.tcp()
	ours := x.wrap(a)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	wait := x.do(func() error { return ours.HandshakeContext(ctx) })
	x.is(wait(), context.DeadlineExceeded)
	if err := ours.Handshake(); err == nil {
		x.Error("and then it succeeded")
	}
}

func testHandshakeDeadline(x *trial) {
	a, _ := x.tcp()
	ours := x.wrap(a)
	x.must(ours.SetDeadline(time.Now().Add(50 * time.Millisecond)))
	wait := x.do(ours.Handshake)
	x.timedOut(wait())
}

// The peer hears close_notify, and then the end of the connection.
func testClose(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(100)
	x.must(writeAll(ours, text))
	x.must(ours.Close())
	_, others, err := peer.receiveData(len(text))
	x.must(err)
	if len(others) != 0 {
		x.Fatalf("before the data: %v", others)
	}
	x.ends(peer)
	x.closed(ours)
	if err := ours.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		x.Errorf("the second Close: %v", err)
	}
}

// ends asserts that the peer hears close_notify once, and then nothing.
func (x *trial) ends(peer *raw) {
	x.Helper()
	typ, content, err := peer.receive()
	x.must(err)
	if typ != typeAlert || len(content) != 2 || content[0] != 1 || content[1] != 0 {
		x.Fatalf("the peer got a record of type %d: % x; want close_notify, a warning", typ, content)
	}
	if _, _, err := peer.receive(); err != io.EOF {
		x.Fatalf("after close_notify: %v, want the end of the connection", err)
	}
}

func testCloseWhileReading(x *trial) {
	ours, peer := x.connect()
	var waits []func() error
	for range 3 {
		waits = append(waits, x.do(func() error { _, err := ours.Read(make([]byte, 1)); return err }))
	}
	x.exchangeOneWay(ours, peer) // they wait by now, or will
	x.must(ours.Close())
	for _, wait := range waits {
		x.is(wait(), net.ErrClosed)
	}
	x.is(expectEnd(peer), io.EOF)
}

func (x *trial) exchangeOneWay(from, to net.Conn) {
	x.Helper()
	text := pattern(100)
	x.must(writeAll(from, text))
	x.must(expect(to, text))
}

// flood writes what nobody reads, until that ends with the error that wait returns.
// The first Write is over when flood is.
func (x *trial) flood(c net.Conn) (wait func() error) {
	progress := make(chan struct{}, 1)
	wait = x.do(func() error {
		for {
			if _, err := c.Write(make([]byte, 1<<20)); err != nil {
				return err
			}
			select {
			case progress <- struct{}{}:
			default:
			}
		}
	})
	<-progress
	return wait
}

func testCloseWhileWriting(x *trial) {
	ours, _ := x.connect()
	wait := x.flood(ours)
	closed := x.do(ours.Close)
	err := wait()
	if err == nil || errors.Is(err, io.EOF) {
		x.Errorf("error is %v", err)
	}
	_ = closed() // it may say that close_notify did not fit
	x.closed(ours)
}

// Linux resets a connection that is closed with data in its queue; the peer
// hears close_notify or that, but is not left alone.
func testCloseUnread(x *trial) {
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.data(pattern(50000))))
	x.must(expect(ours, pattern(50000)[:1]))
	x.must(ours.Close())
	x.closed(ours)
	for {
		if _, _, err := peer.receive(); err != nil {
			break
		}
	}
}

func testCloseAfterError(x *trial) {
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.alert(2, 80)))
	x.hears(ours, 80)
	_ = ours.Close()
	if err := expectEnd(ours); errors.Is(err, io.EOF) {
		x.Errorf("a read after Close says %v", err)
	}
	if _, err := ours.Write([]byte("a")); err == nil {
		x.Error("a write after Close succeeded")
	}
}

// After close_notify each read says io.EOF, and our end may still write.
func testPeerCloses(x *trial) {
	ours, peer := x.connect()
	text := pattern(30000)
	wait := x.do(func() error {
		if err := writeAll(peer, text); err != nil {
			return err
		}
		return peer.Close()
	})
	x.must(expect(ours, text))
	for range 3 {
		x.is(expectEnd(ours), io.EOF)
	}
	x.must(wait())
}

func testCloseWrite(x *trial) {
	ours, peer := x.connect()
	text := pattern(30000)
	x.exchangeOneWay(ours, peer)
	x.must(ours.CloseWrite())
	x.is(expectEnd(peer), io.EOF)
	if _, err := ours.Write([]byte("a")); err == nil {
		x.Error("a write after CloseWrite succeeded")
	}
	// The other direction goes on.
	for range 2 {
		wait := x.do(func() error { return writeAll(peer, text) })
		x.must(expect(ours, text))
		x.must(wait())
	}
	x.must(peer.Close())
	x.is(expectEnd(ours), io.EOF)
}

func testPeerClosesWrite(x *trial) {
	ours, peer := x.connect()
	text := pattern(30000)
	x.exchange(ours, peer)
	x.must(peer.CloseWrite())
	x.is(expectEnd(ours), io.EOF)
	for range 2 {
		wait := x.do(func() error { return writeAll(ours, text) })
		x.must(expect(peer, text))
		x.must(wait())
	}
	x.is(expectEnd(ours), io.EOF)
	x.must(ours.CloseWrite())
	x.is(expectEnd(peer), io.EOF)
}

func testBothCloseWrite(x *trial) {
	ours, peer := x.connectRaw()
	x.must(ours.CloseWrite())
	x.must(peer.send(peer.alert(1, ktls.AlertCloseNotify)))
	x.is(expectEnd(ours), io.EOF)
	x.must(ours.Close())
	x.ends(peer) // one close_notify, not two
}

// As crypto/tls: there is nothing to close yet.
func testCloseWriteFirst(x *trial) {
	a, b := x.tcp()
	ours := x.wrap(a)
	if err := ours.CloseWrite(); err == nil {
		x.Error("no error")
	}
	peer := x.plain(b)
	wait := x.do(peer.Handshake)
	x.must(ours.Handshake())
	x.must(wait())
	x.account.check(x.T, ours)
	x.exchange(ours, peer)
}

// What follows close_notify is not data (RFC 8446 section 6.1).
func testDataAfterEnd(x *trial) {
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.data([]byte("a")), peer.alert(1, ktls.AlertCloseNotify), peer.data([]byte("b"))))
	x.must(expect(ours, []byte("a")))
	for range 3 {
		x.is(expectEnd(ours), io.EOF)
	}
}
