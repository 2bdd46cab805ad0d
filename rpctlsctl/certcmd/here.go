// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// lookupTime bounds what a name server may take.
const lookupTime = 3 * time.Second

// Here returns this host's full name and its addresses.
func Here() ([]string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	name, err := fullName(host)
	if err != nil {
		return nil, err
	}
	addrs, err := Addresses()
	if err != nil {
		return nil, err
	}
	return append([]string{name}, addrs...), nil
}

// fullName is what "hostname -f" would say: from the host name itself, from
// /etc/hosts or from DNS.
func fullName(host string) (string, error) {
	if strings.Contains(host, ".") {
		return host, nil
	}
	if file, err := os.Open("/etc/hosts"); err == nil {
		defer file.Close()
		if name := fromHosts(file, host); name != "" {
			return name, nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	name, err := net.DefaultResolver.LookupCNAME(ctx, host)
	if name = strings.TrimSuffix(name, "."); err == nil && strings.HasPrefix(name, host+".") {
		return name, nil
	}
	return "", fmt.Errorf("this host calls itself %q, and neither /etc/hosts nor DNS knows its full name", host)
}

// fromHosts finds the full name of host in the format of hosts(5).
func fromHosts(r io.Reader, host string) string {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		fields := strings.Fields(text)
		for _, name := range fields[min(1, len(fields)):] {
			if strings.HasPrefix(name, host+".") && !strings.HasPrefix(name, "localhost.") {
				return name
			}
		}
	}
	return ""
}

// Addresses returns those by which other hosts may know this one.
func Addresses() ([]string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	passing := make(map[netip.Addr]bool)
	if file, err := os.Open("/proc/net/if_inet6"); err == nil {
		defer file.Close()
		if passing, err = passingAddresses(file); err != nil {
			return nil, fmt.Errorf("read /proc/net/if_inet6: %w", err)
		}
	}
	var list []string
	for _, i := range interfaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			prefix, err := netip.ParsePrefix(a.String())
			if addr := prefix.Addr(); err == nil && addr.IsGlobalUnicast() && !passing[addr] {
				list = append(list, addr.String())
			}
		}
	}
	return list, nil
}

// Flags of an IPv6 address (linux/if_addr.h) that will not be this host's for
// long: RFC 8981's for privacy, deprecated, tentative.
const passingFlags = 0x01 | 0x20 | 0x40

// passingAddresses reads the IPv6 addresses that a certificate should not name,
// in the format of /proc/net/if_inet6: address, index, prefix length, scope,
// flags, device.
func passingAddresses(r io.Reader) (map[netip.Addr]bool, error) {
	passing := make(map[netip.Addr]bool)
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 6 || len(fields[0]) != 32 {
			return nil, errors.New("unknown format")
		}
		flags, err := strconv.ParseUint(fields[4], 16, 32)
		if err != nil {
			return nil, errors.New("unknown format")
		}
		var text strings.Builder
		for i := 0; i < 32; i += 4 {
			if i > 0 {
				text.WriteByte(':')
			}
			text.WriteString(fields[0][i : i+4])
		}
		addr, err := netip.ParseAddr(text.String())
		if err != nil {
			return nil, errors.New("unknown format")
		}
		if flags&passingFlags != 0 {
			passing[addr] = true
		}
	}
	return passing, lines.Err()
}
