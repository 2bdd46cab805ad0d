// SPDX-License-Identifier: BSD-3-Clause

// Package sessions remembers the TLS sessions that a daemon has set up, for as
// long as their connections live: whose certificate it was, so that an
// administrator can see it and so that it can be judged again when trust changes.
//
// The kernel keeps a session alive without the daemon, and so must the memory of
// it outlive the daemon: it is in a file of the runtime directory,
// DAEMON.sessions, as well. It is written behind the handshakes, by one task that
// writes what has come together since: a daemon that is killed loses the last
// fraction of a second of it. Of those sessions the kernel still tells everything
// but the certificate, and they cannot be judged again.
//
// A session is known by its socket's addresses and cookie (package sockdiag). No
// descriptor is kept of any: that would keep connections alive which the kernel
// has closed.
package sessions
