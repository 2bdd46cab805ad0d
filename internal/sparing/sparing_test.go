// SPDX-License-Identifier: BSD-3-Clause

package sparing

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestOneSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		held := make(map[string]int)
		l := New(func(kind string, n int) { held[kind] += n })
		logged := 0
		for range 100 {
			if l.Allow("192.0.2.1", "reset") {
				logged++
			}
		}
		if logged != PerSource {
			t.Errorf("%d lines of one source", logged)
		}
		// Neither another source nor another kind is held for it.
		if !l.Allow("192.0.2.2", "reset") || !l.Allow("192.0.2.1", "expired") {
			t.Error("held back although it is the first of its kind")
		}
		time.Sleep(Window)
		synctest.Wait()
		if len(held) != 1 || held["reset"] != 100-PerSource {
			t.Errorf("reported %v", held)
		}
		if !l.Allow("192.0.2.1", "reset") {
			t.Error("held back in the next window")
		}
		time.Sleep(Window)
		synctest.Wait()
		if held["reset"] != 100-PerSource {
			t.Errorf("a window in which nothing was held is reported: %v", held)
		}
	})
}

func TestManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		total := 0
		l := New(func(_ string, n int) { total += n })
		logged := 0
		for i := range 10000 {
			if l.Allow(fmt.Sprint("source ", i), "reset") {
				logged++
			}
		}
		l.mu.Lock()
		remembered := len(l.seen)
		l.mu.Unlock()
		if logged != All || remembered > All {
			t.Errorf("%d lines, %d sources remembered", logged, remembered)
		}
		time.Sleep(Window)
		synctest.Wait()
		if total != 10000-All {
			t.Errorf("%d reported", total)
		}
	})
}
