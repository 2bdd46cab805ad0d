// SPDX-License-Identifier: BSD-3-Clause

// Package scenario holds what the daemons must do on a real kernel: the same
// table of scenarios for every kernel of the matrix. Its tests are built with
// the tag "guest" and run inside a VM, where network namespaces stand for
// hosts; TestKernels in package integration boots the VMs.
package scenario
