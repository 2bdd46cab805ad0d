// SPDX-License-Identifier: BSD-3-Clause

// Package why says in words for the administrator of a client why a mount over
// TLS fails, and which one command mends it: the same words in mount.nfstls and
// in rpctlsctl doctor.
package why
