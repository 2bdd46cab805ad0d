// SPDX-License-Identifier: BSD-3-Clause

// Package store keeps a host's identities, each a certificate chain and its
// private key, where the daemons read them, and replaces both in one step.
//
//	server.pem -> identity/server/current/cert.pem
//	server.key -> identity/server/current/key.pem
//	identity/server/current -> 9f3c01d2a4b5c6d7.1
//	identity/server/9f3c01d2a4b5c6d7.1/cert.pem, key.pem
//	ca.pem                       whom this host trusts
//	request/server/request.csr, key.pem
//	                             a request to another CA, until it answers
//
// Two files cannot be replaced at once, but a link can: current is made to
// point to a new directory that is complete. A daemon that starts after a crash
// finds a certificate and the key that belongs to it, and one that reads them
// while they change finds out by comparing them, and looks again.
//
// An identity that was put there by other means, as two plain files, is used as
// it is. When it is replaced for the first time, it is first copied to where the
// links lead, so that the paths show the same content at every moment.
package store
