// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto/tls"
	"io"

	"rpctls/ktls"
)

// What arrives in one segment with the peer's Finished.
var finishedCases = []conformanceCase{
	{name: "data with Finished", run: testDataWithFinished},
	{name: "much data with Finished", run: testMuchWithFinished},
	{name: "half a record with Finished", run: testHalfWithFinished},
	{name: "close_notify with Finished", run: testEndWithFinished},
	{name: "data and close_notify with Finished", run: testDataAndEndWithFinished},
	{name: "end of the connection with Finished", run: testFinWithFinished},
	{name: "alert with Finished", run: testAlertWithFinished},
	{name: "tickets and data with Finished", versions: only13, roles: onlyClient, run: testTicketsWithFinished},
	{name: "key update with Finished", versions: only13, run: testKeyUpdateWithFinished},
	{name: "data before the handshake is asked for", run: testDataWaits},
}

// peerFinishes reports whether the peer's Finished is the last message of the
// handshake, so that something may follow it.
func (x *trial) peerFinishes() bool {
	return x.suite.version == tls.VersionTLS13 || x.role == ktls.RoleClient
}

// connectWith makes a session whose peer sends something in one segment with its
// Finished. Where its Finished is not the last message, that is sent right after
// the handshake instead.
func (x *trial) connectWith(f func(r *raw) []byte, opts ...rawOption) (*ktls.Conn, *raw) {
	x.Helper()
	if x.peerFinishes() {
		ours, peer := x.connectRaw(append(opts, withFinished(f))...)
		if peer.finishing != nil {
			x.Fatal("nothing was sent with Finished")
		}
		return ours, peer
	}
	ours, peer := x.connectRaw(opts...)
	x.must(peer.send(f(peer)))
	return ours, peer
}

func testDataWithFinished(x *trial) {
	text := pattern(777)
	ours, peer := x.connectWith(func(r *raw) []byte { return r.data(text) })
	x.must(expect(ours, text))
	x.must(writeAll(ours, text))
	got, _, err := peer.receiveData(len(text))
	x.must(err)
	x.must(same(got, text))
	x.must(peer.send(peer.data(text)))
	x.must(expect(ours, text))
}

// More than any buffer of the handshake's.
func testMuchWithFinished(x *trial) {
	text := pattern(200000)
	ours, peer := x.connectWith(func(r *raw) []byte { return r.data(text) })
	x.must(peer.send(peer.data(text)))
	x.must(readTo(ours, append(bytes.Clone(text), text...), 5000))
}

func testHalfWithFinished(x *trial) {
	text := pattern(3000)
	for _, cut := range []int{1, 5, 6, 1500} {
		var rest []byte
		ours, peer := x.connectWith(func(r *raw) []byte {
			record := r.data(text)
			rest = record[cut:]
			return record[:cut]
		})
		wait := x.do(func() error { return expect(ours, text) })
		x.must(peer.send(rest))
		x.must(wait())
	}
}

func testEndWithFinished(x *trial) {
	ours, _ := x.connectWith(func(r *raw) []byte { return r.alert(1, ktls.AlertCloseNotify) })
	x.is(expectEnd(ours), io.EOF)
}

func testDataAndEndWithFinished(x *trial) {
	text := pattern(777)
	ours, peer := x.connectWith(func(r *raw) []byte { return append(r.data(text), r.alert(1, ktls.AlertCloseNotify)...) })
	x.must(expect(ours, text))
	x.is(expectEnd(ours), io.EOF)
	// The other direction is still there.
	x.must(writeAll(ours, text))
	_, _, err := peer.receiveData(len(text))
	x.must(err)
}

// The peer has sent all and closed before our end has finished.
func testFinWithFinished(x *trial) {
	a, b := x.tcp()
	ours := x.wrap(a)
	text := pattern(777)
	wait := x.do(func() error {
		peer, err := shakeHands(b, !x.role, x.suite, x.peers)
		if err != nil {
			return err
		}
		if err := peer.send(peer.data(text), peer.alert(1, ktls.AlertCloseNotify)); err != nil {
			return err
		}
		return b.CloseWrite()
	})
	if x.role == ktls.RoleServer && x.suite.version == tls.VersionTLS13 {
		// All of it is there before our end looks at the client's Finished.
		first := x.do(ours.Handshake)
		x.must(wait())
		x.must(first())
	} else {
		x.must(ours.Handshake())
		x.must(wait())
	}
	x.account.checkLate(x.T, ours)
	x.must(expect(ours, text))
	x.is(expectEnd(ours), io.EOF)
}

func testAlertWithFinished(x *trial) {
	ours, _ := x.connectWith(func(r *raw) []byte { return r.alert(2, ktls.AlertAccessDenied) })
	x.hears(ours, ktls.AlertAccessDenied)
}

func testTicketsWithFinished(x *trial) {
	x.keepTickets()
	text := pattern(777)
	ours, _ := x.connectWith(func(r *raw) []byte { return r.data(text) }, atOnce)
	x.must(expect(ours, text))
	x.resumes()
}

func testKeyUpdateWithFinished(x *trial) {
	text := pattern(777)
	ours, _ := x.connectWith(func(r *raw) []byte {
		return bytes.Join([][]byte{r.data(text), r.keyUpdate(false), r.data(text)}, nil)
	})
	x.must(expect(ours, text))
	if !x.rekeys() {
		x.is(expectEnd(ours), ktls.ErrRekey)
		return
	}
	x.must(expect(ours, text))
}

// Data that has been there for long when the handshake begins.
func testDataWaits(x *trial) {
	a, b := x.tcp()
	ours, peer := x.wrap(a), x.plain(b)
	text := pattern(30000)
	sent := x.do(func() error { return writeAll(peer, text) })
	x.must(ours.Handshake())
	x.must(sent())
	x.account.check(x.T, ours)
	x.must(expect(ours, text))
	x.exchange(ours, peer)
}
