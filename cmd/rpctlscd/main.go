// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

// Command rpctlscd answers the Linux kernel's TLS handshake requests for the
// NFS client (RFC 9289).
package main

import (
	"os"

	"rpctls/rpctlscd"
)

func main() { os.Exit(rpctlscd.Program().Main(os.Args[1:])) }
