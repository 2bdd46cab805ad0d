// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"fmt"
	"testing"
	"time"
)

func TestPaceGrowsAndForgets(t *testing.T) {
	now := time.Unix(1e9, 0)
	p := newPace()
	p.now = func() time.Time { return now }
	within := func(d, upper time.Duration) bool { return d <= upper && d >= upper*3/4 }
	for i, upper := range []time.Duration{paceFirst, 2 * paceFirst, 4 * paceFirst, 8 * paceFirst, 16 * paceFirst, paceMax, paceMax, paceMax} {
		if d := p.next("a"); !within(d, upper) {
			t.Errorf("failure %d: %v, want up to %v", i, d, upper)
		}
	}
	if d := p.next("b"); !within(d, paceFirst) {
		t.Errorf("another server: %v", d)
	}
	p.reset("a")
	if d := p.next("a"); !within(d, paceFirst) {
		t.Errorf("after a success: %v", d)
	}
	p.next("a")
	now = now.Add(paceForget + time.Second)
	if d := p.next("a"); !within(d, paceFirst) {
		t.Errorf("after a quiet time: %v", d)
	}
}

func TestPaceIsBounded(t *testing.T) {
	p := newPace()
	for i := range 3 * paceHosts {
		p.next(fmt.Sprint(i))
	}
	if len(p.hosts) > paceHosts {
		t.Errorf("%d servers remembered", len(p.hosts))
	}
}
