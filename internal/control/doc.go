// SPDX-License-Identifier: BSD-3-Clause

// Package control is how the programs of this project ask a running daemon
// something: a Unix socket in the runtime directory, for root and for the
// daemon's own user.
//
// A request is one line, a JSON object, and so is its answer:
//
//	{"op":"history","args":{"limit":10}}
//	{"result":{…}}
//	{"error":"what is wrong","hint":"what to do"}
//
// A connection may ask several things, one after the other. Unknown fields are
// errors in requests and ignored in answers: a tool that is newer than the daemon
// hears what the daemon does not know, and a daemon may say more than a tool
// wants to hear.
//
// Everything is bounded: the length of a line, the time for it, the connections
// at once. Nothing here is on the path of a handshake.
package control
