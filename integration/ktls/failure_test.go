// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"rpctls/ktls"
)

var failureCases = []conformanceCase{
	{name: "fatal alerts", run: testFatalAlerts},
	{name: "alert after data", run: testAlertAfterData},
	{name: "user_canceled", versions: only13, run: testUserCanceled},
	{name: "warnings", versions: only12, run: testWarnings},
	{name: "bad alerts", run: testBadAlerts},
	{name: "reset", run: testReset},
	{name: "reset after data", run: testResetAfterData},
	{name: "reset while a write waits", run: testResetWhileWriting},
	{name: "truncation", run: testTruncation},
	{name: "truncation, tolerated", run: testTruncationTolerated},
	{name: "death in the middle of a record", run: testDeath},
	{name: "record that was changed", run: testChanged},
	{name: "record that was repeated", run: testRepeated},
	{name: "record too long", run: testTooLong},
	{name: "record of no type", run: testNoType},
	{name: "record in clear", run: testClear},
	{name: "ClientHello after the handshake", run: testHelloAgain},
	{name: "handshake that fails", run: testHandshakeFails},
	{name: "peer that speaks no TLS", run: testNoTLS},
}

// hears asserts that reading ends with that alert of the peer's, each time.
func (x *trial) hears(c *ktls.Conn, want ktls.Alert) {
	x.Helper()
	for range 2 {
		err := expectEnd(c)
		e, ok := errors.AsType[*ktls.AlertError](err)
		if !ok {
			x.Fatalf("error is %v (%T), want alert %v", err, err, want)
		}
		if e.Alert != want || !e.Remote || !strings.Contains(err.Error(), want.String()) {
			x.Fatalf("alert %v, remote %t: %v; want %v", e.Alert, e.Remote, err, want)
		}
	}
}

func testFatalAlerts(x *trial) {
	for _, a := range []ktls.Alert{10, 20, 22, 40, 42, 46, 48, 49, 80, 116, 200} {
		ours, peer := x.connectRaw()
		x.must(peer.send(peer.alert(2, a)))
		x.hears(ours, a)
		x.must(peer.Close())
	}
}

func testAlertAfterData(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(40000)
	x.must(peer.send(peer.data(text), peer.alert(2, ktls.AlertAccessDenied)))
	x.must(readTo(ours, text, 3000))
	x.hears(ours, ktls.AlertAccessDenied)
}

// RFC 8446 section 6.1: close_notify follows.
func testUserCanceled(x *trial) {
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.alert(1, ktls.AlertUserCanceled), peer.data([]byte("a")), peer.alert(1, ktls.AlertCloseNotify)))
	x.must(expect(ours, []byte("a")))
	x.is(expectEnd(ours), io.EOF)
}

func testWarnings(x *trial) {
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.data([]byte("a")), peer.alert(1, 112), peer.data([]byte("b"))))
	x.must(expect(ours, []byte("ab")))
}

func testBadAlerts(x *trial) {
	for _, bad := range []struct {
		name    string
		content []byte
	}{{"of one byte", []byte{2}}, {"of three bytes", []byte{1, 0, 0}}, {"of no level", []byte{7, 40}}, {"of no bytes", nil}} {
		x.part(bad.name, func(x *trial) {
			ours, peer := x.connectRaw()
			x.must(peer.send(peer.written.seal(typeAlert, bad.content, 0)))
			_, err := ours.Read(make([]byte, 1))
			if err == nil || err == io.EOF {
				x.Fatalf("error is %v", err)
			}
			x.Log(err)
		})
	}
}

// reset has the peer end the connection without a word.
func (x *trial) reset(c *raw) {
	x.Helper()
	x.must(c.Conn.(*net.TCPConn).SetLinger(0))
	x.must(c.Close())
}

func testReset(x *trial) {
	ours, peer := x.connectRaw()
	wait := x.do(func() error { return expectEnd(ours) })
	x.reset(peer)
	x.is(wait(), syscall.ECONNRESET)
	for range 2 {
		if err := expectEnd(ours); errors.Is(err, io.EOF) {
			x.Errorf("the next read: %v", err)
		}
		if _, err := ours.Write([]byte("a")); err == nil {
			x.Error("a write succeeded")
		}
	}
}

func testResetAfterData(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(100)
	wait := x.do(func() error { return expect(ours, text) })
	x.must(peer.send(peer.data(text)))
	x.must(wait())
	record := peer.data(text)
	x.must(peer.send(record[:50]))
	x.reset(peer)
	x.is(expectEnd(ours), syscall.ECONNRESET)
}

func testResetWhileWriting(x *trial) {
	ours, peer := x.connectRaw()
	wait := x.flood(ours)
	x.reset(peer)
	if err := wait(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		x.Errorf("error is %v (%T)", err, err)
	}
}

func testTruncation(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(20000)
	x.must(peer.send(peer.data(text)))
	x.must(peer.CloseWrite())
	x.must(expect(ours, text))
	for range 3 {
		x.is(expectEnd(ours), io.ErrUnexpectedEOF)
	}
}

func (r *raw) CloseWrite() error { return r.Conn.(*net.TCPConn).CloseWrite() }

func testTruncationTolerated(x *trial) {
	x.options = append(x.options, ktls.TolerateTruncation())
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.data([]byte("a"))))
	x.must(peer.CloseWrite())
	x.must(expect(ours, []byte("a")))
	for range 3 {
		x.is(expectEnd(ours), io.EOF)
	}
}

