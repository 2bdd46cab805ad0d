// SPDX-License-Identifier: BSD-3-Clause

// Package mountinfo reads which NFS file systems are mounted and how their
// connections are protected, as the kernel tells it.
package mountinfo
