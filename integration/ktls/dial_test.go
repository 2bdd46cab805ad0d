// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"rpctls/ktls"
)

// TestDial is about dialers and listeners, which the tables of cases do without.
func TestDial(t *testing.T) {
	each(t, func(t *testing.T, m mode) {
		for _, test := range []struct {
			name string
			role ktls.Role
			run  func(x *trial)
		}{
			{"server name from the address", ktls.RoleClient, testDialName},
			{"nobody listens", ktls.RoleClient, testDialNobody},
			{"certificate of a stranger", ktls.RoleClient, testDialStranger},
			{"server says nothing", ktls.RoleClient, testDialSilence},
			{"listener and a silent client", ktls.RoleServer, testListenSilence},
			{"listener is closed", ktls.RoleServer, testListenClosed},
		} {
			t.Run(test.name, func(t *testing.T) {
				audit(t, m, func(a *account) {
					x := newTrial(t, m, test.role, suites[0], a)
					defer x.finish()
					test.run(x)
				})
			})
		}
	})
}

// goListener listens for crypto/tls; what it returns accepts one connection, or none.
func (x *trial) goListener() (address string, accept func() *tls.Conn) {
	x.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	x.later(func() { l.Close() })
	return l.Addr().String(), func() *tls.Conn {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		return tls.Server(c, x.peers)
	}
}

func testDialName(x *trial) {
	address, accept := x.goListener()
	x.ours.ServerName = ""
	_, port, err := net.SplitHostPort(address)
	x.must(err)
	wait := x.do(func() error {
		c := accept()
		if c == nil {
			return errors.New("nobody came")
		}
		defer c.Close()
		if err := c.Handshake(); err != nil {
			return err
		}
		if name := c.ConnectionState().ServerName; name != serverName {
			return errors.New("the name is " + name)
		}
		_, err := io.Copy(c, c)
		return err
	})
	ours, err := ktls.Dial("tcp4", net.JoinHostPort(serverName, port), x.ours, x.mode.options()...)
	x.must(err)
	x.account.check(x.T, ours)
	if !ours.ConnectionState().HandshakeComplete {
		x.Error("it is not connected yet")
	}
	x.must(writeAll(ours, []byte("echo")))
	x.must(expect(ours, []byte("echo")))
	x.must(ours.Close())
	x.must(wait())
}

func testDialNobody(x *trial) {
	c, err := ktls.Dial("tcp4", "127.0.0.1:"+x.freePort(), x.ours, x.mode.options()...)
	x.is(err, syscall.ECONNREFUSED)
	if c != nil {
		x.Error("there is a connection")
	}
}

func testDialStranger(x *trial) {
	address, accept := x.goListener()
	x.ours.RootCAs = x509.NewCertPool()
	wait := x.do(func() error {
		c := accept()
		if c == nil {
			return errors.New("nobody came")
		}
		defer c.Close()
		if err := c.Handshake(); err != nil {
			return nil
		}
		if _, err := c.Read(make([]byte, 1)); err == nil {
			return errors.New("it came in")
		}
		return nil
	})
	d := &ktls.Dialer{Config: x.ours, Options: x.mode.options()}
	_, err := d.DialContext(context.Background(), "tcp4", address)
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); !ok {
		x.Errorf("error is %v (%T)", err, err)
	}
	x.must(wait())
}

func testDialSilence(x *trial) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	d := &ktls.Dialer{Config: x.ours, Options: x.mode.options()}
	wait := x.do(func() error { _, err := d.DialContext(ctx, "tcp4", l.Addr().String()); return err })
	x.is(wait(), context.DeadlineExceeded)
	d.NetDialer = &net.Dialer{Timeout: 50 * time.Millisecond}
	wait = x.do(func() error { _, err := d.DialContext(context.Background(), "tcp4", l.Addr().String()); return err })
	err = wait()
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() {
		x.Errorf("error is %v (%T)", err, err)
	}
}

// Who says nothing keeps nobody from being accepted.
func testListenSilence(x *trial) {
	port, accept := x.listenLazily()
	silent, err := net.Dial("tcp4", "127.0.0.1:"+port)
	x.must(err)
	defer silent.Close()
	first := accept()
	c, err := net.Dial("tcp4", "127.0.0.1:"+port)
	x.must(err)
	defer c.Close()
	peer := tls.Client(c, x.peers)
	x.must(peer.SetDeadline(time.Now().Add(limit)))
	wait := x.do(peer.Handshake)
	second := accept()
	x.must(second.Handshake())
	x.must(wait())
	x.account.check(x.T, second)
	x.exchange(second, peer)
	if o := first.Offload(); o.TX.Reason == nil || o.RX.Reason == nil {
		x.Errorf("of the silent client's connection it is said: %+v", o)
	}
	x.must(first.Close())
}

// listenLazily is listen, without the handshake.
func (x *trial) listenLazily() (port string, accept func() *ktls.Conn) {
	x.Helper()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	l := ktls.NewListener(inner, x.ours, x.mode.options()...)
	x.later(func() { l.Close() })
	_, port, err = net.SplitHostPort(l.Addr().String())
	x.must(err)
	return port, func() *ktls.Conn {
		x.Helper()
		c, err := l.Accept()
		x.must(err)
		x.later(func() { c.Close() })
		x.must(c.SetDeadline(time.Now().Add(limit)))
		return c.(*ktls.Conn)
	}
}

func testListenClosed(x *trial) {
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	l := ktls.NewListener(inner, x.ours, x.mode.options()...)
	wait := x.do(func() error { _, err := l.Accept(); return err })
	x.must(l.Close())
	x.is(wait(), net.ErrClosed)
}
