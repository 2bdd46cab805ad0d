// SPDX-License-Identifier: BSD-3-Clause

// Package nfsclient lists a directory of an NFSv4 server (RFC 7530, RFC 8881)
// over an [rpctls/rpc] client, to find out whether an export lets this host in.
// It holds no state on the server longer than that takes: with minor version 0
// none at all, else a session that is destroyed again.
package nfsclient
