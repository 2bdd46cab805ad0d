// SPDX-License-Identifier: BSD-3-Clause

// Package metrics counts what a daemon does and says it in numbers, for
// rpctlsctl exporter, which asks "metrics" on a socket of the daemon's.
//
// To count costs a handshake a few atomic additions. Labels are from closed
// sets, which are fixed when a [Handshakes] is made: nothing that a peer sends
// becomes one. The only words that are not known beforehand are the names of
// identities and CRLs, which the configuration chooses, and of those there are
// at most [MaxExpiries].
package metrics
