// SPDX-License-Identifier: BSD-3-Clause

// Package fdstore keeps descriptors with the service manager across restarts
// of the daemon (sd_pid_notify_with_fds(3), FileDescriptorStoreMax= in
// systemd.service(5)).
package fdstore
