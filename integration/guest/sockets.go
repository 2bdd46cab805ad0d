// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
)

// A Socket is a TCP connection, of a process or of the kernel.
type Socket struct {
	State       string // as ss has it, such as "ESTAB"
	Local, Peer netip.AddrPort
	TLS         *SocketTLS // nil without kernel TLS
}

// A SocketTLS is the state of kernel TLS on a socket, in ss's words. What is
// not set up yet is empty.
type SocketTLS struct {
	Version string // "1.3"
	Cipher  string // "aes-gcm-256"
	RX, TX  string // "sw", "hw", "none"
}

// Sockets returns the host's TCP connections.
func Sockets(t testing.TB, h *Host) []Socket {
	t.Helper()
	LoadModule(t, "tcp_diag")
	sockets, err := parseSockets(mustRun(t, h, "ss", "-tnieHO"))
	if err != nil {
		t.Fatal(err)
	}
	return sockets
}

// A TLSSocket is a connection with kernel TLS.
type TLSSocket struct {
	State       string
	Local, Peer netip.AddrPort
	SocketTLS
}

// TLSSockets returns the host's connections with kernel TLS.
func TLSSockets(t testing.TB, h *Host) []TLSSocket {
	t.Helper()
	var found []TLSSocket
	for _, s := range Sockets(t, h) {
		if s.TLS != nil {
			found = append(found, TLSSocket{s.State, s.Local, s.Peer, *s.TLS})
		}
	}
	return found
}

// parseSockets reads what "ss -tnieHO" prints: a socket per line, of which
// only the first five columns have a place.
func parseSockets(text string) ([]Socket, error) {
	var sockets []Socket
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if len(fields) < 5 {
			return nil, fmt.Errorf("ss: line %q", line)
		}
		s := Socket{State: fields[0]}
		var err error
		if s.Local, err = parseAddrPort(fields[3]); err != nil {
			return nil, fmt.Errorf("ss: line %q: %w", line, err)
		}
		if s.Peer, err = parseAddrPort(fields[4]); err != nil {
			return nil, fmt.Errorf("ss: line %q: %w", line, err)
		}
		s.TLS = parseSocketTLS(fields[5:])
		sockets = append(sockets, s)
	}
	return sockets, nil
}

// parseSocketTLS reads "tcp-ulp-tls version: 1.3 cipher: aes-gcm-256 ...".
func parseSocketTLS(fields []string) *SocketTLS {
	var s *SocketTLS
	for i, f := range fields {
		if f == "tcp-ulp-tls" {
			s = new(SocketTLS)
			continue
		}
		if s == nil || i+1 == len(fields) {
			continue
		}
		switch f {
		case "version:":
			s.Version = fields[i+1]
		case "cipher:":
			s.Cipher = fields[i+1]
		case "rxconf:":
			s.RX = fields[i+1]
		case "txconf:":
			s.TX = fields[i+1]
		}
	}
	return s
}

// parseAddrPort reads an address of ss: "10.0.0.1:80", "[::1]:80",
// "[fe80::1]%eth0:80" or "*:80". An IPv4 address in IPv6's clothes is
// undressed.
func parseAddrPort(s string) (netip.AddrPort, error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return netip.AddrPort{}, fmt.Errorf("address %q has no port", s)
	}
	host := strings.NewReplacer("[", "", "]", "").Replace(s[:i])
	var port uint64
	if p := s[i+1:]; p != "*" {
		var err error
		if port, err = strconv.ParseUint(p, 10, 16); err != nil {
			return netip.AddrPort{}, fmt.Errorf("address %q: %w", s, err)
		}
	}
	if host == "*" {
		return netip.AddrPortFrom(netip.IPv6Unspecified(), uint16(port)), nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("address %q: %w", s, err)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(port)), nil
}

// CutConnections resets the host's TCP connections that an ss(8) filter
// selects, such as "sport = :2049", and returns how many there were.
func CutConnections(t testing.TB, h *Host, filter string) int {
	t.Helper()
	LoadModule(t, "tcp_diag")
	text := mustRun(t, h, "ss", append([]string{"-KtnHO"}, strings.Fields(filter)...)...)
	n := 0
	for range strings.Lines(text) {
		n++
	}
	return n
}

// TLSStat returns the host's counters of kernel TLS by name, such as
// "TlsDecryptError".
func TLSStat(t testing.TB, h *Host) map[string]uint64 {
	t.Helper()
	LoadModule(t, "tls")
	var text []byte
	var err error
	// Not /proc/net, which is that of the process's first thread.
	if e := h.Do(func() { text, err = os.ReadFile("/proc/thread-self/net/tls_stat") }); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatal(err)
	}
	counters, err := parseCounters(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return counters
}

func parseCounters(text string) (map[string]uint64, error) {
	counters := make(map[string]uint64)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 2 {
			return nil, fmt.Errorf("tls_stat: line %q", line)
		}
		n, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("tls_stat: line %q: %w", line, err)
		}
		counters[f[0]] = n
	}
	return counters, nil
}

// Ping checks that a host reaches an address.
func Ping(t testing.TB, h *Host, address netip.Addr) {
	t.Helper()
	cmd := h.Command(context.Background(), "ping", "-c", "1", "-W", "5", address.String())
	if _, err := runCommand(cmd, CommandLimit); err != nil {
		t.Fatal(err)
	}
}
