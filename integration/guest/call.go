// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"rpctls/rpc"
)

// CallOverTLS is an NFS client without the kernel's: it connects from h to the
// server at an address, asks for TLS, shows its certificate, and gets the
// answer to one call over the session. It does not look at the server's
// certificate, and it may be called from any goroutine.
func CallOverTLS(h *Host, to netip.Addr, cert tls.Certificate) error {
	ctx, cancel := context.WithTimeout(context.Background(), CommandLimit)
	defer cancel()
	var conn net.Conn
	var err error
	if derr := h.Do(func() { conn, err = net.Dial("tcp", netip.AddrPortFrom(to, 2049).String()) }); derr != nil || err != nil {
		return errors.Join(derr, err)
	}
	defer conn.Close()
	if err := rpc.Probe(ctx, conn, rpc.ProgramNFS, rpc.NFSVersion4); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	session := tls.Client(conn, &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, NextProtos: []string{rpc.ALPN}})
	if err := session.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	client := rpc.NewClient(session, rpc.Config{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4})
	defer client.Close()
	if err := client.Null(ctx); err != nil {
		return fmt.Errorf("first request: %w", err)
	}
	return nil
}
