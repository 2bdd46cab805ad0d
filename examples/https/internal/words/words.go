// SPDX-License-Identifier: BSD-3-Clause

package words

import (
	"crypto/tls"
	"fmt"

	"rpctls/ktls"
)

// Path describes a connection after its handshake in one line.
func Path(state tls.ConnectionState, o ktls.Offload) string {
	return fmt.Sprintf("%s, %s; send: %s; receive: %s",
		tls.VersionName(state.Version), tls.CipherSuiteName(state.CipherSuite), direction(o.TX), direction(o.RX))
}

func direction(d ktls.Direction) string {
	switch {
	case d.Kernel:
		return "kernel"
	case d.Reason == nil:
		return "user space"
	}
	return fmt.Sprintf("user space (%v)", d.Reason)
}
