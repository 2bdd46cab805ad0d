// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

import (
	"testing"
	"time"
)

func TestDeadline(t *testing.T) {
	d := newDeadline()
	over := func() bool {
		select {
		case <-d.wait():
			return true
		default:
			return false
		}
	}
	if over() {
		t.Error("over before it was set")
	}
	d.set(time.Now().Add(time.Hour))
	if over() {
		t.Error("over an hour early")
	}
	waiting := d.wait()
	d.set(time.Now().Add(time.Millisecond))
	<-waiting // who waits already is told
	d.set(time.Time{})
	if over() {
		t.Error("over although there is none")
	}
	for range 1000 { // a timer that fires just now
		d.set(time.Now().Add(time.Microsecond))
		d.set(time.Now().Add(time.Hour))
		if over() {
			t.Fatal("the time before is still in force")
		}
	}
	d.set(time.Now().Add(-time.Second))
	d.set(time.Now().Add(-time.Second))
	if !over() {
		t.Error("not over after its time")
	}
	d.set(time.Now().Add(time.Hour))
	d.expire()
	d.set(time.Time{})
	if !over() {
		t.Error("a new time although it was the end")
	}
}
