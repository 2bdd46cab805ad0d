// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

// Command httpsserver is an HTTPS server whose TLS the kernel carries on, as far
// as it can: net/http over the listener of package ktls. It keeps what it is
// given in memory. See examples/https/README.md.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"rpctls/examples/https/internal/words"
	"rpctls/ktls"
)

const usage = `usage: httpsserver [flags]

Serves HTTPS with resources that it keeps in memory: GET, HEAD, PUT, POST (a new
one below the path), PATCH (application/merge-patch+json) and DELETE. Of each
connection it says who does its TLS: the kernel or user space, and why.

Without -cert it makes itself a certificate for localhost and the host that it
listens at, and writes it to the file that -write-cert names: a client's -ca.

examples:
  httpsserver -write-cert ca.pem
  httpsserver -listen :8443 -cert cert.pem -key key.pem

exit status: 0 after SIGINT or SIGTERM, 1 on errors, 2 if the flags are wrong

flags:
`

type options struct {
	listen, cert, key, writeCert string
	noOffload, requireOffload    bool
	limits                       limits
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("httpsserver", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.listen, "listen", "localhost:8443", "`address` to listen at")
	flags.StringVar(&o.cert, "cert", "", "certificate chain, a PEM `file`")
	flags.StringVar(&o.key, "key", "", "private key, a PEM `file`")
	flags.StringVar(&o.writeCert, "write-cert", "", "write the certificate that it makes to this `file`")
	flags.BoolVar(&o.noOffload, "no-offload", false, "leave TLS in user space")
	flags.BoolVar(&o.requireOffload, "require-offload", false, "refuse connections that the kernel cannot carry on")
	flags.Int64Var(&o.limits.body, "max-body", 16<<20, "`bytes` of one resource at most")
	flags.Int64Var(&o.limits.total, "max-total", 256<<20, "`bytes` of all resources at most")
	flags.IntVar(&o.limits.resources, "max-resources", 1000, "`number` of resources at most")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	wrong := ""
	switch {
	case flags.NArg() > 0:
		wrong = "unexpected argument " + flags.Arg(0)
	case (o.cert == "") != (o.key == ""):
		wrong = "-cert and -key go together"
	case o.cert != "" && o.writeCert != "":
		wrong = "-write-cert is for a certificate of its own making, and -cert brings one"
	case o.noOffload && o.requireOffload:
		wrong = "-no-offload and -require-offload contradict each other"
	}
	if wrong != "" {
		fmt.Fprintf(stderr, "httpsserver: %s (see -help)\n", wrong)
		return 2
	}
	if err := o.serve(ctx, stderr); err != nil {
		fmt.Fprintf(stderr, "httpsserver: %v\n", err)
		return 1
	}
	return 0
}

func (o *options) serve(ctx context.Context, stderr io.Writer) error {
	cert, err := o.certificate()
	if err != nil {
		return err
	}
	// Go listens with MPTCP, which the kernel's TLS is not for; a client that does
	// not ask for MPTCP is accepted as one of TCP all the same.
	l, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	defer l.Close()
	var opts []ktls.Option
	if o.noOffload {
		opts = append(opts, ktls.NoOffload())
	}
	if o.requireOffload {
		opts = append(opts, ktls.RequireOffload())
	}
	ll := log.New(stderr, "", 0)
	server := &http.Server{
		Handler: said(ll, newStore(o.limits)),
		// A connection's handshake is made when its first request is read.
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, &connection{conn: c.(*ktls.Conn)})
		},
		ErrorLog: ll,
	}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ended <- server.Shutdown(grace)
	}()
	ll.Printf("listening on https://%s/", l.Addr())
	config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	if err := server.Serve(ktls.NewListener(l, config, opts...)); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	if err := <-ended; err != nil {
		return errors.Join(fmt.Errorf("connections that do not end: %w", err), server.Close())
	}
	return nil
}

// connKey is under which a request's context has its connection.
type connKey struct{}

type connection struct {
	conn *ktls.Conn
	once sync.Once
}

// said says of every connection, at its first request, which path it takes.
func said(ll *log.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*connection); ok {
			c.once.Do(func() { ll.Printf("%s: %s", r.RemoteAddr, words.Path(c.conn.ConnectionState(), c.conn.Offload())) })
		}
		next.ServeHTTP(w, r)
	})
}
