// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

func block(kind string, data []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data})
}

// join never appends to its first argument's array.
func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func loadIdentity(t testing.TB, cert, key []byte) (*certs.Identity, string, error) {
	t.Helper()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "cert.pem"), cert, 0o644)
	put(t, filepath.Join(dir, "key.pem"), key, 0o600)
	id, err := certs.LoadIdentity(new(certs.Files), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"))
	return id, dir, err
}

func TestLoadIdentityRefuses(t *testing.T) {
	root := certstest.MustCA(t, certstest.CAOptions{CommonName: "root"})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	stranger := certstest.MustCA(t, certstest.CAOptions{CommonName: "middle"}) // same name, other key
	host := middle.MustIssue(t, certstest.Options{CommonName: "host"})
	other := middle.MustIssue(t, certstest.Options{CommonName: "other"})
	small := middle.MustIssue(t, certstest.Options{KeyType: certstest.RSA, RSABits: 1024})
	p224 := middle.MustIssue(t, certstest.Options{KeyType: certstest.ECP224})
	x25519, err := ecdh.X25519().GenerateKey(rand.Reader)
	must(t, err)
	x25519DER, err := x509.MarshalPKCS8PrivateKey(x25519)
	must(t, err)

	chain, leaf := host.CertPEM(), certstest.CertPEM(host.Cert)
	key := host.MustKeyPEM(t, certstest.PKCS8)
	legacy := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("x"),
		Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-128-CBC,00"}})
	damaged := bytes.Replace(certstest.CertPEM(middle.Cert), []byte("\n"), []byte("\n!"), 1)
	const certFile, keyFile = "cert.pem", "key.pem"

	tests := []struct {
		name      string
		cert, key []byte
		is        error
		want      []string
	}{
		{"certificate file without PEM", []byte("hello"), key, nil, []string{certFile, "no PEM block"}},
		{"certificate file in DER", host.Cert.Raw, key, nil, []string{certFile, "no PEM block", "DER"}},
		{"certificate file is empty", nil, key, nil, []string{certFile, "empty"}},
		{"damaged certificate is not skipped", join(leaf, damaged), key, nil, []string{certFile, "PEM block 2: malformed"}},
		{"damaged certificate before a good one", join(damaged, leaf), key, nil, []string{certFile, "PEM block 1: malformed"}},
		{"truncated certificate", chain[:len(chain)-30], key, nil, []string{certFile, "PEM block 2: malformed"}},
		{"certificate of nonsense", block("CERTIFICATE", []byte("x")), key, nil, []string{certFile, "PEM block 1: parse certificate"}},
		{"key in the certificate file", join(leaf, key), key, nil, []string{certFile, "PEM block 2", "private key in a certificate file"}},
		{"other block in the certificate file", join(leaf, block("X509 CRL", []byte("x"))), key, nil, []string{certFile, "PEM block 2", `"X509 CRL"`}},
		{"too many certificates", bytes.Repeat(leaf, 11), key, nil, []string{certFile, "PEM block 11", "more than 10"}},
		{"chain with the leaf last", join(certstest.CertPEM(middle.Cert), leaf), key, certs.ErrKeyMismatch, []string{certFile, "belongs to PEM block 2", "leaf has to come first"}},
		{"chain with a gap", join(leaf, root.PEM()), key, nil, []string{"PEM block 2 (CN=root) is out of place", `"CN=middle"`}},
		{"chain with a namesake", join(leaf, stranger.PEM()), key, nil, []string{"PEM block 2 (CN=middle) is out of place", "did not sign block 1"}},
		{"chain with a stranger at the end", join(chain, other.CertPEM()), key, nil, []string{"PEM block 3 (CN=other) is out of place"}},
		{"key of another certificate", chain, other.MustKeyPEM(t, certstest.PKCS8), certs.ErrKeyMismatch, []string{certFile, keyFile, "CN=host"}},
		{"key file without PEM", chain, []byte("hello"), nil, []string{keyFile, "no PEM block"}},
		{"key file with a certificate", chain, leaf, nil, []string{keyFile, "PEM block 1", `"CERTIFICATE" where a private key`}},
		{"key file with a certificate behind", chain, join(key, leaf), nil, []string{keyFile, "PEM block 2", "one key per file"}},
		{"two keys", chain, join(key, key), nil, []string{keyFile, "PEM block 2", "one key per file"}},
		{"key encrypted, PKCS #8", chain, block("ENCRYPTED PRIVATE KEY", []byte("x")), certs.ErrEncryptedKey, []string{keyFile, "PEM block 1", "encrypted"}},
		{"key encrypted, by openssl's older way", chain, legacy, certs.ErrEncryptedKey, []string{keyFile, "PEM block 1", "encrypted"}},
		{"key of nonsense", chain, block("PRIVATE KEY", []byte("x")), nil, []string{keyFile, "PEM block 1: parse private key"}},
		{"parameters without a key", chain, block("EC PARAMETERS", []byte("x")), nil, []string{keyFile, "no private key"}},
		{"parameters behind the key", chain, join(key, block("EC PARAMETERS", []byte("x"))), nil, []string{keyFile, "PEM block 2", "one key per file"}},
		{"RSA key of 1024 bits", small.CertPEM(), small.MustKeyPEM(t, certstest.PKCS1), nil, []string{keyFile, "RSA key of 1024 bits"}},
		{"key on P-224", p224.CertPEM(), p224.MustKeyPEM(t, certstest.SEC1), nil, []string{keyFile, "P-224"}},
		{"key that cannot sign", chain, block("PRIVATE KEY", x25519DER), nil, []string{keyFile, "cannot sign"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			id, dir, err := loadIdentity(t, tt.cert, tt.key)
			wantErr(t, err, append(tt.want, dir)...)
			if tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error %q is not %q", err, tt.is)
			}
			if id != nil {
				t.Error("identity returned with an error")
			}
		})
	}
	t.Run("key readable by others", func(t *testing.T) {
		dir := t.TempDir()
		host.MustWriteFiles(t, dir)
		path := put(t, filepath.Join(dir, "key.pem"), key, 0o640|0o004)
		_, err := certs.LoadIdentity(new(certs.Files), filepath.Join(dir, "cert.pem"), path)
		wantErr(t, err, path, "chmod 0600")
		if !errors.Is(err, certs.ErrKeyPermission) {
			t.Error("does not wrap ErrKeyPermission")
		}
	})
}

