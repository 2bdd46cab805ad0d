// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/internal/control"
)

// With every request in progress being handed over and every place of the control
// socket taken, there are descriptors left.
func TestDivide(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
	for _, tt := range []struct{ descriptors, requests, questions int }{
		{65, 0, 0},
		{66, 1, someAsk},
		{70, 3, someAsk},
		{400, 147, 50},
		{1024, 420, 128},
		{2048, maxRequests, control.MaxConns}, // the unit's
	} {
		if uint64(tt.descriptors) > old.Max {
			t.Skipf("no more than %d here", old.Max)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(tt.descriptors), Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		requests, questions, err := divide()
		if (err != nil) != (tt.requests == 0) || requests != tt.requests || questions != tt.questions {
			t.Errorf("%d descriptors: %d requests, %d questions, %v; want %d and %d", tt.descriptors, requests, questions, err, tt.requests, tt.questions)
		}
		if 2*requests+questions+reservedFDs-someAsk > tt.descriptors {
			t.Errorf("%d descriptors do not suffice for %d requests and %d questions", tt.descriptors, requests, questions)
		}
	}
}
