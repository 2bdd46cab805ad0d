// SPDX-License-Identifier: BSD-3-Clause

package halfopen

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

const full = time.Second

var (
	client = netip.MustParseAddr("192.0.2.7")
	other  = netip.MustParseAddr("198.51.100.9")
)

// table has a clock that the test moves and n requests in progress.
func table(threads, n int) (*Table, *time.Time) {
	now := time.Unix(1e9, 0)
	t := New()
	t.now = func() time.Time { return now }
	quick(t)
	t.SetThreads(threads)
	for range n {
		t.Begin()
	}
	return t, &now
}

// quick has clients that spoke at once.
func quick(t *Table) {
	for range 50 {
		t.Heard(time.Millisecond)
	}
}

// learn has a request of a end n times.
func learn(t *Table, a netip.Addr, o Outcome, n int) {
	for range n {
		t.Begin()
		t.End(a, o)
	}
}

func TestPlentyOfThreads(t *testing.T) {
	tab, _ := table(16, 8)
	learn(tab, client, Silent, 100)
	if got := tab.Patience(client, 0, full); got != full {
		t.Errorf("with half of the threads free patience is %v", got)
	}
}

func TestCrowded(t *testing.T) {
	tab, now := table(16, 16)
	stranger := tab.Patience(client, 0, full)
	if stranger >= full/2 || stranger <= floor {
		t.Errorf("a stranger gets %v: neither everything nor the least", stranger)
	}
	learn(tab, client, Spoke, 10)
	learn(tab, other, Silent, 30)
	good, bad := tab.Patience(client, 0, full), tab.Patience(other, 0, full)
	if good < full/2 {
		t.Errorf("a client that always spoke gets %v", good)
	}
	if bad > floor*3/2 {
		t.Errorf("one that never did gets %v", bad)
	}
	// Its neighbours are expected to be like it, more than strangers are.
	neighbour := tab.Patience(netip.MustParseAddr("198.51.100.200"), 0, full)
	stranger = tab.Patience(netip.MustParseAddr("203.0.113.1"), 0, full)
	if neighbour <= bad || neighbour >= stranger || stranger >= good {
		t.Errorf("bad %v, its neighbour %v, a stranger %v, good %v: want them in this order", bad, neighbour, stranger, good)
	}
	// It fades.
	*now = now.Add(time.Minute)
	if got := tab.Patience(other, 0, full); got <= 2*bad {
		t.Errorf("a minute later it gets %v, before %v", got, bad)
	}
	*now = now.Add(-time.Hour) // a clock that is set back
	if got := tab.Patience(other, 0, full); got < floor || got > full {
		t.Errorf("with the clock set back: %v", got)
	}
}

// TestTurnedSilent: what an address has done in a storm is forgotten after a
// few seconds of an attack from there, while each of sixteen threads waits.
func TestTurnedSilent(t *testing.T) {
	tab, now := table(16, 16)
	learn(tab, client, Spoke, 1000)
	var waited time.Duration
	for range 8 {
		p := tab.Patience(client, 0, full)
		waited += p
		*now = now.Add(p)
		learn(tab, client, Silent, 16)
	}
	if got := tab.Patience(client, 0, full); got > floor*3/2 || waited > 2*full {
		t.Errorf("after 8 rounds of silence, %v in all, patience is %v", waited, got)
	}
	// And it is believed again as soon.
	learn(tab, client, Spoke, 64)
	if got := tab.Patience(client, 0, full); got < full/2 {
		t.Errorf("an address that speaks again gets %v", got)
	}
}

// TestTrusted: an address that spoke until now may be where an attack begins, and
// does not hold threads for all the time that is configured; unless all clients
// are late, which is a storm.
func TestTrusted(t *testing.T) {
	const full = 3 * time.Second
	tab, _ := table(16, 16)
	learn(tab, client, Spoke, 1000)
	if got := tab.Patience(client, 0, full); got > trusted || got < trusted/2 {
		t.Errorf("an address that always spoke gets %v, want nearly %v", got, trusted)
	}
	for range 20 {
		tab.Heard(400 * time.Millisecond)
	}
	if got := tab.Patience(client, 0, full); got < full*3/4 {
		t.Errorf("when clients take 400ms it gets %v, want nearly %v", got, full)
	}
	free, _ := table(16, 8)
	if got := free.Patience(client, 0, full); got != full {
		t.Errorf("with half of the threads free patience is %v", got)
	}
}

