// SPDX-License-Identifier: BSD-3-Clause

// Package version says which build of the program this is.
package version
