// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlssd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"testing"

	"rpctls/internal/halfopen"
	"rpctls/ktls"
)

// TestOutcome: only silence counts against a client, and only what it sent for
// it.
func TestOutcome(t *testing.T) {
	failed := func(records int, err error) error {
		return fmt.Errorf("wrapped: %w", &ktls.HandshakeError{Role: ktls.RoleServer, Records: records, Err: err})
	}
	for _, tt := range []struct {
		err  error
		want halfopen.Outcome
	}{
		{nil, halfopen.Spoke},
		{errors.New("keys could not be installed"), halfopen.Spoke},
		{failed(2, &ktls.AlertError{}), halfopen.Spoke},
		{failed(1, os.ErrDeadlineExceeded), halfopen.Spoke},
		{failed(0, ktls.ErrNoFirstRecord), halfopen.Silent},
		{failed(0, os.ErrDeadlineExceeded), halfopen.Silent},
		{failed(0, ktls.ErrNoTurn), halfopen.Unknown},
		{failed(2, ktls.ErrNoTurn), halfopen.Unknown},
		{failed(0, io.EOF), halfopen.Unknown}, // it gave up by itself
		{failed(0, errors.New("reset")), halfopen.Unknown},
	} {
		if got := outcome(tt.err); got != tt.want {
			t.Errorf("%v: %v, want %v", tt.err, got, tt.want)
		}
	}
}
