// SPDX-License-Identifier: BSD-3-Clause

// Package durabletest lets every step of a change fail once, with a full disk
// and with a crash.
package durabletest