// Each kind of key, in each encoding, has to carry a TLS 1.3 handshake.
func TestLoadIdentity(t *testing.T) {
	root := certstest.MustCA(t, certstest.CAOptions{})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle"})
	tests := []struct {
		kind    certstest.KeyType
		formats []certstest.KeyFormat
	}{
		{certstest.EC, []certstest.KeyFormat{certstest.PKCS8, certstest.SEC1, certstest.SEC1Params}},
		{certstest.ECP384, []certstest.KeyFormat{certstest.PKCS8, certstest.SEC1}},
		{certstest.RSA, []certstest.KeyFormat{certstest.PKCS8, certstest.PKCS1}},
		{certstest.Ed25519, []certstest.KeyFormat{certstest.PKCS8}},
	}
	for _, tt := range tests {
		host := middle.MustIssue(t, certstest.Options{CommonName: "host", DNS: []string{"nfs.example"}, KeyType: tt.kind})
		for _, format := range tt.formats {
			t.Run(fmt.Sprint(tt.kind, " ", format), func(t *testing.T) {
				text := []byte("Bag Attributes\n    friendlyName: host\n")
				id, dir, err := loadIdentity(t, join(text, host.CertPEM()), host.MustKeyPEM(t, format))
				must(t, err)
				type summary struct {
					Subject, Fingerprint, Cert, Key string
					Begin, End                      time.Time
					Chain                           int
				}
				want := summary{"CN=host", certs.Fingerprint(host.Cert), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), host.Cert.NotBefore, host.Cert.NotAfter, 2}
				got := summary{id.Subject(), id.Fingerprint(), id.CertificatePath(), id.KeyPath(), id.NotBefore(), id.NotAfter(), len(id.Certificate().Certificate)}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("identity (-want +got):\n%s", diff)
				}
				if !id.Leaf().Equal(host.Cert) {
					t.Error("leaf is another certificate")
				}
				handshake(t, id, root)
			})
		}
	}
}

func handshake(t *testing.T, id *certs.Identity, root *certstest.CA) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(root.Cert)
	left, right := net.Pipe()
	defer left.Close()
	defer right.Close()
	done := make(chan error, 1)
	go func() {
		done <- tls.Server(right, &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{*id.Certificate()}}).Handshake()
	}()
	must(t, tls.Client(left, &tls.Config{RootCAs: pool, ServerName: "nfs.example"}).Handshake())
	must(t, <-done)
}

