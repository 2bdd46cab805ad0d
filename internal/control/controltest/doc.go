// SPDX-License-Identifier: BSD-3-Clause

// Package controltest lets tests ask a control socket.
package controltest
