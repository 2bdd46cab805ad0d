// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"rpctls/certs"
	"rpctls/certs/certstest"
)

func der(t *testing.T, b []byte) []byte {
	t.Helper()
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatal("not PEM")
	}
	return block.Bytes
}

// What is at hand is judged as what is in files.
func TestParseIdentity(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "CA"})
	dir := t.TempDir()
	ca.MustIssue(t, certstest.Options{CommonName: "alice"}).MustWriteFiles(t, dir)
	cert, err := os.ReadFile(filepath.Join(dir, "cert.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	ca.MustIssue(t, certstest.Options{CommonName: "bob"}).MustWriteFiles(t, dir)
	other, err := os.ReadFile(filepath.Join(dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"PEM", cert, key, ""},
		{"DER", der(t, cert), der(t, key), ""},
		{"both", der(t, cert), key, ""},
		{"another key", cert, other, "the certificate with the key: " + certs.ErrKeyMismatch.Error()},
		{"another key in DER", cert, der(t, other), certs.ErrKeyMismatch.Error()},
		{"a key as certificate", key, key, "the certificate: "},
		{"a certificate as key", cert, der(t, cert), "parse private key"},
		{"nothing", nil, nil, "the certificate: "},
		{"no key", cert, nil, "the key: "},
	} {
		mine := slices.Clone(tt.key)
		id, err := certs.ParseIdentity(slices.Clone(tt.cert), "the certificate", mine, "the key")
		switch {
		case tt.want == "" && (err != nil || id.Subject() != "CN=alice"):
			t.Errorf("%s: %v, %v", tt.name, id, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if slices.ContainsFunc(mine, func(b byte) bool { return b != 0 }) {
			t.Errorf("%s: the key was not wiped", tt.name)
		}
	}
	if _, err := certs.ParseIdentity(cert, "c", other, "k"); !errors.Is(err, certs.ErrKeyMismatch) && err != nil {
		t.Error(err)
	}
}

func TestDirectories(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", ".hidden", "c"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "broken")); err != nil {
		t.Fatal(err)
	}
	var f certs.Files
	got, err := f.Directories(dir)
	if err != nil || !slices.Equal(got, []string{"a", "b", "c", "link"}) {
		t.Errorf("%q, %v", got, err)
	}
	if f.Changed() {
		t.Error("changed before anything did")
	}
	if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if !f.Changed() {
		t.Error("a new directory was not noticed")
	}
	f = certs.Files{}
	missing := filepath.Join(dir, "x", "y")
	if _, err := f.Directories(missing); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if f.Changed() {
		t.Error("what is missing has changed")
	}
	if err := os.MkdirAll(missing, 0o755); err != nil {
		t.Fatal(err)
	}
	if !f.Changed() {
		t.Error("it appeared and was not noticed")
	}
}

func FuzzParseIdentity(f *testing.F) {
	f.Add([]byte{0x30, 0x82}, []byte{0x30})
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		if id, err := certs.ParseIdentity(cert, "c", key, "k"); (id == nil) == (err == nil) {
			t.Errorf("%v, %v", id, err)
		}
		if slices.ContainsFunc(key, func(b byte) bool { return b != 0 }) {
			t.Error("the key was not wiped")
		}
	})
}
