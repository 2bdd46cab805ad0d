// SPDX-License-Identifier: BSD-3-Clause

// Package certcmd is "rpctlsctl cert": the CA of a site, the identities of a
// host, and what travels between them.
//
// Every command that writes prepares all it can, then makes its changes in an
// order in which each leaves things usable. All changes go through one
// [durable.Disk], so that --dry-run cannot write by mistake.
package certcmd
