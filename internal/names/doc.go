// SPDX-License-Identifier: BSD-3-Clause

// Package names matches hosts against the patterns of configuration files.
// It looks nothing up.
package names
