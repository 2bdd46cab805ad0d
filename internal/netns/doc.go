// SPDX-License-Identifier: BSD-3-Clause

// Package netns finds network namespaces by their names in the file system, tells
// them apart, and calls functions inside them.
//
// A name is a file on which the namespace is mounted (nsfs), as "ip netns add"
// makes it in /run/netns. Device and inode of that file identify a namespace as
// long as something holds it; the kernel's cookie (SO_NETNS_COOKIE) identifies it
// until the host restarts, and any socket knows it of its own. An open descriptor
// of the file, and any socket made inside, keeps a namespace alive whose name is
// gone: whoever serves one has to let go.
//
// Entering a namespace needs CAP_SYS_ADMIN. [Rest] takes it out of the effective
// set of all threads; a thread that enters has it for that one system call, and
// ends with what it was for.
package netns
