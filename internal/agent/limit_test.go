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
func TestRequestLimit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
	for _, descriptors := range []int{400, 1024, 2048} { // the last is the unit's
		if uint64(descriptors) > old.Max {
			t.Skipf("no more than %d here", old.Max)
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(descriptors), Max: old.Max}); err != nil {
			t.Fatal(err)
		}
		n, err := requestLimit()
		if err != nil || n < 1 || 2*n+control.MaxConns+64 > descriptors || descriptors == 2048 && n != maxRequests {
			t.Errorf("%d requests at once with %d descriptors, %v", n, descriptors, err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: control.MaxConns, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	if n, err := requestLimit(); err == nil {
		t.Errorf("%d requests with descriptors for questions only", n)
	}
}
