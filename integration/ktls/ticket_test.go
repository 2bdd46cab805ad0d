// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"slices"
	"time"

	"rpctls/ktls"
)

var ticketCases = []conformanceCase{
	{name: "resumption", run: testResumption},
	{name: "no tickets", run: testNoTickets},
	{name: "tickets at once", versions: only13, roles: onlyClient, run: testTicketsAtOnce},
	{name: "tickets late", versions: only13, roles: onlyClient, run: testTicketsLate},
	{name: "tickets in the middle of data", versions: only13, roles: onlyClient, run: testTicketsInData},
	{name: "tickets before close_notify", versions: only13, roles: onlyClient, run: testTicketsBeforeEnd},
	{name: "ticket in pieces", versions: only13, roles: onlyClient, run: testTicketInPieces},
	{name: "tickets in one record", versions: only13, roles: onlyClient, run: testTicketsInOne},
	{name: "tickets nobody keeps", versions: only13, roles: onlyClient, run: testTicketsDropped},
	{name: "tickets while nobody reads", versions: only13, roles: onlyClient, run: testTicketsUnread},
	{name: "ticket for a server", versions: only13, roles: onlyServer, run: testTicketForServer},
}

// keepTickets gives the client of the two a place for sessions.
func (x *trial) keepTickets() {
	client := x.ours
	if x.role == ktls.RoleServer {
		client = x.peers
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
}

// resumes makes one more session with crypto/tls, which must resume.
func (x *trial) resumes() {
	x.Helper()
	ours, peer := x.connect()
	if a, b := ours.ConnectionState().DidResume, peer.ConnectionState().DidResume; !a || !b {
		x.Errorf("resumed: %t by ours, %t by the peer's account", a, b)
	}
	x.exchange(ours, peer)
}

// Sessions resume sessions that resumed sessions.
func testResumption(x *trial) {
	x.keepTickets()
	ours, peer := x.connect()
	if ours.ConnectionState().DidResume {
		x.Fatal("the first session resumed something")
	}
	x.exchange(ours, peer)
	for range 3 {
		x.resumes()
	}
}

func testNoTickets(x *trial) {
	x.keepTickets()
	server := x.peers
	if x.role == ktls.RoleServer {
		server = x.ours
	}
	server.SessionTicketsDisabled = true
	for range 2 {
		ours, peer := x.connect()
		x.exchange(ours, peer)
		if ours.ConnectionState().DidResume {
			x.Error("a session resumed without a ticket")
		}
	}
}

// rawTickets connects to a raw server that has kept its tickets to itself.
func (x *trial) rawTickets(opts ...rawOption) (*ktls.Conn, *raw) {
	x.Helper()
	x.keepTickets()
	ours, peer := x.connectRaw(opts...)
	if len(peer.tickets) == 0 {
		x.Fatal("the server made no ticket")
	}
	return ours, peer
}

func (r *raw) ticket() []byte { return r.written.seal(typeHandshake, r.tickets[0], 0) }

func testTicketsAtOnce(x *trial) {
	x.keepTickets()
	ours, peer := x.connectRaw(atOnce)
	text := pattern(5000)
	x.must(peer.send(peer.data(text)))
	x.must(expect(ours, text))
	x.resumes()
}

// Each way several times; the reader waits when the tickets come.
func testTicketsLate(x *trial) {
	ours, peer := x.rawTickets()
	for i := range 3 {
		text := pattern(1000 + i)
		x.must(peer.send(peer.data(text)))
		x.must(expect(ours, text))
		x.must(writeAll(ours, text))
		_, _, err := peer.receiveData(len(text))
		x.must(err)
		wait := x.do(func() error { return expect(ours, text[:1]) })
		x.must(peer.send(peer.ticket()))
		x.must(peer.send(peer.ticket(), peer.ticket()))
		x.must(peer.send(peer.data(text[:1])))
		x.must(wait())
	}
	x.resumes()
}

func testTicketsInData(x *trial) {
	ours, peer := x.rawTickets()
	text := pattern(40000)
	var stream []byte
	for range 5 {
		stream = append(stream, peer.data(text)...)
		stream = append(stream, peer.ticket()...)
		stream = append(stream, peer.data(text)...)
		stream = append(stream, peer.ticket()...)
		stream = append(stream, peer.ticket()...)
	}
	stream = append(stream, peer.data([]byte("end"))...)
	wait := x.do(func() error { return peer.send(stream) })
	x.must(readTo(ours, append(bytes.Repeat(text, 10), "end"...), 3000))
	x.must(wait())
	x.resumes()
}

func testTicketsBeforeEnd(x *trial) {
	ours, peer := x.rawTickets()
	x.must(peer.send(peer.data([]byte("a")), peer.ticket(), peer.alert(1, ktls.AlertCloseNotify)))
	x.must(peer.CloseWrite())
	x.must(expect(ours, []byte("a")))
	x.is(expectEnd(ours), io.EOF)
	x.resumes()
}

// A handshake message may be cut anywhere, but nothing else may come between
// its pieces (RFC 8446 section 5.1).
func testTicketInPieces(x *trial) {
	ours, peer := x.rawTickets()
	ticket := peer.tickets[0]
	for _, at := range []int{1, 4, 5, len(ticket) - 1} {
		x.must(peer.send(peer.written.seal(typeHandshake, ticket[:at], 0)))
		x.must(peer.send(peer.written.seal(typeHandshake, ticket[at:], 0), peer.data([]byte("a"))))
		x.must(expect(ours, []byte("a")))
	}
	x.resumes()
}

func testTicketsInOne(x *trial) {
	ours, peer := x.rawTickets()
	x.must(peer.send(peer.written.seal(typeHandshake, bytes.Repeat(peer.tickets[0], 3), 0), peer.data([]byte("a"))))
	x.must(expect(ours, []byte("a")))
	x.resumes()
}

func testTicketsDropped(x *trial) {
	ours, peer := x.connectRaw() // no place for sessions
	x.must(peer.send(peer.data([]byte("a")), peer.written.seal(typeHandshake, someTicket, 0), peer.data([]byte("b"))))
	x.must(expect(ours, []byte("ab")))
}

// Who only writes is not stopped by what nobody reads, nor is Close.
func testTicketsUnread(x *trial) {
	ours, peer := x.rawTickets()
	x.must(peer.send(peer.ticket(), peer.ticket()))
	text := pattern(20000)
	wait := x.do(func() error { _, _, err := peer.receiveData(len(text)); return err })
	x.must(writeAll(ours, text))
	x.must(wait())
	x.must(ours.Close())
}

// someTicket is a NewSessionTicket message: a lifetime, an age, a nonce of one byte,
// a ticket of two bytes and no extensions (RFC 8446 section 4.6.1).
var someTicket = []byte{msgNewSessionTicket, 0, 0, 16, 0, 0, 1, 0, 1, 2, 3, 4, 1, 9, 0, 2, 7, 7, 0, 0}

// A client has no tickets to give: unexpected_message (RFC 8446 section 4.6.1).
func testTicketForServer(x *trial) {
	ours, peer := x.connectRaw()
	x.must(peer.send(peer.written.seal(typeHandshake, someTicket, 0)))
	x.refuses(ours, peer, ktls.AlertUnexpectedMessage)
}

// refuses fails unless reading ends with an error that is no end of data, and
// the peer is told why.
func (x *trial) refuses(ours *ktls.Conn, peer *raw, want ...ktls.Alert) {
	x.Helper()
	told := x.do(func() error {
		got, err := peer.receiveAlert()
		if err == nil && !slices.Contains(want, got) {
			x.Errorf("the peer was told %v, want %v", got, want)
		}
		return err
	})
	_, err := ours.Read(make([]byte, 10))
	if err == nil || err == io.EOF || err == io.ErrUnexpectedEOF {
		x.Fatalf("error is %v", err)
	}
	x.Logf("refused with %v (%T)", err, err)
	// crypto/tls does not remember all of its errors.
	x.must(ours.SetReadDeadline(time.Now().Add(50 * time.Millisecond)))
	if _, again := ours.Read(make([]byte, 10)); again == nil || again == io.EOF {
		x.Errorf("the second error is %v", again)
	}
	x.must(told())
}
