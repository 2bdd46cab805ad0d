// SPDX-License-Identifier: BSD-3-Clause

// Package vm boots real kernels in QEMU and runs a command in them.
//
// [Prepare] builds, once per machine, what a guest is made of: the kernels of
// the matrix and one root file system, both from Debian's archive. The mirror
// is the one the machine's own apt uses; nothing of the system's apt is
// changed. [Run] boots a guest, runs a command in it and brings back its
// output, its exit code and the files it left in /results:
//
//	result, err := vm.Run(ctx, vm.Options{
//		Kernel:  "7.2",
//		Command: []string{"uname", "-r"},
//		Stdout:  os.Stdout,
//	})
//
// Beside the matrix there are [OtherKernels], for what is about kernels alone: they
// are fetched when they are asked for, and boot with the same root.
//
// An error means that the guest or the harness broke, and says where: in
// particular a panic, an oops, a warning or a hung task on the guest's console
// is an error even if the command succeeded. A command that failed is no
// error; look at [Result.ExitCode].
//
// [StartNode] boots a guest that stays, with a disk of its own that lives through
// reboots, and in a [Network] with others if need be. It boots as the disk says,
// and any number of commands can be run in it:
//
//	network := vm.NewNetwork()
//	server, err := vm.StartNode(ctx, vm.NodeOptions{Name: "server", Kernel: "7.2", Network: network, Address: …})
//	outcome, err := server.Run("exportfs -ra", nil, time.Minute)
//	err = server.Reboot()
//
// No guest changes the image: Run's disk is a snapshot, a node's a copy. QEMU
// dies with the process that started it, whatever kills it.
//
// KVM is used if a guest was seen to boot with it, else QEMU translates (TCG),
// which is slower and otherwise the same.
package vm
