// SPDX-License-Identifier: BSD-3-Clause

// Package exportercmd is "rpctlsctl exporter": it serves the daemons' metrics in
// Prometheus' format. It asks both daemons at each scrape, on sockets that answer
// nothing else, and needs no right: a daemon that cannot be asked is one whose
// rpctls_up is 0.
package exportercmd
