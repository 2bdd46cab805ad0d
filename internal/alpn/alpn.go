// SPDX-License-Identifier: BSD-3-Clause

package alpn

import (
	"crypto/tls"

	"rpctls/internal/config"
	"rpctls/ktls"
	"rpctls/rpc"
)

// ErrNotAgreed: the peer did not agree on rpc.ALPN.
var ErrNotAgreed error = notAgreed{}

type notAgreed struct{}

func (notAgreed) Error() string   { return `peer does not speak ALPN "sunrpc"` }
func (notAgreed) TLSAlert() uint8 { return uint8(ktls.AlertNoApplicationProtocol) }

// Check judges what was agreed on. A peer that names other protocols only is
// refused by crypto/tls itself; one that names none is refused by
// config.ALPNRequire.
func Check(policy config.ALPN, cs tls.ConnectionState) error {
	if policy == config.ALPNRequire && cs.NegotiatedProtocol != rpc.ALPN {
		return ErrNotAgreed
	}
	return nil
}
