// SPDX-License-Identifier: BSD-3-Clause

// Package bundle makes the one file that a host needs to become a client or
// server: its private key, its certificate with what is above it, and the CA to
// trust. It is PEM, in that order, with a few words in front; package
// [rpctls/certs/intake] reads it.
//
// With a passphrase it is that text in an age file (age-encryption.org/v1) with
// armor: the age command can read and write it as well. A bundle holds a private
// key, so one without a passphrase must travel like one.
package bundle
