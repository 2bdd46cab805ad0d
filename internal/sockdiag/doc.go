// SPDX-License-Identifier: BSD-3-Clause

// Package sockdiag asks the kernel about TCP sockets (sock_diag(7), inet_diag)
// and ends them. It sees the sockets of the calling thread's network namespace,
// those of the kernel's own NFS client and server among them, and needs no
// descriptor of any.
//
// Looking needs no right, but on Linux 6.12 only CAP_NET_ADMIN is told of kernel
// TLS (net/ipv4/tcp_diag.c). Ending a socket needs CAP_NET_ADMIN in the user
// namespace of the network, and CONFIG_INET_DIAG_DESTROY. The module tcp_diag is
// loaded by the kernel when somebody asks, whatever rights that one has.
package sockdiag
