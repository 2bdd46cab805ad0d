// SPDX-License-Identifier: BSD-3-Clause

// Package reason names why a handshake ended as it did: one of a closed set,
// which is the field "reason" of the log line and fit to be a metric's label.
// It is the only place where errors of the other packages are told apart.
package reason
