// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"rpctls/examples/https/internal/uring"
	"rpctls/ktls"
)

// A Dialer makes connections.
type Dialer struct {
	Ring    *uring.Ring
	Config  *tls.Config // ServerName is that of the address if it is empty
	Options []ktls.Option
}

// DialContext resolves, connects by io_uring, makes the handshake and returns a
// [*Conn]. It fits http.Transport.DialTLSContext.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, network, service)
	if err != nil {
		return nil, err
	}
	family := map[string]string{"tcp": "ip", "tcp4": "ip4", "tcp6": "ip6"}[network]
	if family == "" {
		return nil, net.UnknownNetworkError(network)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, family, host)
	if err != nil {
		return nil, err
	}
	var conn net.Conn
	var failed []error
	for _, ip := range ips {
		if conn, err = d.connect(ctx, netip.AddrPortFrom(ip.Unmap(), uint16(port))); err == nil {
			break
		}
		failed = append(failed, fmt.Errorf("%s: %w", net.JoinHostPort(ip.Unmap().String(), strconv.Itoa(port)), err))
	}
	if conn == nil {
		return nil, errors.Join(failed...)
	}
	config := d.Config.Clone()
	if config.ServerName == "" {
		config.ServerName = host
	}
	c := ktls.Client(conn, config, d.Options...)
	if err := c.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	rc, err := New(c, d.Ring)
	if err != nil {
		c.Close()
		return nil, err
	}
	return rc, nil
}

// connect makes a socket, connects it by the ring and gives it to the network
// poller, for the handshake.
func (d *Dialer) connect(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	family := unix.AF_INET6
	if to.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close() // a net.Conn has a descriptor of its own
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := d.Ring.Connect(raw, to, ctx.Done()); err != nil {
		if cerr := context.Cause(ctx); errors.Is(err, uring.ErrAborted) && cerr != nil {
			err = cerr
		}
		return nil, err
	}
	return net.FileConn(f)
}
