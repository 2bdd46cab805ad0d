// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"rpctls/ktls"
)

var rekeyCases = []conformanceCase{
	{name: "key update of the peer", versions: only13, run: func(x *trial) { testPeerUpdates(x, 1, false) }},
	{name: "key update of the peer that asks for ours", versions: only13, run: func(x *trial) { testPeerUpdates(x, 1, true) }},
	{name: "100 key updates", versions: only13, run: func(x *trial) { testPeerUpdates(x, 100, false) }},
	{name: "100 key updates that ask for ours", versions: only13, run: func(x *trial) { testPeerUpdates(x, 100, true) }},
	{name: "key update in the middle of data", versions: only13, run: testUpdateInData},
	{name: "key update that is awaited", versions: only13, run: testUpdateAwaited},
	{name: "key update of ours", versions: only13, run: func(x *trial) { testOurUpdate(x, false) }},
	{name: "key update of ours that asks for the peer's", versions: only13, run: func(x *trial) { testOurUpdate(x, true) }},
	{name: "key updates that cross", versions: only13, run: testUpdatesCross},
	{name: "key updates with crypto/tls", versions: only13, run: testUpdatesWithGo},
	{name: "key updates under load", versions: only13, run: testUpdatesUnderLoad},
	{name: "key update of ours, TLS 1.2", versions: only12, run: testNoUpdate},
	{name: "bad key updates", versions: only13, run: testBadUpdates},
}

// rekeyed handles a kernel that cannot follow the peer: the reader must be told
// so, by an error of its own, and it reports that the case is over.
func (x *trial) rekeyed(ours *ktls.Conn) bool {
	x.Helper()
	if x.rekeys() {
		return true
	}
	x.is(expectEnd(ours), ktls.ErrRekey)
	if errors.Is(expectEnd(ours), io.EOF) {
		x.Error("the second read says that this was the end")
	}
	return false
}

// updates reports whether UpdateKeys can work: in user space crypto/tls has no such
// call. Where it cannot, it must say so.
func (x *trial) updates(c *ktls.Conn) bool {
	x.Helper()
	if x.kernel() && x.rekeys() {
		return true
	}
	x.is(c.UpdateKeys(false), ktls.ErrRekey)
	x.is(c.UpdateKeys(true), ktls.ErrRekey)
	return false
}

// testPeerUpdates has the peer update its keys n times, each time with data before
// and after. If it asks for ours, it must get it before our next data.
func testPeerUpdates(x *trial, n int, request bool) {
	ours, peer := x.connectRaw()
	text := pattern(500)
	x.must(peer.send(peer.data(text)))
	x.must(expect(ours, text))
	for i := range n {
		x.must(peer.send(peer.keyUpdate(request), peer.data(text)))
		if !x.rekeyed(ours) {
			return
		}
		if err := expect(ours, text); err != nil {
			x.Fatalf("update %d: %v", i, err)
		}
		x.must(writeAll(ours, text))
		got, others, err := peer.receiveData(len(text))
		if err != nil {
			x.Fatalf("update %d: answer: %v", i, err)
		}
		x.must(same(got, text))
		if want := int(oneIf(request)); len(others) != want {
			x.Fatalf("update %d: %d answers, want %d: %v", i, len(others), want, others)
		} else if want == 1 && !bytes.Equal(others[0].content, []byte{msgKeyUpdate, 0, 0, 1, 0}) {
			x.Fatalf("update %d: answer is % x", i, others[0].content)
		}
	}
}

// An update between records of one write, several of them.
func testUpdateInData(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(20000)
	stream := peer.data(text)
	for range 3 {
		stream = slices.Concat(stream, peer.keyUpdate(false), peer.data(text))
	}
	wait := x.do(func() error { return peer.send(stream) })
	x.must(expect(ours, text)) // what came before the update is never lost
	x.must(wait())
	if !x.rekeyed(ours) {
		return
	}
	x.must(readTo(ours, bytes.Repeat(text, 3), 3000))
}

// The update comes alone, to a reader that waits, and its data later.
func testUpdateAwaited(x *trial) {
	ours, peer := x.connectRaw()
	text := pattern(500)
	if !x.rekeys() {
		x.must(peer.send(peer.keyUpdate(true)))
		x.rekeyed(ours)
		return
	}
	wait := x.do(func() error { return expect(ours, text) })
	x.must(peer.send(peer.keyUpdate(true)))
	// The answer comes although our end writes nothing.
	typ, content, err := peer.receive()
	x.must(err)
	if typ != typeHandshake || !bytes.Equal(content, []byte{msgKeyUpdate, 0, 0, 1, 0}) {
		x.Fatalf("answer is of type %d: % x", typ, content)
	}
	x.must(peer.send(peer.data(text)))
	x.must(wait())
}

