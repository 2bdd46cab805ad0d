// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"bytes"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// echo answers with what it was sent, or as it is told.
func echo(t *testing.T) (url, ca string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/missing":
			http.NotFound(w, r)
		case "/never":
			<-r.Context().Done()
		default:
			w.Header().Set("Location", "/"+r.Method+"/"+r.Header.Get("Content-Type"))
			_, _ = io.Copy(w, r.Body)
		}
	}))
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.URL, ca
}

// What it says of the path depends on the machine; the rest does not.
func TestClient(t *testing.T) {
	url, ca := echo(t)
	dir := t.TempDir()
	sent, received := filepath.Join(dir, "sent"), filepath.Join(dir, "received")
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	if err := os.WriteFile(sent, body, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, way := range [][]string{nil, {"-io-uring"}, {"-no-offload"}, {"-io-uring", "-no-offload"}} {
		for _, tt := range []struct {
			args []string
			code int
			out  string
			said []string
		}{
			{[]string{"-data", "text", "-type", "text/plain", "POST", url}, 0, "text", []string{"TLS 1.3, ", "; by: ", "200 OK", "location: /POST/text/plain", "received 4 bytes"}},
			{[]string{"-data", "@" + sent, "put", url}, 0, string(body), []string{"location: /PUT/application/octet-stream"}},
			{[]string{"GET", url + "/missing"}, 3, "404 page not found\n", []string{"404 Not Found"}},
			{[]string{"HEAD", url}, 0, "", []string{"200 OK"}},
			{[]string{"-data", "@" + dir + "/nosuchfile", "PUT", url}, 1, "", []string{"nosuchfile"}},
			{[]string{"-timeout", "300ms", "GET", url + "/never"}, 1, "", []string{"no answer within 300ms (-timeout)"}},
			{[]string{"GET", "https://localhost:1/"}, 1, "", []string{"connection refused"}},
		} {
			var stdout, stderr bytes.Buffer
			args := append(append([]string{"-ca", ca}, way...), tt.args...)
			if code := run(t.Context(), args, &stdout, &stderr); code != tt.code || stdout.String() != tt.out {
				t.Errorf("%q: exit status %d, want %d; %d bytes\n%s", args, code, tt.code, stdout.Len(), stderr.String())
			}
			for _, want := range tt.said {
				if !strings.Contains(stderr.String(), want) {
					t.Errorf("%q: %q is not in\n%s", args, want, stderr.String())
				}
			}
		}
		var stderr bytes.Buffer
		if code := run(t.Context(), append(way[:len(way):len(way)], "-ca", ca, "-data", "@"+sent, "-o", received, "PUT", url), nil, &stderr); code != 0 {
			t.Errorf("exit status %d\n%s", code, stderr.String())
		}
		if got, err := os.ReadFile(received); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		said string
	}{
		{"--help", 0, "usage: httpsclient"},
		{"-h", 0, "exit status"},
		{"", 2, "want a method and a URL"},
		{"GET", 2, "want a method and a URL"},
		{"FETCH https://localhost/", 2, "method FETCH"},
		{"GET http://localhost/", 2, "no https URL"},
		{"GET https://", 2, "no https URL"},
		{"GET https://[", 2, "missing ']'"},
		{"-nosuch GET https://localhost/", 2, "-nosuch"},
		{"-no-offload -require-offload GET https://localhost/", 2, "contradict"},
		{"-ca nosuchfile GET https://localhost/", 1, "nosuchfile"},
		{"-ca main_test.go GET https://localhost/", 1, "no certificate"},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(tt.args), io.Discard, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.said) {
			t.Errorf("%q: exit status %d, want %d, and %q in:\n%s", tt.args, code, tt.code, tt.said, stderr.String())
		}
	}
}

// A request that is given up leaves nothing behind.
func TestNothingIsLeft(t *testing.T) {
	url, ca := echo(t)
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	once := func() {
		for _, path := range []string{"/", "/never"} {
			run(t.Context(), []string{"-ca", ca, "-io-uring", "-timeout", "200ms", "GET", url + path}, io.Discard, io.Discard)
		}
	}
	once()
	before := count()
	for range 5 {
		once()
	}
	// The server's side is closed by goroutines of its own.
	for deadline := time.Now().Add(10 * time.Second); count() > before; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before", count(), before)
		}
	}
}
