// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"encoding/asn1"
	"math/big"

	"rpctls/certs/certstest"
)

func oids(o ...asn1.ObjectIdentifier) []asn1.ObjectIdentifier { return o }

func serials(pairs ...*certstest.Pair) (s []*big.Int) {
	for _, p := range pairs {
		s = append(s, p.Cert.SerialNumber)
	}
	return s
}
