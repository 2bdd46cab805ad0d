// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"fmt"
	"strings"
)

// A GuestError says that a guest broke or had to be stopped. Its text ends
// with the last lines of the console.
type GuestError struct {
	Kernel   string
	Reason   string
	Findings []Finding
	Console  string // all of it
	QEMU     string // what QEMU itself said

	cause error
}

// Unwrap returns why the guest was stopped, such as a context's error.
func (e *GuestError) Unwrap() error { return e.cause }

func (e *GuestError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "vm: guest with kernel %s: %s", e.Kernel, e.Reason)
	for i, f := range e.Findings {
		if i == 5 {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Findings)-i)
			break
		}
		fmt.Fprintf(&b, "\n  %s", f)
	}
	if e.QEMU != "" {
		fmt.Fprintf(&b, "\n  qemu: %s", tail(e.QEMU, 5))
	}
	const lines = 60
	fmt.Fprintf(&b, "\n--- the last lines of its console ---\n%s\n--- end of console ---", tail(e.Console, lines))
	return b.String()
}
