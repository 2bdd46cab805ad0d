// SPDX-License-Identifier: BSD-3-Clause

package daemon

import (
	"rpctls/certs"
	"rpctls/internal/config"
)

// LoadTrust loads the trust that the settings name.
func LoadTrust(s config.Settings, f *certs.Files) (*certs.Trust, error) {
	tc := certs.TrustConfig{Trust: string(s.Trust)}
	for _, p := range s.CRL {
		tc.CRL = append(tc.CRL, string(p))
	}
	if s.CRLStale == config.StaleWarn {
		tc.CRLStale = certs.StaleWarn
	}
	return certs.LoadTrust(f, tc)
}
