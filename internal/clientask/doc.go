// SPDX-License-Identifier: BSD-3-Clause

// Package clientask is what a mount asks rpctlscd on its control socket, beside
// the history: which certificate a server would get, and on kernels on which a
// mount cannot name one, to present a certain one.
package clientask
