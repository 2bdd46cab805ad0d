// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

// Command httpsclient is an HTTPS client whose TLS the kernel carries on, as far
// as it can: net/http over package ktls and, if asked to, over io_uring. It says
// which path it took. See examples/https/README.md.
package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"rpctls/examples/https/internal/ringconn"
	"rpctls/examples/https/internal/uring"
	"rpctls/examples/https/internal/words"
	"rpctls/ktls"
)

const usage = `usage: httpsclient [flags] METHOD URL

Makes one request (GET, HEAD, POST, PUT, PATCH, DELETE), writes what comes back to
standard output, and says on standard error who did the TLS: the kernel or user
space, for each direction, and why; and who moved the bytes.

examples:
  httpsclient -ca ca.pem -data @picture.png -type image/png PUT https://localhost:8443/picture
  httpsclient -ca ca.pem -io-uring -o copy.png GET https://localhost:8443/picture
  httpsclient -ca ca.pem -data '{"a":1}' -type application/json POST https://localhost:8443/list

exit status: 0 if the answer is below 400, 1 if there was none, 2 if the command
is wrong, 3 if the answer is 400 or more

flags:
`

// Exit statuses.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

type options struct {
	method, url               string
	ca, data, contentType, to string
	uring                     bool
	noOffload, requireOffload bool
	timeout                   time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	flags := flag.NewFlagSet("httpsclient", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&o.ca, "ca", "", "trust the certificates in this PEM `file`, and no others")
	flags.StringVar(&o.data, "data", "", "send this `text`, or the file behind an @")
	flags.StringVar(&o.contentType, "type", "application/octet-stream", "media `type` of what is sent")
	flags.StringVar(&o.to, "o", "", "write what comes back to this `file`")
	flags.BoolVar(&o.uring, "io-uring", false, "connect, read and write by io_uring, if there is one")
	flags.BoolVar(&o.noOffload, "no-offload", false, "leave TLS in user space")
	flags.BoolVar(&o.requireOffload, "require-offload", false, "fail if the kernel cannot carry on")
	flags.DurationVar(&o.timeout, "timeout", time.Minute, "give up after this `time`")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	if err := o.arguments(flags.Args()); err != nil {
		fmt.Fprintf(stderr, "httpsclient: %v (see -help)\n", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("no answer within %v (-timeout)", o.timeout))
	defer cancel()
	code, err := o.request(ctx, stdout, stderr)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		fmt.Fprintf(stderr, "httpsclient: %v\n", err)
		return exitFailed
	}
	if code >= 400 {
		return exitRefused
	}
	return exitOK
}

func (o *options) arguments(args []string) error {
	if len(args) != 2 {
		return errors.New("want a method and a URL")
	}
	o.method, o.url = strings.ToUpper(args[0]), args[1]
	u, err := url.Parse(o.url)
	switch {
	case err != nil:
		return err
	case !slices.Contains(methods, o.method):
		return fmt.Errorf("method %s: want %s", o.method, strings.Join(methods, ", "))
	case u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("%s is no https URL", o.url)
	case o.noOffload && o.requireOffload:
		return errors.New("-no-offload and -require-offload contradict each other")
	}
	return nil
}

