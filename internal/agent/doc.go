// SPDX-License-Identifier: BSD-3-Clause

// Package agent is what both daemons share: it takes a request from the kernel
// through hand-over, handshake and key installation to DONE, within bounds on
// processors, descriptors and time, and writes the one log line about it. What
// a handshake is to prove and what its failure means is for a [Role].
package agent
