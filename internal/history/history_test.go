// SPDX-License-Identifier: BSD-3-Clause

package history

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func numbers(events []Event) (n []uint64) {
	for _, e := range events {
		n = append(n, e.Number)
	}
	return n
}

func TestEvents(t *testing.T) {
	l := New()
	begin := time.Unix(1_000_000, 0)
	for i := range 4 {
		l.Add(Event{
			Time: begin.Add(time.Duration(i) * time.Second), PeerName: []string{"a.test", "b.test"}[i%2],
			Peer: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), 2049),
		})
	}
	instance, last := l.Position()
	if last != 4 {
		t.Errorf("last is %d", last)
	}
	for _, tt := range []struct {
		q    Query
		want string
	}{
		{Query{}, "[]"},
		{Query{Limit: 9}, "[1 2 3 4]"},
		{Query{Limit: 2}, "[3 4]"},
		{Query{Limit: 9, After: 3, Instance: instance}, "[4]"},
		{Query{Limit: 9, After: 4, Instance: instance}, "[]"},
		{Query{Limit: 9, After: 3, Instance: "another daemon"}, "[1 2 3 4]"},
		{Query{Limit: 9, Peer: "B.test."}, "[2 4]"},
		{Query{Limit: 1, Peer: "a.test"}, "[3]"},
		{Query{Limit: 9, Peer: "10.0.0.1"}, "[2]"},
		{Query{Limit: 9, Since: begin.Add(2 * time.Second)}, "[3 4]"},
	} {
		if got := fmt.Sprint(numbers(l.Events(tt.q))); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.q, got, tt.want)
		}
	}
}

// The oldest make room, and a position in what is gone means all that is left.
func TestRing(t *testing.T) {
	l := New()
	for range size + 10 {
		l.Add(Event{})
	}
	instance, last := l.Position()
	all := l.Events(Query{Limit: 2 * size})
	if last != size+10 || len(all) != size || all[0].Number != 11 || all[size-1].Number != size+10 {
		t.Errorf("last %d, %d events from %d", last, len(all), all[0].Number)
	}
	if got := l.Events(Query{Limit: 2 * size, After: 5, Instance: instance}); len(got) != size {
		t.Errorf("%d events", len(got))
	}
}

func TestNil(t *testing.T) {
	var l *Log
	l.Add(Event{})
	if _, last := l.Position(); last != 0 || l.Events(Query{Limit: 1}) != nil {
		t.Error("a nil log remembers")
	}
}

func BenchmarkAdd(b *testing.B) {
	l := New()
	e := Event{Time: time.Now(), PeerName: "server.test", Reason: "ok"}
	for b.Loop() {
		l.Add(e)
	}
}
