// SPDX-License-Identifier: BSD-3-Clause

// Package status is what a daemon says of itself when it is asked "status" on
// its control socket. Both daemons and the tools share the one type, whose JSON
// is documented in docs/json.md.
package status
