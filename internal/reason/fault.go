// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package reason

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"rpctls/rpc"
)

// A Fault is why there was no handshake: what a client meets on the way to one.
type Fault string

// The faults, in the order in which a client meets them.
const (
	FaultName        Fault = "name"        // no address is known
	FaultRefused     Fault = "refused"     // nothing listens on the port
	FaultUnreachable Fault = "unreachable" // no route, or somebody on the way said no
	FaultTimeout     Fault = "timeout"     // no answer
	FaultReset       Fault = "reset"       // the connection was reset
	FaultClosed      Fault = "closed"      // the server hung up
	FaultNotRPC      Fault = "not_rpc"     // what answers does not speak RPC
	FaultNoNFS       Fault = "no_nfs"      // RPC, and no NFS of that version
	FaultNoTLS       Fault = "no_tls"      // the AUTH_TLS probe was refused
	FaultLocal       Fault = "local"       // this host: no socket, no address
)

// FaultOf returns what stood in the way, "" for nil.
func FaultOf(err error) Fault {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return FaultName
	}
	// A server without the program says nothing of TLS.
	re, replied := errors.AsType[*rpc.ReplyError](err)
	if replied && re.Stat == rpc.MsgAccepted {
		return FaultNoNFS
	}
	if errors.Is(err, rpc.ErrNoTLS) {
		return FaultNoTLS
	}
	if replied {
		return FaultNoNFS
	}
	for _, c := range []struct {
		is    error
		fault Fault
	}{
		{rpc.ErrProtocol, FaultNotRPC},
		{rpc.ErrRecordTooLarge, FaultNotRPC}, // the first bytes of a text, taken for a length
		{unix.ECONNREFUSED, FaultRefused},
		{unix.EHOSTUNREACH, FaultUnreachable},
		{unix.ENETUNREACH, FaultUnreachable},
		{unix.EACCES, FaultUnreachable}, // a route of type "prohibit"
		{unix.EINVAL, FaultUnreachable}, // a route of type "blackhole"
		{unix.EHOSTDOWN, FaultUnreachable},
		{os.ErrDeadlineExceeded, FaultTimeout},
		{context.DeadlineExceeded, FaultTimeout},
		{unix.ETIMEDOUT, FaultTimeout},
		{unix.ECONNRESET, FaultReset},
		{unix.ECONNABORTED, FaultReset},
		{unix.EPIPE, FaultReset},
		{io.EOF, FaultClosed},
		{io.ErrUnexpectedEOF, FaultClosed},
	} {
		if errors.Is(err, c.is) {
			return c.fault
		}
	}
	// The dialer's own limit is no error of the system's.
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return FaultTimeout
	}
	return FaultLocal
}
