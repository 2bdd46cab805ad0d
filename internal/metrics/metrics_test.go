// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package metrics

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/reason"
	"rpctls/ktls"
)

// Every label lands in its own counter, and what is in no set in "other".
func TestCounts(t *testing.T) {
	h := NewHandshakes()
	if h.Counts() != nil {
		t.Error("something is counted before it happened")
	}
	var want []Count
	for i, r := range Reasons() {
		for range i + 1 {
			h.Add(Outcome{Reason: reason.Reason(r)})
		}
		want = append(want, Count{r, None, None, uint64(i + 1)})
	}
	if diff := cmp.Diff(want, h.Counts()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	h = NewHandshakes()
	want = nil
	for _, c := range append(ktls.Ciphers(), 4711) {
		for _, g := range append(slices.Clone(curves), 4711) {
			h.Add(Outcome{Reason: reason.OK, Agreed: true, Cipher: c, Group: g})
			w := Count{"ok", c.String(), g.String(), 1}
			if c == 4711 {
				w.Cipher = Other
			}
			if g == 4711 {
				w.Group = Other
			}
			want = append(want, w)
		}
	}
	if diff := cmp.Diff(want, h.Counts()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, list := range [][]string{Reasons(), Ciphers(), Groups()} {
		sorted := slices.Clone(list)
		slices.Sort(sorted)
		if len(slices.Compact(sorted)) != len(list) {
			t.Errorf("one label twice: %v", list)
		}
		for _, l := range list {
			// A name that crypto/tls does not know is a number.
			if strings.ContainsAny(l, "()\"\\\n ") {
				t.Errorf("%q is no label", l)
			}
		}
	}
}

// A duration is in the first bucket whose bound it does not exceed.
func TestDurations(t *testing.T) {
	h := NewHandshakes()
	for i, b := range bounds {
		h.Add(Outcome{Reason: reason.Reset, Times: ktls.Times{Queued: b, Network: b + 1, Computing: -1}})
		got := h.Durations()[3:]
		if got[0].Counts[i] != 1 || got[1].Counts[i+1] != 1 || got[2].Counts[0] != uint64(i+1) {
			t.Errorf("%v: %+v", b, got)
		}
	}
	got := h.Durations()
	var total time.Duration
	for _, b := range bounds {
		total += b
	}
	if got[3].Result != Failure || got[3].Part != Queue || got[3].Sum != total.Seconds() || got[5].Sum != 0 {
		t.Errorf("sums: %+v", got[3:])
	}
	for _, d := range got[:3] {
		if slices.Max(d.Counts) != 0 || d.Sum != 0 || d.Result != Success {
			t.Errorf("successes: %+v", d)
		}
	}
}

func TestHalfOpen(t *testing.T) {
	h := NewHandshakes()
	one, two := h.Begin(), h.Begin()
	one()
	one()
	if n := h.HalfOpen(); n != 1 {
		t.Errorf("%d, want 1", n)
	}
	two()
	if n := h.HalfOpen(); n != 0 {
		t.Errorf("%d, want 0", n)
	}
}

// None of it needs a lock, nor a daemon that counts.
func TestManyAtOnce(t *testing.T) {
	h := NewHandshakes()
	var none *Handshakes
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 1000 {
				h.Begin()()
				h.Add(Outcome{Reason: reason.OK, Agreed: true, Cipher: ktls.AES128GCM, Group: tls.X25519})
				none.Begin()()
				none.Add(Outcome{})
			}
		})
	}
	all.Wait()
	if c := h.Counts(); len(c) != 1 || c[0].Count != 8000 || h.HalfOpen() != 0 {
		t.Errorf("%+v, half open %d", c, h.HalfOpen())
	}
	if none.Counts() != nil || none.Durations() != nil || none.HalfOpen() != 0 {
		t.Error("nil counts")
	}
}

func TestReloads(t *testing.T) {
	var r Reloads
	r.Add(Signal, nil)
	r.Add(Files, errors.New("no"))
	r.Add(Files, errors.New("no"))
	r.Add("moon", nil)
	want := []Reload{{Signal, Loaded, 1}, {Signal, Refused, 0}, {Files, Loaded, 0}, {Files, Refused, 2}}
	if diff := cmp.Diff(want, r.Counts()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Of too many, those that end first are kept; of two with one name, the first.
func TestExpiries(t *testing.T) {
	now := time.Now()
	var list []Expiry
	for i := range 3 * MaxExpiries {
		list = append(list, Expiry{fmt.Sprintf("n%03d", i/2), now.Add(time.Duration(3*MaxExpiries-i) * time.Hour)})
	}
	list = append(list, Expiry{strings.Repeat("x", 2*maxName), now})
	got := Expiries(list)
	if len(got) != MaxExpiries || len(got[MaxExpiries-1].Name) != maxName {
		t.Fatalf("%d, the last is %q", len(got), got[len(got)-1].Name)
	}
	for i, e := range got[:MaxExpiries-1] {
		n := 3*MaxExpiries/2 - MaxExpiries + 1 + i
		if e.Name != fmt.Sprintf("n%03d", n) || !e.At.Equal(now.Add(time.Duration(3*MaxExpiries-2*n-1)*time.Hour)) {
			t.Errorf("%d: %+v", i, e)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	h := NewHandshakes()
	o := Outcome{Reason: reason.OK, Agreed: true, Cipher: ktls.AES128GCM, Group: tls.X25519MLKEM768, Times: ktls.Times{Queued: 1, Network: time.Millisecond, Computing: time.Millisecond}}
	b.ReportAllocs()
	for b.Loop() {
		heard := h.Begin()
		h.Add(o)
		heard()
	}
}
