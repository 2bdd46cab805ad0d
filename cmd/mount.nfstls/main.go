// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

// Command mount.nfstls mounts NFS file systems over TLS: the mount helper for
// the type nfstls, and for nfs where it is put in place of mount.nfs.
package main

import (
	"os"

	"rpctls/internal/mountnfs"
)

func main() { os.Exit(mountnfs.Main(os.Args)) }
