// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"path/filepath"
	"testing"

	"rpctls/certs/certstest"
)

func TestConfig(t *testing.T) {
	dir := t.TempDir()
	certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{}).MustWriteFiles(t, dir)
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cfg, err := config(ca, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ClientAuth != tls.RequireAndVerifyClientCert || cfg.ClientCAs == nil {
		t.Error("clients without a good certificate are let in")
	}
	for _, tt := range []struct{ name, ca, cert, key string }{
		{"no trust", filepath.Join(dir, "none"), cert, key},
		{"trust without a certificate", key, cert, key},
		{"no identity", ca, filepath.Join(dir, "none"), key},
	} {
		if _, err := config(tt.ca, tt.cert, tt.key); err == nil {
			t.Errorf("%s: taken", tt.name)
		}
	}
}

// It ends when it is told to, without an error.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	certstest.MustCA(t, certstest.CAOptions{}).MustIssue(t, certstest.Options{}).MustWriteFiles(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, "127.0.0.1:0", filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")); err != nil {
		t.Error(err)
	}
}
