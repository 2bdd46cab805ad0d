// SPDX-License-Identifier: BSD-3-Clause

// Package durable changes files so that a crash, a full disk or a power cut at
// any point leaves what was there before or what was meant, never half of it.
//
// A file is replaced in the order that makes this true on Linux file systems:
//
//	openat(dir, ".rpctls-new-1234", O_CREAT|O_EXCL, 0600)
//	write, fchown, fchmod
//	fsync(file)            // the content is on disk before the name
//	rename(temp, path)     // readers see the old file or the new one
//	fsync(dir)             // the name is on disk before success is reported
//
// Every change of a [Disk] goes through a handful of steps, which serve three
// masters: the real disk, a dry run that takes none of them, and tests that
// make any one of them fail, or all from a certain one on, as a crash does.
package durable
