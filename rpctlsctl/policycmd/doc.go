// SPDX-License-Identifier: BSD-3-Clause

// Package policycmd is "rpctlsctl policy": what rpctlssd's rules say of a client,
// without a client.
package policycmd
