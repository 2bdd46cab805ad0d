// SPDX-License-Identifier: BSD-3-Clause

// Package configcmd is "rpctlsctl config".
package configcmd
