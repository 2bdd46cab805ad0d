// SPDX-License-Identifier: BSD-3-Clause

// Package rpc speaks ONC RPC version 2 (RFC 5531) over a stream, in the clear
// or over TLS (RFC 9289): enough to be an NFS client in tests, benchmarks and
// tools, and to be the other end of one in a test.
//
// A connection is made in one call:
//
//	d := rpc.Dialer{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4, TLS: &tls.Config{}}
//	client, err := d.DialContext(ctx, "tcp", "server.example:2049")
//	if errors.Is(err, rpc.ErrNoTLS) {
//		// the server speaks RPC, but does not offer TLS
//	}
//	err = client.Null(ctx)
//
// # Layers
//
// [Decoder] and [Encoder] are XDR (RFC 4506), [ReadRecord] and [AppendRecord]
// are record marking, [Call] and [Reply] are messages, [Probe] is the
// STARTTLS step of RFC 9289, [Client] matches replies to calls. Each works
// without the ones after it. A peer for tests is in package rpctest.
//
// # Strictness
//
// What is not in the specifications is an error: padding other than zero,
// bytes behind the end of a message, unknown values of an enum, an
// opaque_auth of more than 400 bytes. So a message that parses has exactly one
// encoding, the one it came in. Everything a peer can make large is bounded
// before memory is allocated for it.
//
// # Errors
//
// A peer that breaks a specification gives an error that matches
// [ErrProtocol]; one that answers properly but not with success gives a
// [*ReplyError]; one that offers no TLS gives [ErrNoTLS]. Errors of the
// connection are wrapped unchanged. A failed dial names its step, see
// [DialError].
package rpc
