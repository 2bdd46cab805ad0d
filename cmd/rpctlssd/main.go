// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

// Command rpctlssd answers the Linux kernel's TLS handshake requests for the
// NFS server (RFC 9289).
package main

import (
	"os"

	"rpctls/rpctlssd"
)

func main() { os.Exit(rpctlssd.Program().Main(os.Args[1:])) }
