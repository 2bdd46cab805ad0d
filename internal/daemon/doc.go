// SPDX-License-Identifier: BSD-3-Clause

// Package daemon is the outside of both daemons: command line, configuration,
// reload, exit status. What a daemon does inside is in packages agent,
// rpctlscd and rpctlssd.
package daemon
