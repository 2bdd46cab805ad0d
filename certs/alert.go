// SPDX-License-Identifier: BSD-3-Clause

package certs

// alerts are the AlertDescriptions that fit (RFC 8446 section 6.2).
var alerts = map[Reason]uint8{
	UnknownCA:        48,  // unknown_ca
	Expired:          45,  // certificate_expired
	NotYetValid:      45,  // certificate_expired: "expired or is not currently valid"
	Revoked:          44,  // certificate_revoked
	NoRevocationInfo: 46,  // certificate_unknown
	KeyUsage:         43,  // unsupported_certificate
	NoCertificate:    116, // certificate_required
}

// TLSAlert returns the AlertDescription that tells the peer what is wrong with
// its certificate (RFC 8446 section 6.2).
func (e *VerifyError) TLSAlert() uint8 {
	if a, ok := alerts[e.Reason]; ok {
		return a
	}
	return 42 // bad_certificate
}
