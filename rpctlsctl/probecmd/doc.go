// SPDX-License-Identifier: BSD-3-Clause

// Package probecmd is "rpctlsctl probe".
package probecmd
