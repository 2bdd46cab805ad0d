// SPDX-License-Identifier: BSD-3-Clause

//go:build !linux

package ktls

import (
	"fmt"
	"net"
	"syscall"
)

// supported: only Linux has kernel TLS of this kind.
const supported = false

func handOver(*net.TCPConn, *plan, connOptions) (kernelSocket, Offload, bool) {
	return nil, neither(errUnsupported), false
}

func waitInput(syscall.Conn) (int, error) { return 0, errUnsupported }

// Probe reports that there is nothing.
func Probe() (Capabilities, error) { return Capabilities{ULP: errUnsupported}, nil }

// Loaded reports whether the kernel's TLS is there: it is not.
func Loaded() error { return errUnsupported }

// An InstallError says which step of the hand-over to the kernel failed.
type InstallError struct {
	Op     string
	Cipher Cipher
	Err    error
}

func (e *InstallError) Error() string { return fmt.Sprintf("%s (%v): %v", e.Op, e.Cipher, e.Err) }

// Unwrap returns the cause.
func (e *InstallError) Unwrap() error { return e.Err }
