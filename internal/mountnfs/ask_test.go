// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"rpctls/internal/clientask"
	"rpctls/internal/why"
	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

// What -check says is the reason why it does not run; what is not said is not
// made up.
func TestRefusal(t *testing.T) {
	program := filepath.Join(t.TempDir(), "rpctlscd")
	old := checker
	checker = func() string { return program }
	t.Cleanup(func() { checker = old })
	if got := refusal("x"); got != "" {
		t.Errorf("without the program: %q", got)
	}
	for _, tt := range []struct{ script, want string }{
		{"echo rpctlscd: $3: ok", ""},
		{"echo 'rpctlscd: warning: it runs out' >&2; echo \"rpctlscd: $3: no key\" >&2; exit 1", "x.toml: no key"},
		{"echo 'rpctlscd: flag' >&2; exit 2", ""},
		{"echo something else >&2; exit 1", ""},
		{"yes 'rpctlscd: a\a' | head -c 100000 >&2; exit 1", "a "},
	} {
		if err := os.WriteFile(program, []byte("#!/bin/sh\n"+tt.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if got := refusal("x.toml"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.script, got, tt.want)
		}
	}
}

func TestOffered(t *testing.T) {
	old := nfsPort
	t.Cleanup(func() { nfsPort = old })
	server, _ := rpctest.TLSConfigs(t)
	for _, tt := range []struct {
		name   string
		server rpctest.Server
		want   string
	}{
		{"no TLS", rpctest.Server{}, why.NoTLS.What},
		{"TLS", rpctest.Server{TLS: server}, ""},
		{"no NFSv4", rpctest.Server{Probe: func(c *rpc.Call) *rpc.Reply {
			return &rpc.Reply{XID: c.XID, Verf: rpc.OpaqueAuth{Body: []byte("STARTTLS")}, AcceptStat: rpc.ProgMismatch, Low: 3, High: 3}
		}}, "the server on port"},
	} {
		addr := netip.MustParseAddrPort(tt.server.Start(t))
		nfsPort = addr.Port()
		got, ok := offered(clientask.Server{Name: "server.test", Addresses: []netip.Addr{addr.Addr()}})
		if ok != (tt.want != "") || len(got.What) < len(tt.want) || got.What[:len(tt.want)] != tt.want {
			t.Errorf("%s: %q, %v", tt.name, got.What, ok)
		}
	}
}
