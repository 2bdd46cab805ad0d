// SPDX-License-Identifier: BSD-3-Clause

// Package alpn holds RFC 9289's application protocol and the policy about
// peers that do not name it.
package alpn
