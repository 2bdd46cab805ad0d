// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package forward

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resolvedSocket is where systemd-resolved answers programs, see
// systemd-resolved.service(8) and "varlinkctl introspect".
const resolvedSocket = "/run/systemd/resolve/io.systemd.Resolve"

// System looks names up as this host does: it asks systemd-resolved, if that
// runs, over a Unix socket, which is all that a daemon's sandbox allows; else it
// reads /etc/hosts and asks the name servers in /etc/resolv.conf, for which the
// sandbox must let it.
//
// Only DNS and /etc/hosts count: LLMNR and mDNS, which resolved could ask, too,
// believe whoever answers on the link. Search domains are for names without dots.
func System() Resolver { return system{resolvedSocket} }

type system struct{ socket string }

// LookupAddresses implements [Resolver].
func (s system) LookupAddresses(ctx context.Context, name string) ([]netip.Addr, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.socket)
	if err == nil {
		defer conn.Close()
		return askResolved(ctx, conn, name)
	}
	r := net.Resolver{PreferGo: true}
	absolute := name
	if strings.Contains(name, ".") {
		absolute += "."
	}
	addrs, err := r.LookupNetIP(ctx, "ip", absolute)
	if err != nil && possible(s.socket) != nil {
		if dns, ok := errors.AsType[*net.DNSError](err); ok && !dns.IsNotFound {
			err = fmt.Errorf("%w (%w)", err, errSandbox)
		}
	}
	return addrs, err
}

var errSandbox = errors.New("this daemon may not ask name servers: systemd-resolved does not run, and the unit's RestrictAddressFamilies= has no AF_INET")

// CanLookUp returns nil, or why System can do no more than read /etc/hosts.
func CanLookUp() error { return possible(resolvedSocket) }

// possible is CanLookUp for a socket of systemd-resolved elsewhere.
func possible(socket string) error {
	if _, err := os.Stat(socket); err == nil {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == unix.EAFNOSUPPORT || err == unix.EPERM {
		return errSandbox
	}
	if err == nil {
		unix.Close(fd)
	}
	return nil
}

// Flags of a question to resolved (sd-resolved's "SD_RESOLVED_" numbers).
const (
	onlyDNS  = 1 << 0
	noSearch = 1 << 8
)

// maxReply bounds resolved's answer, in bytes.
const maxReply = 64 << 10

// askResolved asks for a name over a new connection. Varlink is one JSON object
// each way, with a zero byte behind.
func askResolved(ctx context.Context, conn net.Conn, name string) ([]netip.Addr, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(patience)
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	flags := onlyDNS
	if strings.Contains(name, ".") {
		flags |= noSearch
	}
	question, err := json.Marshal(map[string]any{
		"method":     "io.systemd.Resolve.ResolveHostname",
		"parameters": map[string]any{"name": name, "flags": flags},
	})
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(append(question, 0)); err != nil {
		return nil, fmt.Errorf("ask systemd-resolved: %w", err)
	}
	reply, err := bufio.NewReader(io.LimitReader(conn, maxReply)).ReadBytes(0)
	if err != nil {
		return nil, fmt.Errorf("ask systemd-resolved: %w", err)
	}
	return parseReply(reply[:len(reply)-1], name)
}

// notFound are resolved's errors that are answers, by name and, for DNSError,
// with its rcode NXDOMAIN (RFC 1035 section 4.1.1).
const (
	errNoRecord = "io.systemd.Resolve.NoSuchResourceRecord"
	errDNS      = "io.systemd.Resolve.DNSError"
	nxdomain    = 3
)

// parseReply reads resolved's answer.
func parseReply(b []byte, name string) ([]netip.Addr, error) {
	var reply struct {
		Error      string `json:"error"`
		Parameters struct {
			RCode     int `json:"rcode"`
			Addresses []struct {
				Family  int   `json:"family"`
				Address []int `json:"address"`
			} `json:"addresses"`
		} `json:"parameters"`
	}
	if err := json.Unmarshal(b, &reply); err != nil {
		return nil, fmt.Errorf("systemd-resolved's answer: %w", err)
	}
	if e := reply.Error; e != "" {
		if e == errNoRecord || e == errDNS && reply.Parameters.RCode == nxdomain {
			return nil, &net.DNSError{Err: "no such host", Name: name, Server: "systemd-resolved", IsNotFound: true}
		}
		return nil, fmt.Errorf("systemd-resolved says %.100q", e)
	}
	var addrs []netip.Addr
	for _, a := range reply.Parameters.Addresses {
		var raw []byte
		for _, octet := range a.Address {
			if octet < 0 || octet > 255 {
				return nil, errors.New("systemd-resolved's answer has an octet that is none")
			}
			raw = append(raw, byte(octet))
		}
		addr, ok := netip.AddrFromSlice(raw)
		if !ok || addr.Is4() != (a.Family == unix.AF_INET) || addr.Is6() != (a.Family == unix.AF_INET6) {
			return nil, errors.New("systemd-resolved's answer has an address that is none")
		}
		addrs = append(addrs, addr)
		if len(addrs) == maxAnswer {
			break
		}
	}
	if len(addrs) == 0 {
		return nil, errors.New("systemd-resolved's answer has no address")
	}
	return addrs, nil
}
