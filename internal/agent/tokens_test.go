// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"testing"
	"testing/synctest"
	"time"
)

// Nobody waits for a token longer than until the deadline, and nobody is refused
// one that is free.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := make(tokens, 1)
		if !gate.Enter(time.Now().Add(-time.Second)) {
			t.Fatal("a free token was refused")
		}
		began := time.Now()
		if gate.Enter(began.Add(4 * time.Second)) {
			t.Fatal("one token was given twice")
		}
		if waited := time.Since(began); waited != 4*time.Second {
			t.Errorf("waited %v, the deadline was in 4s", waited)
		}
		go func() {
			time.Sleep(time.Hour)
			gate.Leave()
		}()
		if !gate.Enter(time.Time{}) || time.Since(began) < time.Hour {
			t.Error("without a deadline it was not waited for")
		}
	})
}

// What handshakes take of late bounds what a restart waits for, and an odd one is
// forgotten.
func TestPace(t *testing.T) {
	var p pace
	if g := p.grace(); g != 0 {
		t.Errorf("%v before there was a handshake", g)
	}
	p.took(700 * time.Millisecond)
	p.took(10 * time.Millisecond)
	if g := p.grace(); g < time.Second || g > 1400*time.Millisecond {
		t.Errorf("%v after one of 700 ms", g)
	}
	p.took(4 * time.Second)
	if g := p.grace(); g != maxGrace {
		t.Errorf("%v, want no more than %v", g, maxGrace)
	}
	for range 64 {
		p.took(10 * time.Millisecond)
	}
	if g := p.grace(); g > 30*time.Millisecond {
		t.Errorf("%v although all is quick again", g)
	}
}
