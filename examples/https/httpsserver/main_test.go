// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A log is what the server says.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestServe(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	ctx, cancel := context.WithCancel(t.Context())
	var said lines
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"-listen", "127.0.0.1:0", "-write-cert", ca}, &said) }()
	const mark = "listening on "
	url := ""
	for deadline := time.Now().Add(30 * time.Second); url == ""; time.Sleep(time.Millisecond) {
		if _, rest, ok := strings.Cut(said.String(), mark); ok {
			url, _, _ = strings.Cut(rest, "\n")
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not listen: %s", said.String())
		}
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	for range 2 {
		r, err := http.NewRequest(http.MethodPut, url+"x", strings.NewReader("content"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
	}
	answer, err := client.Get(url + "x")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	if err != nil || string(body) != "content" || answer.ProtoMajor != 1 {
		t.Errorf("%q, %v, %s", body, err, answer.Proto)
	}
	client.CloseIdleConnections()
	cancel()
	if c := <-code; c != 0 {
		t.Errorf("exit status %d: %s", c, said.String())
	}
	// Once for the one connection.
	if n := strings.Count(said.String(), ": TLS 1.3, "); n != 1 {
		t.Errorf("the path is said %d times:\n%s", n, said.String())
	}
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		said string
	}{
		{"--help", 0, "usage: httpsserver"},
		{"more", 2, "unexpected argument more"},
		{"-nosuch", 2, "-nosuch"},
		{"-cert x", 2, "go together"},
		{"-cert x -key y -write-cert z", 2, "-write-cert"},
		{"-no-offload -require-offload", 2, "contradict"},
		{"-cert nosuchfile -key nosuchfile", 1, "nosuchfile"},
		{"-listen nowhere", 1, "nowhere"},
		{"-listen 192.0.2.1:0", 1, "192.0.2.1"},
	} {
		var stderr bytes.Buffer
		if code := run(t.Context(), strings.Fields(tt.args), &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.said) {
			t.Errorf("%q: exit status %d, want %d, and %q in:\n%s", tt.args, code, tt.code, tt.said, stderr.String())
		}
	}
}
