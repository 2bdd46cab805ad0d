// SPDX-License-Identifier: BSD-3-Clause

// Command benchload is the load of the benchmarks: clients that open a
// connection, make the AUTH_TLS probe and a TLS 1.3 handshake with a
// certificate, call NULL, read the reply and close, over and over. What it
// prints is a bench.Load as JSON.
//
//	benchload -address server.test:2049 -name server.test -clients 32 -total 200 \
//		-ca ca.pem -cert cert.pem -key key.pem
//
// A connection that is lost is not tried again, and counts as lost.
//
// With -stall it attacks instead: every client probes, says nothing more, and
// connects again when the server hangs up. With -write it does not connect, but
// writes to a file on a mount.
package main
