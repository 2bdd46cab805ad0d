// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// maxNodeName is __NEW_UTS_LEN, which is also what the kernel's RPC client keeps
// of a name (include/linux/sunrpc/clnt.h UNX_MAXNODENAME).
const maxNodeName = 64

// nodeName is the host name under which a mount identifies itself to the server:
// this host's with what protects the mount.
//
// An NFSv4 client is known to a server by a text that the kernel makes of the
// host's name (fs/nfs/nfs4proc.c nfs4_init_uniform_client_string). When a server
// answers two connections with the same identifier, the kernel takes them for two
// ways to one server and uses the one that it had first (fs/nfs/nfs4client.c
// nfs41_walk_client_list), without a look at what protects it: a mount with TLS
// beside one in clear ends up in clear, and says that it went well (seen on 6.12
// and 7.2). Two names are two clients, which nobody mixes up. The name depends on
// nothing but the host's, the policy and the identity, so that a client that
// restarts is known again.
func nodeName(host string, a attempt) string {
	suffix := "+" + a.kind()
	name := host + suffix
	if len(name) <= maxNodeName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	digest := "~" + hex.EncodeToString(sum[:12])
	if len(suffix) > 24 {
		suffix = suffix[:24]
	}
	return host[:min(len(host), maxNodeName-len(suffix)-len(digest))] + suffix + digest
}

// inUTS calls f on a thread with a host name of its own: programs that f starts
// have it, too.
func inUTS(a attempt, f func() error) error {
	result := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return fmt.Errorf("read the host name: %w", err)
			}
			if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
				return fmt.Errorf("make a UTS namespace: %w", err)
			}
			if err := unix.Sethostname([]byte(nodeName(unix.ByteSliceToString(u.Nodename[:]), a))); err != nil {
				return fmt.Errorf("set the host name: %w", err)
			}
			return f()
		}()
	}()
	return <-result
}
