// SPDX-License-Identifier: BSD-3-Clause

package ktls

import "errors"

// Record types and sizes (RFC 8446 section 5, RFC 5246 section 6.2).
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	recordApplicationData  = 23

	recordHeaderLen = 5
	maxPlaintext    = 1 << 14
	// maxCiphertext is the longest body crypto/tls may ask for: 2^14+2048 is
	// TLS 1.2's limit, which holds until a version is agreed.
	maxCiphertext = maxPlaintext + 2048

	// explicitNonceLen is what a record of TLS 1.2 begins with when the cipher
	// is AES-GCM (RFC 5288 section 3).
	explicitNonceLen = 8
)

// errRecordTooLong is returned instead of reading the body of a record longer
// than any TLS allows. crypto/tls refuses such a header by itself; this holds
// even if it did not.
var errRecordTooLong = errors.New("record longer than TLS allows")
