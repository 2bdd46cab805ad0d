// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReason(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{context.DeadlineExceeded, "timeout"},
		{&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, "timeout"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ETIMEDOUT)}, "timeout"},
		{fmt.Errorf("handshake: %w", io.EOF), "closed"},
		{io.ErrUnexpectedEOF, "closed"},
		{net.ErrClosed, "closed"},
		{os.NewSyscallError("read", syscall.ECONNRESET), "reset"},
		{os.NewSyscallError("write", syscall.EPIPE), "reset"},
		{os.NewSyscallError("connect", syscall.ECONNREFUSED), "refused"},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(42)}, "alert"},
		{tls.RecordHeaderError{Msg: "oops"}, "not TLS"},
		{&tls.CertificateVerificationError{Err: errors.New("oops")}, "certificate"},
		{errors.New("oops"), "other"},
	} {
		if got := Reason(tt.err); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	a, b := &Load{Clients: 4}, &Load{Clients: 2}
	a.Add(20*time.Millisecond, "", nil)
	a.Add(10500*time.Microsecond, "", nil)
	a.Add(0, "handshake", io.EOF)
	a.Add(0, "handshake", io.ErrUnexpectedEOF)
	a.Add(0, "probe", syscall.ECONNRESET)
	a.Finish(time.Second)
	b.Add(15*time.Millisecond, "", nil)
	b.Add(0, "handshake", io.EOF)
	b.Finish(2 * time.Second)

	want := &Load{
		Clients: 4, Elapsed: 1, OK: 2, Failed: map[string]int{"handshake: closed": 2, "probe: reset": 1},
		Examples:  []string{"handshake: EOF", "probe: connection reset by peer"},
		Latencies: []float64{10.5, 20},
	}
	if diff := cmp.Diff(want, a); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := a.Rate(); got != 2 {
		t.Errorf("rate is %v, want 2", got)
	}
	if got, want := a.String(), "2 of 5; handshake: closed 2, probe: reset 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	merged := &Load{
		Clients: 4, Elapsed: 3, OK: 3, Failed: map[string]int{"handshake: closed": 3, "probe: reset": 1},
		Latencies: []float64{10.5, 15, 20},
	}
	if diff := cmp.Diff(merged, Merge(a, b)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := Merge().Rate(); got != 0 {
		t.Errorf("nothing has a rate of %v", got)
	}
}