// request makes the request and returns the status of the answer.
func (o *options) request(ctx context.Context, stdout, stderr io.Writer) (int, error) {
	config := &tls.Config{NextProtos: []string{"http/1.1"}}
	if o.ca != "" {
		text, err := os.ReadFile(o.ca)
		if err != nil {
			return 0, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return 0, fmt.Errorf("%s has no certificate in it", o.ca)
		}
	}
	body, err := o.body()
	if err != nil {
		return 0, err
	}
	d := o.dialer(config)
	defer d.close()
	transport := &http.Transport{DialTLSContext: d.dial} // ctx is all the patience there is
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, o.method, o.url, body)
	if err != nil {
		return 0, err
	}
	if body != nil {
		r.Header.Set("Content-Type", o.contentType)
	}
	answer, err := transport.RoundTrip(r)
	if c := d.made(); c != nil { // also if the answer did not come
		fmt.Fprintf(stderr, "%s\n", d.path(c))
	}
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	fmt.Fprintf(stderr, "%s\n", answer.Status)
	if l := answer.Header.Get("Location"); l != "" {
		fmt.Fprintf(stderr, "location: %s\n", l)
	}
	sum := sha256.New()
	n, err := o.save(answer.Body, stdout, sum)
	if err != nil {
		return 0, err
	}
	fmt.Fprintf(stderr, "received %d bytes, sha256 %x\n", n, sum.Sum(nil))
	if text := d.moved(); text != "" {
		fmt.Fprintf(stderr, "%s\n", text)
	}
	return answer.StatusCode, nil
}

// body returns what is sent, or nil.
func (o *options) body() (io.Reader, error) {
	name, ok := strings.CutPrefix(o.data, "@")
	switch {
	case o.data == "":
		return nil, nil
	case !ok:
		return strings.NewReader(o.data), nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	return bytes.NewReader(text), nil
}

// save writes what came back, and to sum as well.
func (o *options) save(r io.Reader, stdout, sum io.Writer) (int64, error) {
	if o.to == "" {
		return io.Copy(io.MultiWriter(stdout, sum), r)
	}
	f, err := os.Create(o.to)
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.MultiWriter(f, sum), r)
	return n, errors.Join(err, f.Close())
}

// A dialer makes the connection, and remembers it.
type dialer struct {
	dialTLS func(ctx context.Context, network, address string) (net.Conn, error)
	ring    *uring.Ring
	noRing  error // why there is none although it was asked for

	mu   sync.Mutex // net/http dials in a goroutine of its own
	conn net.Conn
}

func (o *options) dialer(config *tls.Config) *dialer {
	var opts []ktls.Option
	if o.noOffload {
		opts = append(opts, ktls.NoOffload())
	}
	if o.requireOffload {
		opts = append(opts, ktls.RequireOffload())
	}
	d := &dialer{dialTLS: (&ktls.Dialer{Config: config, Options: opts}).DialContext}
	if o.uring {
		// One read and one write at a time, and one to spare.
		if d.ring, d.noRing = uring.New(4); d.noRing == nil {
			d.dialTLS = (&ringconn.Dialer{Ring: d.ring, Config: config, Options: opts}).DialContext
		}
	}
	return d
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.dialTLS(ctx, network, address)
	if err == nil {
		d.mu.Lock()
		d.conn = conn
		d.mu.Unlock()
	}
	return conn, err
}

// made returns the connection, or nil.
func (d *dialer) made() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.conn
}

// close ends the connection before the ring that carries it.
func (d *dialer) close() {
	if c := d.made(); c != nil {
		c.Close()
	}
	if d.ring != nil {
		d.ring.Close()
	}
}

// path says which path the connection takes.
func (d *dialer) path(c net.Conn) string {
	switch c := c.(type) {
	case *ktls.Conn:
		io := "network poller"
		if d.noRing != nil {
			io += fmt.Sprintf(" (%v)", d.noRing)
		}
		return words.Path(c.ConnectionState(), c.Offload()) + "; by: " + io
	case *ringconn.Conn:
		by := "io_uring"
		if !c.Carried() {
			by = "network poller, connected by io_uring, which is for what the kernel sends and receives"
		}
		return words.Path(c.TLS().ConnectionState(), c.TLS().Offload()) + "; by: " + by
	}
	return fmt.Sprintf("%T", c)
}

// moved says what went by io_uring, or nothing.
func (d *dialer) moved() string {
	c, ok := d.made().(*ringconn.Conn)
	if !ok {
		return ""
	}
	u := c.Used()
	return fmt.Sprintf("io_uring: %d operations, %d bytes sent, %d received, %d records that were not data",
		d.ring.Completed(), u.Sent.Load(), u.Received.Load(), u.Control.Load())
}
