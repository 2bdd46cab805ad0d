// SPDX-License-Identifier: BSD-3-Clause

// Command vmrun runs a command under one of the kernels of the matrix, in a
// virtual machine that is thrown away afterwards. See vmrun -help.
package main
