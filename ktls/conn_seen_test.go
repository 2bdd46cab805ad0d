// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
)

// A lastReader gives the end along with the last bytes, as an io.Reader may.
type lastReader struct {
	net.Conn
	last *bool
}

func (l lastReader) Read(p []byte) (n int, err error) {
	n, err = l.Conn.Read(p)
	if *l.last && err == nil {
		err = io.EOF
	}
	return n, err
}

func TestConnEndWithTheLastBytes(t *testing.T) {
	ct, st := pair(t)
	var last bool
	c, s := Client(lastReader{ct, &last}, clientConfig()), Server(st, serverConfig(t), NoOffload())
	go s.Handshake()
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.NetConn().(*net.TCPConn).CloseWrite()
	last = true
	if b, err := io.ReadAll(c); string(b) != "x" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}

// TestConnIsNotSeen: callbacks and errors show the caller's connection, with and
// without the kernel.
func TestConnIsNotSeen(t *testing.T) {
	for _, s := range sides(t) {
		t.Run(s.name, func(t *testing.T) {
			ct, st := pair(t)
			scfg := serverConfig(t)
			var seen []net.Conn
			scfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
				seen = append(seen, h.Conn)
				return nil, nil
			}
			certificate := &scfg.Certificates[0]
			scfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				seen = append(seen, h.Conn)
				return certificate, nil
			}
			scfg.Certificates = nil
			srv := s.conn(st, scfg, false)
			go Client(ct, clientConfig(), NoOffload()).Handshake()
			if err := srv.Handshake(); err != nil {
				t.Fatal(err)
			}
			if len(seen) != 2 || seen[0] != net.Conn(st) || seen[1] != net.Conn(st) {
				t.Errorf("seen: %v", seen)
			}

			ct, st = pair(t)
			srv = s.conn(st, serverConfig(t), false)
			io.WriteString(ct, "GET / HTTP/1.1\r\n\r\n")
			var e tls.RecordHeaderError
			if err := srv.Handshake(); !errors.As(err, &e) || e.Conn != net.Conn(st) {
				t.Errorf("handshake: %v with %T", err, e.Conn)
			}
		})
	}
}
