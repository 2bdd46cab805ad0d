// SPDX-License-Identifier: BSD-3-Clause

package durabletest

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"rpctls/internal/durable"
)

// ErrCrash is what every step returns after a simulated crash.
var ErrCrash = errors.New("the process was killed")

// A Mishap says what goes wrong, and when.
type Mishap struct {
	// Step counts from 0.
	Step int
	// Crash makes this step and all later ones fail, so that nothing is
	// tidied up; otherwise this one fails alone, with ENOSPC.
	Crash bool
	// What is the step, once it was reached.
	What string
}

// String names the mishap.
func (m *Mishap) String() string {
	kind := "full disk"
	if m.Crash {
		kind = "crash"
	}
	return fmt.Sprintf("%s at step %d (%s)", kind, m.Step, m.What)
}

// Disk returns a disk to which the mishap happens.
func (m *Mishap) Disk() *durable.Disk {
	n := 0
	return &durable.Disk{Step: func(op, path string) error {
		n++
		switch {
		case n-1 == m.Step:
			m.What = op + " " + path
			if !m.Crash {
				return syscall.ENOSPC
			}
			return ErrCrash
		case n-1 > m.Step && m.Crash:
			return ErrCrash
		}
		return nil
	}}
}

// TempDir makes a directory where fsync costs nothing, if there is such a place:
// a test of every step syncs thousands of times. The test removes it.
func TempDir(t interface {
	TempDir() string
	Cleanup(func())
}) string {
	dir, err := os.MkdirTemp("/dev/shm", "durabletest-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Each calls try with every mishap that can happen, first the full disks and
// then the crashes. That ends when try, given a disk, comes through without
// reaching the mishap's step.
func Each(try func(m *Mishap)) {
	for _, crash := range []bool{false, true} {
		for step := 0; ; step++ {
			m := &Mishap{Step: step, Crash: crash}
			try(m)
			if m.What == "" {
				break
			}
		}
	}
}
