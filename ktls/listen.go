// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"context"
	"crypto/tls"
	"net"
)

// NewListener returns a listener whose Accept returns a *[Conn], a [Server], for
// each connection of inner. It is what net/http's Serve takes. The handshake
// runs in the connection's own goroutine at its first use; [Conn.ConnectionState]
// is such a use here, because net/http asks for it before it reads.
//
// net/http does HTTP/2 on a *tls.Conn only: leave "h2" out of cfg.NextProtos.
func NewListener(inner net.Listener, cfg *tls.Config, opts ...Option) net.Listener {
	return &listener{inner, cfg, opts}
}

type listener struct {
	net.Listener
	cfg  *tls.Config
	opts []Option
}

func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := Server(c, l.cfg, l.opts...)
	conn.accepted = true
	return conn, nil
}

// A Dialer dials and makes the handshake. Its DialContext is what
// http.Transport.DialTLSContext takes. (net/http fills in Response.TLS, and does
// HTTP/2, for a *tls.Conn only: leave "h2" out of Config.NextProtos.)
type Dialer struct {
	// NetDialer makes the connection; nil is a zero [net.Dialer]. Its Timeout
	// and Deadline hold for connection and handshake together.
	NetDialer *net.Dialer
	// Config is used as by [Client]; nil is a zero [tls.Config]. Without a
	// ServerName it is the host that is dialed.
	Config  *tls.Config
	Options []Option
}

// DialContext connects and returns a *[Conn] whose handshake is done. Once it is
// returned, ctx does not affect it.
func (d *Dialer) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.dial(ctx, network, addr)
	if err != nil {
		return nil, err // and not a *Conn that is nil
	}
	return c, nil
}

// Dial is [Dialer.DialContext] with the background context.
func (d *Dialer) Dial(network, addr string) (net.Conn, error) {
	return d.DialContext(context.Background(), network, addr)
}

// Dial connects, makes the handshake and returns the connection. cfg may be nil.
func Dial(network, addr string, cfg *tls.Config, opts ...Option) (*Conn, error) {
	d := Dialer{Config: cfg, Options: opts}
	return d.dial(context.Background(), network, addr)
}

func (d *Dialer) dial(ctx context.Context, network, addr string) (*Conn, error) {
	nd := d.NetDialer
	if nd == nil {
		nd = new(net.Dialer)
	}
	if nd.Timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, nd.Timeout)
		defer cancel()
	}
	if !nd.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, nd.Deadline)
		defer cancel()
	}
	inner, err := nd.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	cfg := d.Config
	if cfg == nil {
		cfg = new(tls.Config)
	}
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr // a Unix socket's
		}
		cfg = cfg.Clone()
		cfg.ServerName = host
	}
	c := Client(inner, cfg, d.Options...)
	if err := c.HandshakeContext(ctx); err != nil {
		c.Close() // and no more than inner, if the session is not there
		return nil, err
	}
	return c, nil
}
