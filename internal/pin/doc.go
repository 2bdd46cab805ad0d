// SPDX-License-Identifier: BSD-3-Clause

// Package pin is how public keys and certificates are written down in
// configurations: as SHA-256 digests.
package pin
