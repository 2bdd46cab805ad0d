// SPDX-License-Identifier: BSD-3-Clause

package index

import (
	"crypto/rand"
	"fmt"
	"math/big"
)

// SerialDigits is the length of a serial number in hexadecimal digits.
const SerialDigits = 32

// NewSerial returns a random positive number of 128 bits, in at most 17 octets
// (RFC 5280 section 4.1.2.2 allows 20). Nobody can foresee it, which is what
// kept signatures with a weak hash safe and costs nothing.
func NewSerial() *big.Int {
	var b [SerialDigits / 2]byte
	for {
		rand.Read(b[:]) // never fails, see crypto/rand
		if n := new(big.Int).SetBytes(b[:]); n.Sign() > 0 {
			return n
		}
	}
}

// SerialOf spells a serial number: hexadecimal, in lower case, with leading
// zeros. Those of other CAs may be longer.
func SerialOf(n *big.Int) string { return fmt.Sprintf("%0*x", SerialDigits, n) }
