// SPDX-License-Identifier: BSD-3-Clause

// Package keylogtest decrypts what was captured with a secret of a key log, as
// Wireshark does: for tests that a key log is good for what it is for.
package keylogtest
