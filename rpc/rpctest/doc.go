// SPDX-License-Identifier: BSD-3-Clause

// Package rpctest is an RPC server for tests and benchmarks: it answers the
// AUTH_TLS probe of RFC 9289, speaks TLS, and by default is an NFS server that
// has nothing but the NULL procedure.
//
//	server, client := rpctest.TLSConfigs(t)
//	addr := (&rpctest.Server{TLS: server}).Start(t)
//	d := rpc.Dialer{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4, TLS: client}
//	c, err := d.DialContext(t.Context(), "tcp", addr)
package rpctest
