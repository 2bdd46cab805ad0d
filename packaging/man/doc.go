// SPDX-License-Identifier: BSD-3-Clause

// Package man holds the manual pages, written by hand in mdoc(7). Its tests
// compare them with the programs: a flag, command, configuration key or reason
// that is in one and not in the other is an error.
package man
