// SPDX-License-Identifier: BSD-3-Clause

// Package packages tells what administrators do with the built packages, on
// machines that are installed, joined and restarted: a server and two clients,
// with systemd as process 1. It runs on the host, as TestPackages.
package packages