func TestKeyBuffersAreWiped(t *testing.T) {
	key := certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{}).MustKeyPEM(t, certstest.PKCS8)
	for _, kind := range []string{"PRIVATE KEY", "EC PRIVATE KEY", "NOTE"} {
		block, _ := pem.Decode(key)
		block.Type = kind
		certs.ParseKeyBlock(block)
		if slices.ContainsFunc(block.Bytes, func(b byte) bool { return b != 0 }) {
			t.Errorf("%s: the decoded block still holds the key", kind)
		}
	}
	for name, data := range map[string][]byte{"parsed": key, "refused": []byte("-----BEGIN PRIVATE KEY-----\nsecret")} {
		certs.ParseKey(data)
		if slices.ContainsFunc(data, func(b byte) bool { return b != 0 }) {
			t.Errorf("%s: the buffer still holds the key", name)
		}
	}
}

func TestIdentityDoesNotPrintItsKey(t *testing.T) {
	for _, kind := range []certstest.KeyType{certstest.EC, certstest.Ed25519} {
		host := certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{CommonName: "host", KeyType: kind})
		id, _, err := loadIdentity(t, host.CertPEM(), host.MustKeyPEM(t, certstest.PKCS8))
		must(t, err)
		var raw []byte
		switch key := host.Key.(type) {
		case *ecdsa.PrivateKey:
			raw, err = key.Bytes()
			must(t, err)
		case ed25519.PrivateKey:
			raw = key.Seed()
		}
		scalar := new(big.Int).SetBytes(raw)
		secrets := []string{
			fmt.Sprintf("%x", raw), strings.Trim(fmt.Sprint(raw), "[]"), scalar.String(),
			strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", raw), "[]byte"), "{}"),
			base64.StdEncoding.EncodeToString(raw[:30]), // a multiple of 3: also the beginning of a longer one
		}
		type holder struct{ hidden certs.Identity }
		for _, value := range []any{id, *id, holder{*id}, id.Certificate(), *id.Certificate()} {
			var texts []string
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
				texts = append(texts, fmt.Sprintf(verb, value))
			}
			encoded, err := json.Marshal(value)
			must(t, err)
			texts = append(texts, string(encoded))
			for _, text := range texts {
				for _, secret := range secrets {
					if strings.Contains(text, secret) {
						t.Errorf("%s: printing or encoding a %T shows the key", kind, value)
					}
				}
			}
		}
		got, err := json.Marshal(map[string]any{"identity": id})
		must(t, err)
		want := fmt.Sprintf(`{"identity":"CN=host (SHA-256 %s)"}`, id.Fingerprint())
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("JSON (-want +got):\n%s", diff)
		}
	}
}

func TestIdentityWarnings(t *testing.T) {
	begin := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	end := begin.AddDate(0, 3, 0)
	root := certstest.MustCA(t, certstest.CAOptions{NotBefore: begin, NotAfter: begin.AddDate(9, 0, 0)})
	middle := root.MustIntermediate(t, certstest.CAOptions{CommonName: "middle", NotBefore: begin, NotAfter: end.AddDate(0, 0, 20)})
	tests := []struct {
		name string
		o    certstest.Options
		now  time.Time
		want []string
	}{
		{"all is well", certstest.Options{}, end.AddDate(0, 0, -14), nil},
		{"soon", certstest.Options{}, end.AddDate(0, 0, -13), []string{"PEM block 1 (CN=host): expires in 13 days, 2030-04-01T00:00:00Z"}},
		{"not yet", certstest.Options{}, begin.Add(-time.Second), []string{
			"PEM block 1 (CN=host): not yet valid, begins 2030-01-01T00:00:00Z",
			"PEM block 2 (CN=middle): not yet valid, begins 2030-01-01T00:00:00Z"}},
		{"over, and the issuer soon", certstest.Options{}, end.AddDate(0, 0, 10), []string{
			"PEM block 1 (CN=host): expired 2030-04-01T00:00:00Z",
			"PEM block 2 (CN=middle): expires in 10 days, 2030-04-21T00:00:00Z"}},
		{"key usage", certstest.Options{KeyUsage: x509.KeyUsageKeyEncipherment}, begin, []string{
			"PEM block 1 (CN=host): key usage lacks digitalSignature, which TLS 1.3 needs; peers will refuse it"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.CommonName, tt.o.NotBefore, tt.o.NotAfter = "host", begin, end
			host := middle.MustIssue(t, tt.o)
			id, dir, err := loadIdentity(t, host.CertPEM(), host.MustKeyPEM(t, certstest.PKCS8))
			must(t, err)
			got := id.Warnings(tt.now)
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], filepath.Join(dir, "cert.pem")+": ")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
		})
	}
}
