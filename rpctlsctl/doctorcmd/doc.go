// SPDX-License-Identifier: BSD-3-Clause

// Package doctorcmd is "rpctlsctl doctor".
package doctorcmd
