// SPDX-License-Identifier: BSD-3-Clause

package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// zone is a name server.
type zone struct {
	mu      sync.Mutex
	records map[string][]netip.Addr
	err     error
	asked   map[string]int
	slow    time.Duration
}

func newZone(records map[string]string) *zone {
	z := &zone{asked: make(map[string]int)}
	z.set(records, nil)
	return z
}

func (z *zone) set(records map[string]string, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records, z.err = make(map[string][]netip.Addr), err
	for name, addrs := range records {
		for a := range strings.FieldsSeq(addrs) {
			z.records[name] = append(z.records[name], netip.MustParseAddr(a))
		}
	}
}

func (z *zone) count(name string) int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.asked[name]
}

func (z *zone) LookupAddresses(ctx context.Context, name string) ([]netip.Addr, error) {
	z.mu.Lock()
	z.asked[name]++
	addrs, err, slow := z.records[name], z.err, z.slow
	z.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err == nil && addrs == nil {
		err = &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
	}
	return addrs, err
}

// run starts a table in a bubble.
func run(t *testing.T, z *zone) *Table {
	table := New(z)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- table.Run(ctx, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return table
}

var here = netip.MustParseAddr("192.0.2.1")

func (t *Table) want(tb testing.TB, verdict Verdict, text string, names ...string) {
	tb.Helper()
	a := t.Check(names, here)
	if a.Verdict != verdict || !strings.Contains(a.Why, text) {
		tb.Errorf("%v: %+v, want %d and %q", names, a, verdict, text)
	}
}

// The first who comes is not known, the next is.
func TestSecondTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(map[string]string{"a.test": "192.0.2.1 2001:db8::1", "b.test": "192.0.2.2"})
		table := run(t, z)
		table.want(t, Unknown, "A.test"[1:]+" has not been looked up yet", "A.test.")
		synctest.Wait()
		table.want(t, Yes, "192.0.2.1 is an address of a.test", "a.test")
		table.want(t, Unknown, "b.test", "b.test", "c.test")
		synctest.Wait()
		table.want(t, No, "b.test has 192.0.2.2, c.test has no address", "b.test", "c.test")
		table.want(t, Yes, "", "b.test", "a.test")
		if a := table.Check([]string{"a.test"}, netip.MustParseAddr("::ffff:192.0.2.1")); a.Verdict != Yes {
			t.Errorf("in IPv6's form: %+v", a)
		}
		if n := z.count("a.test"); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// What is no host name is not asked for.
func TestNoNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(nil)
		table := run(t, z)
		table.want(t, No, "no host name", "*.test", "192.0.2.1", "::1", "a b", "", "a..b", strings.Repeat("a.", 130)+"a", "ä.test")
		synctest.Wait()
		if len(z.asked) != 0 {
			t.Errorf("asked %v", z.asked)
		}
	})
}

// What is expected is known before anybody comes, and stays known.
func TestExpect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(map[string]string{"a.test": "192.0.2.1"})
		table := run(t, z)
		if left := table.Expect([]string{"a.test", "*.test", "A.TEST"}); left != 0 {
			t.Errorf("%d left", left)
		}
		synctest.Wait()
		table.want(t, Yes, "", "a.test")
		z.set(map[string]string{"a.test": "192.0.2.9"}, nil)
		time.Sleep(fresh + sweepEvery)
		synctest.Wait()
		table.want(t, No, "has 192.0.2.9", "a.test")
		time.Sleep(2 * keep)
		synctest.Wait()
		table.want(t, No, "has 192.0.2.9", "a.test")
		// No more.
		table.Expect(nil)
		time.Sleep(2 * keep)
		synctest.Wait()
		table.want(t, Unknown, "", "a.test")
	})
}

// An answer outlives a name server, but not by more than is documented.
func TestStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(map[string]string{"a.test": "192.0.2.1"})
		table := run(t, z)
		table.want(t, Unknown, "", "a.test")
		synctest.Wait()
		z.set(nil, errors.New("no route to it"))
		time.Sleep(stale - time.Second)
		synctest.Wait()
		table.want(t, Yes, "", "a.test")
		time.Sleep(2 * time.Second)
		synctest.Wait()
		table.want(t, Unknown, "cannot be looked up: no route to it", "a.test")
		z.set(map[string]string{"a.test": "192.0.2.1"}, nil)
		time.Sleep(sweepEvery)
		synctest.Wait()
		table.want(t, Yes, "", "a.test")
		// That a name is gone is an answer.
		z.set(nil, nil)
		time.Sleep(fresh + sweepEvery)
		synctest.Wait()
		table.want(t, No, "no address", "a.test")
	})
}

// A client that has moved is let in soon, and does not make us ask all the time.
func TestMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(map[string]string{"a.test": "192.0.2.9"})
		table := run(t, z)
		table.want(t, Unknown, "", "a.test")
		synctest.Wait()
		z.set(map[string]string{"a.test": "192.0.2.1"}, nil)
		for range 100 {
			table.want(t, No, "", "a.test")
		}
		synctest.Wait()
		if n := z.count("a.test"); n != 1 {
			t.Errorf("asked %d times", n)
		}
		time.Sleep(again)
		table.want(t, No, "", "a.test")
		synctest.Wait()
		table.want(t, Yes, "", "a.test")
	})
}

// Check waits for nothing, whoever keeps the resolver busy, and what is kept is
// bounded.
func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newZone(nil)
		z.slow = time.Hour
		table := run(t, z)
		began := time.Now()
		for i := range 3 * maxNames {
			table.want(t, Unknown, "", fmt.Sprintf("h%d.test", i))
		}
		if d := time.Since(began); d != 0 { // in a bubble, only waiting takes time
			t.Errorf("waited %v", d)
		}
		if n := len(table.entries); n > maxNames+maxQueue+workers {
			t.Errorf("%d names", n)
		}
		table.want(t, Unknown, "", strings.Fields(strings.Repeat("x.test ", 100))...)
		var many []string
		for i := range maxNames {
			many = append(many, fmt.Sprintf("e%d.test", i))
		}
		if left := table.Expect(many); left != maxNames-maxExpected {
			t.Errorf("%d left", left)
		}
	})
}

func TestLookUp(t *testing.T) {
	table := New(newZone(map[string]string{"a.test": "192.0.2.1"}))
	table.LookUp(t.Context(), []string{"*.test", "a.test", "b.test"})
	table.want(t, Yes, "", "b.test", "a.test")
	table.want(t, No, "no address", "b.test")
}
