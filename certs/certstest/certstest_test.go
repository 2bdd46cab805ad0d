// SPDX-License-Identifier: BSD-3-Clause

package certstest_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

func TestWriteFiles(t *testing.T) {
	dir := t.TempDir()
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	host := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"}).MustIssue(t, certstest.Options{DNS: []string{"nfs.example"}})
	host.MustWriteFiles(t, dir)
	host.MustWriteFiles(t, dir) // over the first ones
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(entry.Name(), " ", info.Mode()))
	}
	want := []string{"ca.pem -rw-r--r--", "cert.pem -rw-r--r--", "key.pem -rw-------"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots, middle := x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) || len(pair.Certificate) != 2 {
		t.Fatalf("no root, or a chain of %d, want 2", len(pair.Certificate))
	}
	middle.AddCert(host.CA.Cert)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: middle, DNSName: "nfs.example"}); err != nil {
		t.Error(err)
	}
}

func TestIssue(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	private := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
	host := ca.MustIssue(t, certstest.Options{
		IPs: []string{"192.0.2.1"}, URIs: []string{"spiffe://example/nfs"},
		EKU: []asn1.ObjectIdentifier{certstest.ServerAuth, certstest.RPCTLSServer, private},
	})
	type summary struct {
		Subject, IP, URI string
		EKU              []x509.ExtKeyUsage
		Unknown          []asn1.ObjectIdentifier
		KeyUsage         x509.KeyUsage
	}
	want := summary{"", "192.0.2.1", "spiffe://example/nfs", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		[]asn1.ObjectIdentifier{certstest.RPCTLSServer, private}, x509.KeyUsageDigitalSignature}
	cert := host.Cert
	got := summary{cert.Subject.String(), cert.IPAddresses[0].String(), cert.URIs[0].String(), cert.ExtKeyUsage, cert.UnknownExtKeyUsage, cert.KeyUsage}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("certificate (-want +got):\n%s", diff)
	}
	for name, o := range map[string]certstest.Options{
		"bad address":  {IPs: []string{"nfs"}},
		"bad URI":      {URIs: []string{":"}},
		"bad key type": {KeyType: "dsa"},
	} {
		if _, err := ca.Issue(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCRL(t *testing.T) {
	now := time.Now().Truncate(time.Second).UTC()
	ca := certstest.MustCA(t, certstest.CAOptions{})
	list, err := x509.ParseRevocationList(ca.MustCRL(t, []*big.Int{big.NewInt(7)}, now, now.Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(ca.Cert); err != nil {
		t.Error(err)
	}
	got := fmt.Sprint(len(list.RevokedCertificateEntries), list.RevokedCertificateEntries[0].SerialNumber, list.ThisUpdate.Equal(now), list.NextUpdate.Sub(now))
	if diff := cmp.Diff("1 7 true 1h0m0s", got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestKeyPEMRefusesWhatDoesNotFit(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	ec := ca.MustIssue(t, certstest.Options{})
	ed := ca.MustIssue(t, certstest.Options{KeyType: certstest.Ed25519})
	for name, try := range map[string]func() ([]byte, error){
		"EC as PKCS #1":    func() ([]byte, error) { return ec.KeyPEM(certstest.PKCS1) },
		"Ed25519 as SEC 1": func() ([]byte, error) { return ed.KeyPEM(certstest.SEC1) },
		"unknown format":   func() ([]byte, error) { return ec.KeyPEM("jwk") },
	} {
		if _, err := try(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
