// SPDX-License-Identifier: BSD-3-Clause

package words

import (
	"crypto/tls"
	"errors"
	"testing"

	"rpctls/ktls"
)

func TestPath(t *testing.T) {
	state := tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
	for want, o := range map[string]ktls.Offload{
		"TLS 1.3, TLS_AES_128_GCM_SHA256; send: kernel; receive: kernel":                   {TX: ktls.Direction{Kernel: true}, RX: ktls.Direction{Kernel: true}},
		"TLS 1.3, TLS_AES_128_GCM_SHA256; send: kernel; receive: user space (no such key)": {TX: ktls.Direction{Kernel: true}, RX: ktls.Direction{Reason: errors.New("no such key")}},
		"TLS 1.3, TLS_AES_128_GCM_SHA256; send: user space; receive: user space":           {},
	} {
		if got := Path(state, o); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
