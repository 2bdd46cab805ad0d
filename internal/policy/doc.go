// SPDX-License-Identifier: BSD-3-Clause

// Package policy decides which clients a server wants, among those whose
// certificates verify: rules in order, of which the first that matches decides.
//
// A decision depends on the rules, the client's certificate and its address, and
// on nothing else: no clock, no file, no name server. What an allow rule cannot
// read in a certificate does not match it, and what a deny rule cannot read does:
// whatever is in doubt counts against the client.
package policy
