// SPDX-License-Identifier: BSD-3-Clause

// Package cli is what the commands of rpctlsctl have in common: how they fail
// and what they say then.
//
// A failure is one line, "rpctlsctl: " and what is wrong, and often a second
// one, "hint: " and what to do. Both are in lower case and have no full stop.
// Results go to standard output, everything else to standard error.
package cli
