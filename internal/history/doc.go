// SPDX-License-Identifier: BSD-3-Clause

// Package history remembers what became of the latest handshakes, for whoever
// asks why a mount failed. It holds a fixed number of them, and adding one costs
// a lock and a copy: text is made when somebody asks.
package history
