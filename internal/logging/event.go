// SPDX-License-Identifier: BSD-3-Clause

package logging

import "log/slog"

// An Event is what a log entry is about, as an identity that does not change: the
// journal's MESSAGE_ID (systemd.journal-fields(7)), by which entries are found and
// explained (packaging/systemd/rpctls.catalog). It is a 128-bit number in 32
// lower-case hexadecimal digits, made by chance once.
type Event string

// The events.
const (
	HandshakeSuccess Event = "6de9c455dfbf449093c5b9f5dd19a238"
	HandshakeFailure Event = "53e7f1db6b684268ab9e705ff10b78d1"
	MoreHandshakes   Event = "50de8b45604a4e5d925f4c0b4272ede4"
	RequestRefused   Event = "5415ccb47fc14c7b9e15fce1e9000af8"
	RequestLost      Event = "733a14b94744470d9089cea718875a70"
	ReloadOK         Event = "b7807721818949aa91183874a3aad51d"
	ReloadRefused    Event = "2f82f00df3484402939fb824479371ee"
	FilesLoaded      Event = "9c5042b320da48b5a05bc6437407c1a1"
	FilesRefused     Event = "ad7540d1cfd640b6adf7a3e4f957182a"
	RivalSeen        Event = "289fbc40508f42b596b8c4d0933d7780"
	RivalGone        Event = "60f205e2be08477f83b7852c369e8d9a"
	Expiring         Event = "af337c1f2d5c445abcd534fee5758d9d"
	Started          Event = "c4910b96919d48368d9fed0dca5424dc"
	Stopped          Event = "b74094392e4046ed953d04a8fd4dd018"
	KeyLogBegan      Event = "922cba1ad1884822a3d8fc44119be37a"
	KeyLogEnded      Event = "44c8e3024a934157be8442ee55113050"
)

// Events returns all events.
func Events() []Event {
	return []Event{
		HandshakeSuccess, HandshakeFailure, MoreHandshakes, RequestRefused, RequestLost, ReloadOK, ReloadRefused,
		FilesLoaded, FilesRefused, RivalSeen, RivalGone, Expiring, Started, Stopped,
		KeyLogBegan, KeyLogEnded,
	}
}

// Attr is what makes an entry one about e. It is a field of the journal and no
// part of the text.
func (e Event) Attr() slog.Attr { return slog.Any(eventKey, event(e)) }

// event is what Attr wraps, so that handlers know it.
type event Event

const eventKey = "message_id"

// eventOf returns the event of an attribute.
func eventOf(a slog.Attr) (Event, bool) {
	if a.Key != eventKey || a.Value.Kind() != slog.KindAny {
		return "", false
	}
	e, ok := a.Value.Any().(event)
	return Event(e), ok
}
