// SPDX-License-Identifier: BSD-3-Clause

// Command rpctlsctl manages NFS over TLS on a host: certificates and
// configuration.
package main

import (
	"os"

	"rpctls/rpctlsctl"
)

func main() { os.Exit(rpctlsctl.Main(os.Args[1:], rpctlsctl.System())) }