// The peer dies in the middle of a record. Who tolerates truncation is told that
// this is the end: the kernel says no more than that.
func testDeath(x *trial) {
	for _, want := range []error{io.ErrUnexpectedEOF, io.EOF} {
		if want == io.EOF {
			x.options = append(x.options, ktls.TolerateTruncation())
		}
		for _, cut := range []int{1, 4, 5, 6, 100, -1} {
			ours, peer := x.connectRaw()
			before, record := peer.data([]byte("a")), peer.data(pattern(1000))
			if cut < 0 {
				cut += len(record)
			}
			x.must(peer.send(before, record[:cut]))
			x.must(peer.CloseWrite())
			x.must(expect(ours, []byte("a")))
			for range 2 {
				if err := expectEnd(ours); !errors.Is(err, want) {
					x.Errorf("cut after %d bytes: error is %v (%T), want %v", cut, err, err, want)
				}
			}
			x.must(peer.Close())
		}
	}
}

func testChanged(x *trial) {
	x.account.damage()
	for _, at := range []int{headerLen, 100, -1} {
		ours, peer := x.connectRaw()
		before, record := peer.data([]byte("a")), peer.data(pattern(1000))
		if at < 0 {
			at += len(record)
		}
		record[at] ^= 1
		x.must(peer.send(before, record, peer.data([]byte("b"))))
		x.must(expect(ours, []byte("a")))
		x.refuses(ours, peer, 20)
		x.must(peer.Close())
	}
}

func testRepeated(x *trial) {
	x.account.damage()
	ours, peer := x.connectRaw()
	record := peer.data([]byte("a"))
	x.must(peer.send(record, record))
	x.must(expect(ours, []byte("a")))
	x.refuses(ours, peer, 20)
}

func testTooLong(x *trial) {
	x.account.damage()
	ours, peer := x.connectRaw()
	x.must(peer.send([]byte{typeData, 3, 3, 0x48, 1}, make([]byte, 0x4801)))
	x.refuses(ours, peer, ktls.AlertRecordOverflow)
}

func testNoType(x *trial) {
	x.account.damage()
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.written.seal(99, []byte("a"), 0)))
	x.refuses(ours, peer, ktls.AlertUnexpectedMessage)
}

func testClear(x *trial) {
	x.account.damage()
	ours, peer := x.connectRaw()
	x.must(peer.send([]byte{typeAlert, 3, 3, 0, 2, 1, 0})) // anybody could have sent this
	_, err := ours.Read(make([]byte, 1))
	if err == nil || err == io.EOF {
		x.Fatalf("error is %v", err)
	}
	x.Log(err)
}

// No renegotiation: TLS 1.3 has none, and of 1.2's nothing is wanted, which may be
// said by a warning, after which all goes on (RFC 5246 section 7.2.2).
func testHelloAgain(x *trial) {
	ours, peer := x.connectRaw()
	hello := []byte{0, 0, 0, 0} // HelloRequest
	if x.role == ktls.RoleServer {
		hello = append([]byte{1, 0, 0, 38, 3, 3}, make([]byte, 36)...)
	}
	x.must(peer.send(peer.written.seal(typeHandshake, hello, 0), peer.data([]byte("a"))))
	_, err := ours.Read(make([]byte, 1))
	if err == nil && x.suite.version == tls.VersionTLS12 {
		a, err := peer.receiveAlert()
		x.must(err)
		if noRenegotiation := ktls.Alert(100); a != noRenegotiation {
			x.Errorf("the peer was told %v", a)
		}
		x.exchangeRaw(ours, peer)
		return
	}
	if err == nil || err == io.EOF {
		x.Fatalf("error is %v", err)
	}
	x.Log(err)
}

// exchangeRaw sends a little each way.
func (x *trial) exchangeRaw(ours *ktls.Conn, peer *raw) {
	x.Helper()
	text := pattern(100)
	x.must(peer.send(peer.data(text)))
	x.must(expect(ours, text))
	x.must(writeAll(ours, text))
	got, _, err := peer.receiveData(len(text))
	x.must(err)
	x.must(same(got, text))
}

// The error is crypto/tls's, for callers who look into it.
func testHandshakeFails(x *trial) {
	client := x.ours
	if x.role == ktls.RoleServer {
		client = x.peers
	}
	client.RootCAs = x509.NewCertPool()
	a, b := x.tcp()
	ours, peer := x.wrap(a), x.plain(b)
	wait := x.do(func() error {
		if err := peer.Handshake(); err != nil {
			return err
		}
		_, err := peer.Read(make([]byte, 1)) // in TLS 1.3 a client is done before its server
		return err
	})
	err := ours.Handshake()
	if err == nil {
		x.Fatal("no error")
	}
	if x.role == ktls.RoleClient {
		if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
			x.Errorf("error is %v (%T)", err, err)
		}
	} else if e, ok := errors.AsType[*ktls.AlertError](err); !ok || !e.Remote || e.Alert != ktls.AlertBadCertificate && e.Alert != ktls.AlertUnknownCA {
		x.Errorf("error is %v (%T)", err, err)
	}
	if err := wait(); err == nil {
		x.Error("the peer is content")
	}
	if _, again := ours.Write([]byte("a")); again == nil {
		x.Error("a write succeeded")
	}
}

func testNoTLS(x *trial) {
	a, b := x.tcp()
	ours := x.wrap(a)
	x.must(writeAll(b, bytes.Repeat([]byte("GET / HTTP/1.0\r\n\r\n"), 3)))
	wait := x.do(ours.Handshake)
	err := wait()
	if _, ok := errors.AsType[tls.RecordHeaderError](err); !ok {
		x.Errorf("error is %v (%T)", err, err)
	}
}
