// SPDX-License-Identifier: BSD-3-Clause

// Package rpctlsctl is the command of the same name: what an administrator does
// around the daemons. Each group of subcommands has a package of its own; here
// they are put together.
package rpctlsctl
