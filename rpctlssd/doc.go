// SPDX-License-Identifier: BSD-3-Clause

// Package rpctlssd is the server's side: it answers for nfsd. It says who the
// server is (one identity, or several told apart by the name the client asks
// for), whether clients are asked for a certificate and whom to believe.
//
// The kernel's server knows only whether a handshake failed, and blocks one of
// its threads while it waits: failures are reported at once.
package rpctlssd
