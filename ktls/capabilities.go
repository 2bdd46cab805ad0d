// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
)

// A Suite is a version of TLS, [tls.VersionTLS12] or [tls.VersionTLS13], and a
// cipher: what the kernel distinguishes.
type Suite struct {
	Version uint16
	Cipher  Cipher
}

// Suites lists every Suite that crypto/tls and some kernel have.
func Suites() []Suite {
	var all []Suite
	for _, v := range []uint16{tls.VersionTLS13, tls.VersionTLS12} {
		for _, c := range Ciphers() {
			all = append(all, Suite{v, c})
		}
	}
	return all
}

// String returns for example "TLS 1.3 AES-128-GCM".
func (s Suite) String() string { return tls.VersionName(s.Version) + " " + s.Cipher.String() }

// info lays out what setsockopt takes.
func (s Suite) info(keys trafficKeys, seq uint64) []byte {
	if s.Version == tls.VersionTLS12 {
		return cryptoInfo12(s.Cipher, keys, seq)
	}
	return cryptoInfo(s.Cipher, keys, seq)
}

// Directions say of each direction why it cannot be had; nil: it can.
type Directions struct {
	TX, RX error
}

// Capabilities say what this kernel's TLS can do, found by trying it. An error
// says why something is not to be had, and nil that it is.
type Capabilities struct {
	// ULP is about TCP_ULP "tls"; without it nothing else was tried.
	ULP error
	// Ciphers is about TLS 1.3 in both directions: whether they took keys and
	// gave them back. The errors are *[InstallError]s.
	Ciphers map[Cipher]error
	// Suites is about each version, cipher and direction.
	Suites map[Suite]Directions
	// Rekey is about replacing keys, which a KeyUpdate of TLS 1.3 needs.
	Rekey error
	// ZeroCopySendfile, ExpectNoPad and PayloadLimit are about TLS_TX_ZEROCOPY_RO,
	// TLS_RX_EXPECT_NO_PAD and TLS_TX_MAX_PAYLOAD_LEN. That the first is taken
	// does not mean that it has an effect: see [ZeroCopySendfile].
	ZeroCopySendfile, ExpectNoPad, PayloadLimit error
}

var errUntried = errors.New("not tried")

// Usable returns nil when the kernel can take over sessions of TLS 1.3 with c.
func (c Capabilities) Usable(cipher Cipher) error {
	if c.ULP != nil {
		return c.ULP
	}
	err, tried := c.Ciphers[cipher]
	if !tried {
		return fmt.Errorf("cipher %v was not tried", cipher)
	}
	return err
}
