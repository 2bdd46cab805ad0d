// SPDX-License-Identifier: BSD-3-Clause

// Package integration holds what needs a real kernel.
//
// The test of this package boots every kernel of the matrix in QEMU and runs
// the guest test binaries in it:
//
//	go test -tags vm -v ./integration
//
// At the end it tells the story of [rpctls/integration/packages], on a server and
// two clients that are installed, joined and restarted.
//
// The parts are [rpctls/integration/vm], which builds the images and boots
// them, [rpctls/integration/guest], which the tests inside the guest are
// written with, and the command vmrun, which runs one command in a guest:
//
//	go run ./integration/cmd/vmrun -kernel 7.2 -- uname -a
package integration
