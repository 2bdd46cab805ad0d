// SPDX-License-Identifier: BSD-3-Clause

// Package ktls shows what a connection of [rpctls/ktls] does on real kernels.
// Its tests are built with the tag "guest" and run inside a VM, which
// TestKernels in package integration boots; on the kernels beside the matrix half of
// the table of cases runs.
//
// One table of cases runs in two modes: "kernel", in which the connection must
// be the kernel's in both directions, and "user", its twin with
// ktls.NoOffload. What a case sees must not differ. The twin needs no VM:
//
//	go test -tags guest -run '/user' ./integration/ktls
//
// The peers are openssl s_server and s_client, gnutls-serv and gnutls-cli,
// crypto/tls and net/http, and one that is made of crypto/tls's handshake and
// records of our own, for what no well-behaved program would send.
//
// The programs of examples/https make their requests here, too.
//
// After each case no descriptor and no goroutine may be left, and the kernel's
// own counters must have moved by what was handed over and nothing else.
//
// RPCTLS_KTLS_BULK says how many MiB go each way in the cases about bulk.
package ktls
