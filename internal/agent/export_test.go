// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent

import (
	"syscall"

	"rpctls/ktls"
)

// SetInstall replaces the hand-over of keys to the kernel, which not every
// kernel that runs unit tests can do, and returns a function that restores it.
func SetInstall(f func(*ktls.Session, syscall.Conn) error) (restore func()) {
	old := install
	install = f
	return func() { install = old }
}

// WaitForAlerts makes a client wait for a late alert as long as it may, and returns
// a function that restores the usual: on a busy machine a server is no quicker.
func WaitForAlerts() (restore func()) {
	old := minLateWait
	minLateWait = maxLateWait
	return func() { minLateWait = old }
}