func testOurUpdate(x *trial, request bool) {
	ours, peer := x.connectRaw()
	if !x.updates(ours) {
		return
	}
	text := pattern(500)
	for i := range 5 {
		x.must(ours.UpdateKeys(request))
		x.must(writeAll(ours, text))
		got, others, err := peer.receiveData(len(text))
		if err != nil {
			x.Fatalf("update %d: %v", i, err)
		}
		x.must(same(got, text))
		if len(others) != 1 || !bytes.Equal(others[0].content, []byte{msgKeyUpdate, 0, 0, 1, oneIf(request)}) {
			x.Fatalf("update %d: the peer got %v", i, others)
		}
		if request {
			x.must(peer.send(peer.keyUpdate(false)))
		}
		x.must(peer.send(peer.data(text)))
		x.must(expect(ours, text))
	}
}

// Both ask for the other's update before they have seen that they were asked.
func testUpdatesCross(x *trial) {
	ours, peer := x.connectRaw()
	if !x.updates(ours) {
		return
	}
	text := pattern(500)
	for range 3 {
		x.must(ours.UpdateKeys(true))
		x.must(peer.send(peer.data(text), peer.keyUpdate(true), peer.data(text)))
		x.must(expect(ours, append(bytes.Clone(text), text...)))
		x.must(writeAll(ours, text))
		_, others, err := peer.receiveData(len(text))
		x.must(err)
		if len(others) != 2 {
			x.Fatalf("the peer got %d messages, want its request's answer and ours: %v", len(others), others)
		}
		x.must(peer.send(peer.keyUpdate(false), peer.data(text)))
		x.must(expect(ours, text))
	}
}

func testUpdatesWithGo(x *trial) {
	ours, peer := x.connect()
	if !x.updates(ours) {
		return
	}
	for i := range 10 {
		x.must(ours.UpdateKeys(i%2 == 0))
		x.exchange(ours, peer)
	}
}

// Keys change on both sides while both directions are busy.
func testUpdatesUnderLoad(x *trial) {
	ours, peer := x.connectRaw()
	if !x.updates(ours) {
		return
	}
	const rounds, size = 20, 50000
	text := pattern(size)
	read := x.do(func() error { return readTo(ours, bytes.Repeat(text, rounds), 7000) })
	write := x.do(func() error {
		for i := range rounds {
			if err := writeAll(ours, text); err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
			if err := ours.UpdateKeys(false); err != nil {
				return fmt.Errorf("round %d: %w", i, err)
			}
		}
		return writeAll(ours, []byte{0})
	})
	send := x.do(func() error {
		for range rounds {
			if err := peer.send(peer.data(text), peer.keyUpdate(false)); err != nil {
				return err
			}
		}
		return nil
	})
	got, others, err := peer.receiveData(rounds*size + 1)
	x.must(err)
	x.must(same(got, append(bytes.Repeat(text, rounds), 0)))
	if len(others) != rounds {
		x.Errorf("%d updates, want %d", len(others), rounds)
	}
	x.must(errors.Join(send(), write(), read()))
}

func testNoUpdate(x *trial) {
	ours, peer := x.connect()
	x.is(ours.UpdateKeys(false), ktls.ErrRekey)
	x.exchange(ours, peer)
}

func testBadUpdates(x *trial) {
	for _, bad := range []struct {
		name    string
		content []byte
		want    []ktls.Alert
	}{
		// What it is, to RFC 8446 section 4.6.3 and to crypto/tls.
		{"neither asks nor does not", []byte{msgKeyUpdate, 0, 0, 1, 2}, []ktls.Alert{47, 50}},
		{"too long", []byte{msgKeyUpdate, 0, 0, 2, 0, 0}, []ktls.Alert{47, 50}},
		{"too short", []byte{msgKeyUpdate, 0, 0, 0}, []ktls.Alert{47, 50}},
		{"unknown message", []byte{99, 0, 0, 0}, []ktls.Alert{ktls.AlertUnexpectedMessage}},
	} {
		x.part(bad.name, func(x *trial) {
			ours, peer := x.connectRaw()
			x.must(peer.send(peer.written.seal(typeHandshake, bad.content, 0)))
			x.refuses(ours, peer, bad.want...)
		})
	}
}
