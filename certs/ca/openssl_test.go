// SPDX-License-Identifier: BSD-3-Clause

package ca_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rpctls/certs"
)

// Another implementation reads what this CA makes as it was meant.
func TestOpenSSLAgrees(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("no openssl")
	}
	run := func(args ...string) (string, bool) {
		out, err := exec.Command(openssl, args...).CombinedOutput()
		return string(out), err == nil
	}
	dir := t.TempDir()
	s := newSite(t).init("example.com", "192.0.2.0/24")
	server := s.issue(certs.ServerAuth, "nfs.example.com", "192.0.2.1")
	client := s.issue(certs.ClientAuth, "client1.example.com", "user:alice@example.com")
	serverPEM, clientPEM := certPEM(t, filepath.Join(dir, "server.pem"), server.Cert), certPEM(t, filepath.Join(dir, "client.pem"), client.Cert)
	b := s.read()
	verify := []string{"verify", "-x509_strict", "-check_ss_sig", "-crl_check", "-CAfile", b.CertPath(), "-CRLfile", b.CRLPath()}

	for _, tt := range []struct {
		name string
		args []string
		ok   bool
	}{
		{"server", []string{"-purpose", "sslserver", "-verify_hostname", "nfs.example.com", serverPEM}, true},
		{"server by address", []string{"-purpose", "sslserver", "-verify_ip", "192.0.2.1", serverPEM}, true},
		{"server by another name", []string{"-purpose", "sslserver", "-verify_hostname", "other.example.com", serverPEM}, false},
		{"server as client", []string{"-purpose", "sslclient", serverPEM}, false},
		{"client", []string{"-purpose", "sslclient", clientPEM}, true},
		{"client as server", []string{"-purpose", "sslserver", clientPEM}, false},
	} {
		if out, ok := run(append(verify, tt.args...)...); ok != tt.ok {
			t.Errorf("%s: %v, want %v:\n%s", tt.name, ok, tt.ok, out)
		}
	}
	for path, wants := range map[string][]string{
		b.CertPath(): {"CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "Name Constraints: critical", "DNS:example.com", "IP:192.0.2.0/255.255.255.0", "id-ecPublicKey", "P-256"},
		serverPEM:    {"DNS:nfs.example.com, IP Address:192.0.2.1", "TLS Web Server Authentication, 1.3.6.1.5.5.7.3.34", "Subject Key Identifier", "Authority Key Identifier", "CN = nfs.example.com"},
		clientPEM:    {"TLS Web Client Authentication, 1.3.6.1.5.5.7.3.33", "othername: 1.3.6.1.4.1.2238.1.1.1::alice@example.com"},
	} {
		out, _ := run("x509", "-noout", "-text", "-in", path)
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Errorf("%s lacks %q:\n%s", filepath.Base(path), want, out)
			}
		}
	}
	s.revoke(client.Serial())
	if out, ok := run(append(verify, clientPEM)...); ok || !strings.Contains(out, "revoked") {
		t.Errorf("revoked client: %v\n%s", ok, out)
	}
	out, ok := run("crl", "-noout", "-text", "-in", b.CRLPath(), "-CAfile", b.CertPath())
	for _, want := range []string{"verify OK", "X509v3 CRL Number", "Key Compromise", "X509v3 Authority Key Identifier"} {
		if !ok || !strings.Contains(out, want) {
			t.Errorf("CRL lacks %q: %v\n%s", want, ok, out)
		}
	}
	// The exclusion of what is not permitted at all.
	only := newSite(t).init("192.0.2.0/24")
	host := certPEM(t, filepath.Join(dir, "host.pem"), only.issue(certs.ServerAuth, "192.0.2.7").Cert)
	if out, ok := run("verify", "-x509_strict", "-CAfile", only.read().CertPath(), host); !ok {
		t.Errorf("an excluded kind that is not there: %s", out)
	}
}
