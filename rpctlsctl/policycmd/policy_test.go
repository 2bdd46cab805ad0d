// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package policycmd

import (
	"encoding/pem"
	"testing"

	"rpctls/certs/certstest"
)

// FuzzChain: a file is certificates or an error.
func FuzzChain(f *testing.F) {
	ca := certstest.MustCA(f, certstest.CAOptions{})
	pair := ca.MustIssue(f, certstest.Options{DNS: []string{"a.test"}})
	f.Add(pair.CertPEM())
	f.Add(append(pair.MustKeyPEM(f, certstest.PKCS8), pair.CertPEM()...))
	f.Add(pair.Cert.Raw)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		chain, err := parseChain(data)
		if err == nil && (len(chain) == 0 || len(chain) > maxChain) {
			t.Errorf("%d certificates", len(chain))
		}
	})
}
