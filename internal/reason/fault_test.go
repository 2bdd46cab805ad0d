// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package reason

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/rpc"
)

func TestFaultOf(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want Fault
	}{
		{nil, ""},
		{&net.DNSError{Err: "no such host"}, FaultName},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", unix.ECONNREFUSED)}, FaultRefused},
		{os.NewSyscallError("connect", unix.EHOSTUNREACH), FaultUnreachable},
		{os.NewSyscallError("connect", unix.ENETUNREACH), FaultUnreachable},
		{fmt.Errorf("x: %w", os.ErrDeadlineExceeded), FaultTimeout},
		{context.DeadlineExceeded, FaultTimeout},
		{unix.ECONNRESET, FaultReset},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), FaultClosed},
		{fmt.Errorf("%w: it says HTTP", rpc.ErrProtocol), FaultNotRPC},
		{&rpc.ReplyError{AcceptStat: rpc.ProgUnavail}, FaultNoNFS},
		{fmt.Errorf("%w: %w", rpc.ErrNoTLS, &rpc.ReplyError{Stat: rpc.MsgDenied, RejectStat: rpc.AuthError}), FaultNoTLS},
		{fmt.Errorf("%w: %w", rpc.ErrNoTLS, &rpc.ReplyError{AcceptStat: rpc.ProgMismatch}), FaultNoNFS},
		{unix.EADDRNOTAVAIL, FaultLocal},
	} {
		if got := FaultOf(tt.err); got != tt.want {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}
