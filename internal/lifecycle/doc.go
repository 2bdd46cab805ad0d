// SPDX-License-Identifier: BSD-3-Clause

// Package lifecycle runs a daemon as a set of tasks and tells the service
// manager about it (sd_notify(3)): ready when every task is, reloading,
// stopping, alive.
package lifecycle
