// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package controltest

import (
	"context"
	"testing"

	"rpctls/internal/control"
)

// Serve has a server answer until the end of the test, which waits for its last
// answer.
func Serve(t testing.TB, s *control.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}
