// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"
)

// What NewTrust and LoadTrust believe is the same.
func TestNewTrust(t *testing.T) {
	ca, other := certstest.MustCA(t, certstest.CAOptions{}), certstest.MustCA(t, certstest.CAOptions{})
	host := ca.MustIssue(t, certstest.Options{DNS: []string{"nfs.example"}})
	trust, err := certs.NewTrust([]*x509.Certificate{other.Cert, ca.Cert})
	if err != nil || trust.Len() != 2 {
		t.Fatal(trust, err)
	}
	if _, err := trust.Verify(host.Chain(), certs.ServerAuth, "nfs.example", time.Now()); err != nil {
		t.Error(err)
	}
	for name, list := range map[string][]*x509.Certificate{"nobody": nil, "a host": {host.Cert}} {
		if trust, err := certs.NewTrust(list); err == nil {
			t.Errorf("trust in %s: %v", name, trust)
		}
	}
}

// Each of a purpose's usages is enough for it, and for no other.
func TestUsages(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	purposes := []certs.Purpose{certs.ServerAuth, certs.ClientAuth}
	for _, p := range purposes {
		tls, rpc := p.Usages()
		for _, oid := range []asn1.ObjectIdentifier{tls, rpc} {
			cert := ca.MustIssue(t, certstest.Options{EKU: certstest.OIDs{oid}}).Cert
			for _, q := range purposes {
				if q.Allows(cert) != (q == p) {
					t.Errorf("%v allows a %v: %v", oid, q, q.Allows(cert))
				}
			}
		}
		if got, err := certs.ParsePurpose(p.String()); err != nil || got != p {
			t.Errorf("%v: %v, %v", p, got, err)
		}
	}
	if _, err := certs.ParsePurpose("unknown"); err == nil || !strings.Contains(err.Error(), "neither server nor client") {
		t.Error(err)
	}
	if tls, rpc := certs.Purpose(0).Usages(); tls != nil || rpc != nil {
		t.Error("usages for no purpose")
	}
}
