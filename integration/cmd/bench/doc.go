// SPDX-License-Identifier: BSD-3-Clause

// Command bench runs the benchmarks of package bench in a VM, on every kernel
// one after the other, prints a table for each and writes docs/benchmarks.md.
// The VMs never run at the same time: they would disturb each other.
//
// One row in a minute, to see whether a change helped:
//
//	go run ./integration/cmd/bench -kernel 7.2 -only 'rate.4$' -systems limit,rpctls
//
// With -only or -systems nothing is written but to the terminal.
package main
