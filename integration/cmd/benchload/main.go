// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"rpctls/rpc"
)

// options are the flags.
type options struct {
	address  string
	clients  int
	total    int
	duration time.Duration
	interval time.Duration
	timeout  time.Duration
	sources  []net.Addr // to connect from, in turn; none: the kernel's choice
	stall    bool
	ready    int
	write    string // file
	tls      *tls.Config
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "benchload: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	var result any
	switch {
	case o.write != "":
		result = o.writeFile(ctx)
	case o.stall:
		result = o.attack(ctx, func() { fmt.Fprintln(stderr, "benchload: stalling") })
	default:
		result = o.load(ctx)
	}
	return json.NewEncoder(stdout).Encode(result)
}

var curves = map[string]tls.CurveID{
	"X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "X25519MLKEM768": tls.X25519MLKEM768,
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	flags := flag.NewFlagSet("benchload", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.address, "address", "", "`host:port` of the server")
	flags.IntVar(&o.clients, "clients", 1, "how many connections at a time")
	flags.IntVar(&o.total, "total", 0, "how many connections in all; 0 is no limit")
	flags.DurationVar(&o.duration, "duration", 0, "begin no connection after this time; 0 is no limit")
	flags.DurationVar(&o.interval, "interval", 0, "time from one connection of a client to its next; 0 is none")
	flags.DurationVar(&o.timeout, "timeout", 20*time.Second, "limit for one connection")
	flags.BoolVar(&o.stall, "stall", false, "attack: probe, then say nothing")
	flags.IntVar(&o.ready, "ready", 12, "say so when this many clients stall")
	flags.StringVar(&o.write, "write", "", "do not connect: write to this `file` again and again")
	ca := flags.String("ca", "", "PEM `file` of who vouches for the server")
	cert := flags.String("cert", "", "PEM `file` with the client's certificate")
	key := flags.String("key", "", "PEM `file` with its key")
	name := flags.String("name", "", "`name` that the server's certificate must have")
	// What all peers have: crypto/tls alone would take a hybrid with ML-KEM,
	// which tlshd may not have, and two servers would not do the same work.
	curve := flags.String("curve", "X25519", "key exchange `group`")
	sources := flags.String("source", "", "local `addresses` to connect from in turn, with commas")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case o.write == "" && o.address == "":
		return nil, errors.New("-address is missing")
	case flags.NArg() != 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case o.clients < 1 || o.total < 0:
		return nil, errors.New("-clients and -total must be positive")
	case !o.stall && o.total == 0 && o.duration == 0:
		return nil, errors.New("-total or -duration is missing")
	}
	for s := range strings.FieldsFuncSeq(*sources, func(r rune) bool { return r == ',' }) {
		addr, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("-source: %w", err)
		}
		o.sources = append(o.sources, net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	}
	if o.stall || o.write != "" {
		return o, nil
	}
	id, ok := curves[*curve]
	if !ok {
		return nil, fmt.Errorf("-curve %q is not known", *curve)
	}
	text, err := os.ReadFile(*ca)
	if err != nil {
		return nil, fmt.Errorf("-ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("-ca: %s: no certificate", *ca)
	}
	identity, err := tls.LoadX509KeyPair(*cert, *key)
	if err != nil {
		return nil, fmt.Errorf("-cert, -key: %w", err)
	}
	o.tls = &tls.Config{
		ServerName: *name, RootCAs: pool, Certificates: []tls.Certificate{identity}, NextProtos: []string{rpc.ALPN},
		MinVersion: tls.VersionTLS13, CurvePreferences: []tls.CurveID{id},
	}
	return o, nil
}
