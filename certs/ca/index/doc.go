// SPDX-License-Identifier: BSD-3-Clause

// Package index is the book of a CA: one line of text for each event, appended
// and never changed.
//
//	2026-11-21T12:00:00Z issued 9f3c… server 2027-02-19T12:00:00Z - dns:nfs.example.com,ip:192.0.2.1 5b1e… 77aa…
//	2026-12-01T08:30:00Z revoked 9f3c… server 2027-02-19T12:00:00Z keyCompromise dns:nfs.example.com,ip:192.0.2.1 5b1e… 04cd…
//	2026-12-01T08:30:00Z crl 2 crl 2026-12-31T08:30:00Z - - - c90f…
//
// The columns are: when, what happened, serial number (of a CRL: its number),
// kind, not-after (of a CRL: next update), reason of a revocation, names,
// SHA-256 of the certificate, and the sum. The first line is the CA's own
// certificate.
//
// The sum is the SHA-256 of the sum before and of this line's other columns.
// A line that was changed, taken out or put in shows, and so does a line that
// a crash has cut short: it is the last one and has no newline, or has blocks
// that were never written. Such a line was never acknowledged to anybody and is
// dropped. Everything else that does not fit is an error, for a person to look
// at: what cannot be read may be a revocation.
package index
