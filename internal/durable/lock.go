// SPDX-License-Identifier: BSD-3-Clause

package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// ErrLocked is wrapped by the error of [Lock] when another process holds it.
var ErrLocked = errors.New("another process is making changes there")

// Lock keeps every other process that asks for it out of dir, until release is
// called or this process ends, however it ends. It waits for another holder,
// but not longer than patience.
//
// The lock is on the directory itself (flock(2)): there is no file to be left
// behind, and none to be removed under a holder.
func Lock(dir string, patience time.Duration) (release func(), err error) {
	file, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
		if time.Now().After(end) {
			file.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, ErrLocked)
		}
	}
}