// TestFarAway: under attack a client that is far away still has the time that
// its packets take.
func TestFarAway(t *testing.T) {
	tab, _ := table(16, 16)
	learn(tab, other, Silent, 1000)
	const rtt = 150 * time.Millisecond
	if got := tab.Patience(client, rtt, full); got < 2*rtt {
		t.Errorf("patience is %v, a round trip %v", got, rtt)
	}
	if got := tab.Patience(client, time.Hour, full); got != full {
		t.Errorf("patience is %v, longer than configured", got)
	}
	if got := tab.Patience(client, 0, time.Millisecond); got != time.Millisecond {
		t.Errorf("patience is %v, configured is 1ms", got)
	}
}

// TestAllAreSlow: in a storm on busy machines clients take their time, and
// some are given up. That must not make it worse for the others.
func TestAllAreSlow(t *testing.T) {
	tab, _ := table(16, 16)
	learn(tab, client, Silent, 30)
	before := tab.Patience(client, 0, full)
	for range 20 {
		tab.Heard(200 * time.Millisecond)
	}
	if after := tab.Patience(client, 0, full); before > 2*floor || after < 500*time.Millisecond {
		t.Errorf("patience is %v when clients take 200ms, and was %v before", after, before)
	}
	quick(tab)
	if after := tab.Patience(client, 0, full); after > 2*floor {
		t.Errorf("patience is %v although clients are quick again", after)
	}
	// Nobody has been heard yet: what is known is too little to be hard.
	fresh := New()
	for range 16 {
		fresh.Begin()
	}
	if got := fresh.Patience(client, 0, full); got < ample*assumed {
		t.Errorf("a fresh table gives %v", got)
	}
}

func TestNetworks(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		same int // scopes in common
	}{
		{"192.0.2.1", "192.0.2.2", 1},
		{"192.0.2.1", "::ffff:192.0.2.1", 2},
		{"192.0.2.1", "192.0.3.1", 0},
		{"2001:db8:1:2::1", "2001:db8:1:2::ffff", 2}, // one host's own choice
		{"2001:db8:1:2::1", "2001:db8:1:3::1", 1},
		{"2001:db8:1::1", "2001:db8:2::1", 0},
		{"fe80::1%eth0", "fe80::1%eth1", 2},
	} {
		a, b := scopes(netip.MustParseAddr(tt.a)), scopes(netip.MustParseAddr(tt.b))
		same := 0
		for i := range a {
			if a[i] == b[i] {
				same++
			}
		}
		if len(a) != 2 || same != tt.same {
			t.Errorf("%s %v and %s %v: %d in common, want %d", tt.a, a, tt.b, b, same, tt.same)
		}
	}
	if s := scopes(netip.Addr{}); len(s) != 0 {
		t.Errorf("no address is in %v", s)
	}
}

// TestBounded: an attacker with many addresses gets no memory out of it, and
// the balance of requests stays right.
func TestBounded(t *testing.T) {
	tab, _ := table(16, 0)
	for i := range 3 * maxScores {
		tab.Begin()
		tab.End(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 1}), Silent)
	}
	if n := len(tab.scores); n > maxScores+1 {
		t.Errorf("%d scores", n)
	}
	if tab.inProgress != 0 {
		t.Errorf("%d in progress", tab.inProgress)
	}
	tab.Begin()
	tab.End(netip.Addr{}, Silent) // an address that could not be had
	if tab.Patience(netip.Addr{}, 0, full) != full {
		t.Error("in a hurry without requests")
	}
}

func BenchmarkTable(b *testing.B) {
	tab := New()
	var addrs []netip.Addr
	for i := range 64 {
		addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("192.0.%d.1", i)))
	}
	for i := 0; b.Loop(); i++ {
		a := addrs[i%len(addrs)]
		tab.Begin()
		tab.Patience(a, time.Millisecond, full)
		tab.End(a, Spoke)
	}
}
