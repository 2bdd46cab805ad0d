// SPDX-License-Identifier: BSD-3-Clause

// Package netnstest makes real network namespaces for tests.
package netnstest
