// SPDX-License-Identifier: BSD-3-Clause

// Package guest is what tests are written with that run inside a guest of
// package vm. They carry the build tag "guest", begin with [RequireVM], and
// are run by the test of package integration or by
//
//	CGO_ENABLED=0 go test -tags guest -exec '/tmp/vmrun -kernel 7.2' ./integration/guest
//
// Every helper has a time limit, and fails the test with what was being done
// and what the program concerned said. None waits by sleeping: conditions are
// polled, and end in a failure when they do not come true.
//
// # Hosts
//
// One guest plays several hosts. A [Host] is a network namespace; hosts are
// joined by [Join] and then know each other as NAME.test. What makes NFS work
// with that, and decides where a program must run:
//
//   - The NFS client's mounts belong to a network namespace and to a mount
//     namespace. [Host.Command] enters the first only, so that a mount made
//     by one host is a directory that the test itself can use.
//   - The NFS server's tools have their files at fixed places, and what is
//     there differs between hosts: /proc/fs/nfsd shows the server of the
//     namespace that mounted it, /var/lib/nfs and /run hold state. They run by
//     [Host.ServerCommand], in a mount namespace that the host owns besides
//     and in which these are its own. All else, exported directories above
//     all, is the same in both.
//   - Clients with the same host name are one and the same client to an
//     NFSv4 server. NewHost gives each namespace a different identifier.
package guest
