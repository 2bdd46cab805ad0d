// SPDX-License-Identifier: BSD-3-Clause

// Package tlshdconf reads the configuration of tlshd (ktls-utils, up to 1.4.0;
// tlshd.conf(5)) and says it in the words of rpctlscd and rpctlssd.
//
// The format is that of GLib's GKeyFile. What has no counterpart here, or has
// one that behaves otherwise, is told in notes: nothing is dropped silently,
// and nothing is made weaker than it was.
package tlshdconf
