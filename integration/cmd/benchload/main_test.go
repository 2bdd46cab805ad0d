// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/bench"
	"rpctls/rpc/rpctest"
)

// server starts one that insists on certificates, and returns the flags for
// it.
func server(t *testing.T) []string {
	t.Helper()
	ca := certstest.MustCA(t, certstest.CAOptions{})
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	cert := ca.MustIssue(t, certstest.Options{DNS: []string{"server.test"}})
	address := (&rpctest.Server{TLS: &tls.Config{
		Certificates: []tls.Certificate{cert.TLS()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}}).Start(t)
	dir := t.TempDir()
	ca.MustIssue(t, certstest.Options{}).MustWriteFiles(t, dir)
	return []string{
		"-address", address, "-name", "server.test", "-ca", filepath.Join(dir, "ca.pem"),
		"-cert", filepath.Join(dir, "cert.pem"), "-key", filepath.Join(dir, "key.pem"),
	}
}

func measure(t *testing.T, args ...string) *bench.Load {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), args, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	l := new(bench.Load)
	if err := json.Unmarshal(stdout.Bytes(), l); err != nil {
		t.Fatalf("%v: %s", err, stdout.String())
	}
	return l
}

func TestLoad(t *testing.T) {
	args := server(t)
	for _, tt := range []struct {
		name string
		args []string
		ok   int
	}{
		{"as fast as can be", []string{"-clients=3", "-total=10"}, 10},
		{"at a pace", []string{"-clients=2", "-total=5", "-interval=10ms"}, 5},
		{"each of its own", []string{"-clients=5", "-total=5", "-interval=20ms"}, 5},
		{"from an address", []string{"-total=2", "-source=127.0.0.1"}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := measure(t, append(args, tt.args...)...)
			if l.OK != tt.ok || l.Total() != tt.ok || len(l.Latencies) != tt.ok || l.Elapsed <= 0 {
				t.Errorf("%+v, want %d successes", l, tt.ok)
			}
		})
	}
	t.Run("some time long", func(t *testing.T) {
		if l := measure(t, append(args, "-duration=50ms")...); l.OK == 0 || l.OK != l.Total() {
			t.Errorf("%+v", l)
		}
	})
}

// Nothing is tried again, and the step is told.
func TestLost(t *testing.T) {
	args := server(t)
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"another name", []string{"-name=other.test"}, "handshake: certificate"},
		{"nobody there", []string{"-address=" + unused(t)}, "connect: refused"},
		{"silence", []string{"-address=" + silent(t), "-timeout=50ms"}, "probe: timeout"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := measure(t, append(append(args, "-total=3"), tt.args...)...)
			if l.OK != 0 || l.Failed[tt.want] != 3 || len(l.Failed) != 1 || len(l.Examples) != 1 {
				t.Errorf("%+v, want 3 of %q", l, tt.want)
			}
		})
	}
}

// unused returns an address where nobody listens.
func unused(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silent returns an address where nobody answers.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

func TestAttack(t *testing.T) {
	o, err := parse([]string{"-stall", "-clients=3", "-ready=2", "-address", server(t)[1]}, new(bytes.Buffer))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ready := 0
	a := o.attack(ctx, func() { ready++; cancel() })
	if ready != 1 || a.Connections < 2 || a.Promised < 2 || a.HungUp != 0 {
		t.Errorf("ready %d times: %+v", ready, a)
	}
}

func TestWrite(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if l := measure(t, "-write="+name, "-total=3"); l.OK != 3 {
		t.Errorf("%+v", l)
	}
	if text, err := os.ReadFile(name); err != nil || string(text) != "0\n1\n2\n" {
		t.Errorf("%q, %v", text, err)
	}
	if l := measure(t, "-write="+name+"/impossible", "-total=2"); l.OK != 0 || l.Failed["write: other"] != 2 {
		t.Errorf("%+v", l)
	}
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", nil, "-address is missing"},
		{"no end", []string{"-address=a:1"}, "-total or -duration is missing"},
		{"no clients", []string{"-address=a:1", "-clients=0", "-total=1"}, "must be positive"},
		{"an argument", []string{"-address=a:1", "-total=1", "x"}, `unexpected argument "x"`},
		{"a bad source", []string{"-address=a:1", "-total=1", "-source=x"}, "-source: "},
		{"a bad curve", []string{"-address=a:1", "-total=1", "-curve=x"}, `-curve "x" is not known`},
		{"no trust", []string{"-address=a:1", "-total=1", "-ca=/nonexistent"}, "-ca: "},
	} {
		_, err := parse(tt.args, new(bytes.Buffer))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}
