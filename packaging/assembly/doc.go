// SPDX-License-Identifier: BSD-3-Clause

// Package assembly makes the packages that package manifest describes: programs
// and what is generated from them, then a deb and an rpm by nfpm, and a tar.
//
// Two builds of one commit give the same bytes: every time in a package is that
// of the commit, modes and owners are the manifest's, and nothing of the machine
// or of the directory gets in.
package assembly
