// SPDX-License-Identifier: BSD-3-Clause

// Package tlsstat reads the kernel's counters of its TLS,
// /proc/net/tls_stat (Documentation/networking/tls.rst, net/tls/tls_proc.c).
// They are those of a network namespace, and of all who use TLS in it.
package tlsstat
