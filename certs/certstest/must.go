// SPDX-License-Identifier: BSD-3-Clause

package certstest

import (
	"math/big"
	"time"
)

// Must returns v, or ends the test if err is not nil.
func Must[T any](tb TB, v T, err error) T {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// MustCA is [NewCA].
func MustCA(tb TB, o CAOptions) *CA {
	tb.Helper()
	ca, err := NewCA(o)
	return Must(tb, ca, err)
}

// MustIntermediate is [CA.Intermediate].
func (ca *CA) MustIntermediate(tb TB, o CAOptions) *CA {
	tb.Helper()
	below, err := ca.Intermediate(o)
	return Must(tb, below, err)
}

// MustIssue is [CA.Issue].
func (ca *CA) MustIssue(tb TB, o Options) *Pair {
	tb.Helper()
	p, err := ca.Issue(o)
	return Must(tb, p, err)
}

// MustCRL is [CA.CRL].
func (ca *CA) MustCRL(tb TB, serials []*big.Int, thisUpdate, nextUpdate time.Time) []byte {
	tb.Helper()
	der, err := ca.CRL(serials, thisUpdate, nextUpdate)
	return Must(tb, der, err)
}

// MustKeyPEM is [Pair.KeyPEM].
func (p *Pair) MustKeyPEM(tb TB, format KeyFormat) []byte {
	tb.Helper()
	data, err := p.KeyPEM(format)
	return Must(tb, data, err)
}

// MustWriteFiles is [Pair.WriteFiles].
func (p *Pair) MustWriteFiles(tb TB, dir string) {
	tb.Helper()
	if err := p.WriteFiles(dir); err != nil {
		tb.Fatal(err)
	}
}
