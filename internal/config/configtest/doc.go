// SPDX-License-Identifier: BSD-3-Clause

// Package configtest helps to test configuration files.
package configtest
