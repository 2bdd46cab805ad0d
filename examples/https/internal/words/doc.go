// SPDX-License-Identifier: BSD-3-Clause

// Package words says which path a connection takes, for client and server alike.
package words
