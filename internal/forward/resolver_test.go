// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package forward

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// resolved is one that gives the same reply to all questions.
func resolved(t *testing.T, reply string) (socket string, questions <-chan string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	asked := make(chan string, 1)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			q, _ := bufio.NewReader(conn).ReadString(0)
			asked <- q
			conn.Write([]byte(reply))
			conn.Close()
		}
	}()
	return socket, asked
}

func TestResolved(t *testing.T) {
	tests := []struct {
		name, reply string
		want        string
		err         string
		notFound    bool
	}{
		{
			name:  "both families",
			reply: `{"parameters":{"addresses":[{"ifindex":2,"family":2,"address":[192,0,2,1]},{"family":10,"address":[32,1,13,184,0,0,0,0,0,0,0,0,0,0,0,1]}],"name":"a.test","flags":1}}` + "\x00",
			want:  "192.0.2.1 2001:db8::1",
		},
		{name: "no such name", reply: `{"error":"io.systemd.Resolve.DNSError","parameters":{"rcode":3}}` + "\x00", err: "no such host", notFound: true},
		{name: "no such record", reply: `{"error":"io.systemd.Resolve.NoSuchResourceRecord","parameters":{}}` + "\x00", err: "no such host", notFound: true},
		{name: "a server's failure", reply: `{"error":"io.systemd.Resolve.DNSError","parameters":{"rcode":2}}` + "\x00", err: "DNSError"},
		{name: "no server", reply: `{"error":"io.systemd.Resolve.NoNameServers"}` + "\x00", err: "NoNameServers"},
		{name: "no address", reply: `{"parameters":{"addresses":[]}}` + "\x00", err: "no address"},
		{name: "half an address", reply: `{"parameters":{"addresses":[{"family":2,"address":[192,0,2]}]}}` + "\x00", err: "an address that is none"},
		{name: "another family", reply: `{"parameters":{"addresses":[{"family":10,"address":[192,0,2,1]}]}}` + "\x00", err: "an address that is none"},
		{name: "no octet", reply: `{"parameters":{"addresses":[{"family":2,"address":[192,0,2,256]}]}}` + "\x00", err: "an octet that is none"},
		{name: "no JSON", reply: "{\x00", err: "answer"},
		{name: "no end", reply: `{"parameters":{}}`, err: "EOF"},
		{name: "too much", reply: `{"a":"` + strings.Repeat("x", maxReply) + "\"}\x00", err: "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			socket, asked := resolved(t, tt.reply)
			addrs, err := system{socket}.LookupAddresses(t.Context(), "a.test")
			if q, want := <-asked, `{"method":"io.systemd.Resolve.ResolveHostname","parameters":{"flags":257,"name":"a.test"}}`+"\x00"; q != want {
				t.Errorf("asked %q", q)
			}
			var want []netip.Addr
			for a := range strings.FieldsSeq(tt.want) {
				want = append(want, netip.MustParseAddr(a))
			}
			dns, ok := errors.AsType[*net.DNSError](err)
			switch {
			case !slices.Equal(addrs, want):
				t.Errorf("%v, want %v", addrs, want)
			case (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err):
				t.Errorf("%v, want %q", err, tt.err)
			case (ok && dns.IsNotFound) != tt.notFound:
				t.Errorf("%v: found or not?", err)
			}
		})
	}
}

// Without resolved, /etc/hosts is read; this needs no network.
func TestHosts(t *testing.T) {
	addrs, err := system{filepath.Join(t.TempDir(), "none")}.LookupAddresses(t.Context(), "localhost")
	if err != nil || !slices.ContainsFunc(addrs, netip.Addr.IsLoopback) {
		t.Errorf("%v, %v", addrs, err)
	}
}

// FuzzReply: an answer is addresses or an error, and never too many.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"parameters":{"addresses":[{"family":2,"address":[192,0,2,1]}]}}`))
	f.Add([]byte(`{"error":"io.systemd.Resolve.DNSError","parameters":{"rcode":3}}`))
	f.Add([]byte(`{"parameters":{"addresses":[{"family":10,"address":[0,0,0,0,0,0,0,0,0,0,255,255,192,0,2,1]}]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		addrs, err := parseReply(b, "a.test")
		if (len(addrs) > 0) == (err != nil) || len(addrs) > maxAnswer {
			t.Errorf("%v, %v", addrs, err)
		}
		for _, a := range addrs {
			if !a.IsValid() {
				t.Error("an address that is none")
			}
		}
	})
}
