// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"rpctls/ktls"
	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

func main() {
	listen := flag.String("listen", ":2049", "`address` to listen on")
	ca := flag.String("ca", "", "PEM `file` of who vouches for clients")
	cert := flag.String("cert", "", "PEM `file` with the certificate")
	key := flag.String("key", "", "PEM `file` with its key")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *ca, *cert, *key); err != nil {
		fmt.Fprintf(os.Stderr, "benchlimit: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, listen, ca, cert, key string) error {
	cfg, err := config(ca, cert, key)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { l.Close() })
	fmt.Fprintf(os.Stderr, "benchlimit: listening on %v\n", l.Addr())
	server := &rpctest.Server{TLS: cfg, Handshake: handshake}
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		// The client sees what became of it.
		go func() { _ = server.ServeConn(ctx, conn) }()
	}
}

func config(ca, cert, key string) (*tls.Config, error) {
	identity, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(ca)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate", ca)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{identity},
		ClientCAs:    pool,
		ClientAuth:   tls.RequireAndVerifyClientCert,
		NextProtos:   []string{rpc.ALPN},
	}, nil
}

// patience is nfsd's with its agent.
const patience = 5 * time.Second

// handshake moves the session into the kernel: what is then read from the same
// connection has been decrypted.
func handshake(_ context.Context, conn net.Conn, cfg *tls.Config) (net.Conn, error) {
	sock, ok := conn.(*net.TCPConn)
	if !ok {
		return nil, errors.New("not a TCP connection")
	}
	session, err := ktls.Handshake(sock, ktls.RoleServer, cfg, ktls.Options{Deadline: time.Now().Add(patience)})
	if err != nil {
		return nil, err
	}
	defer session.Wipe()
	// The deadline was the handshake's alone.
	if err := errors.Join(session.Install(sock), sock.SetDeadline(time.Time{})); err != nil {
		return nil, err
	}
	return sock, nil
}
