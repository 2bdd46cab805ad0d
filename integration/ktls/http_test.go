// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"rpctls/ktls"
)

// serve runs a net/http server on a listener until the trial's end.
func (x *trial) serve(l net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	x.later(func() {
		server.Close()
		<-done
	})
}

// goServer is net/http's server over crypto/tls.
func (x *trial) goServer(h http.Handler) (url string) {
	x.Helper()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	x.serve(tls.NewListener(inner, x.peers), h)
	return "https://" + inner.Addr().String()
}

// ourServer is net/http's server over our listener.
func (x *trial) ourServer(h http.Handler) (url string) {
	x.Helper()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	l := ktls.NewListener(inner, x.ours, x.mode.options(x.options...)...)
	x.serve(&watched{Listener: l, x: x}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r)
	}))
	return "https://" + inner.Addr().String()
}

// watched checks who carries each connection that it accepted, at its first read.
type watched struct {
	net.Listener
	x *trial
}

func (w *watched) Accept() (net.Conn, error) {
	c, err := w.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: c.(*ktls.Conn), x: w.x}, nil
}

type watchedConn struct {
	*ktls.Conn
	x    *trial
	once sync.Once
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.Conn.ConnectionState().HandshakeComplete {
		// net/http's client makes more connections than it needs, and ends them.
		c.once.Do(func() { c.x.account.checkLate(c.x.T, c.Conn) })
	}
	return n, err
}

// goClient is net/http's client over crypto/tls.
func (x *trial) goClient() *http.Client {
	transport := &http.Transport{TLSClientConfig: x.peers}
	x.later(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ourClient is net/http's client over our connections.
func (x *trial) ourClient() *http.Client {
	d := &ktls.Dialer{Config: x.ours, Options: x.mode.options(x.options...)}
	transport := &http.Transport{DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := d.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		ours := c.(*ktls.Conn)
		if err := ours.HandshakeContext(ctx); err != nil {
			ours.Close()
			return nil, err
		}
		x.account.checkBeside(x.T, ours)
		return ours, nil
	}}
	x.later(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func bulkHTTPServer(x *trial, n int64) {
	x.post(x.ourClient(), x.goServer(http.HandlerFunc(httpBulk)), n)
}
func bulkHTTPClient(x *trial, n int64) {
	x.post(x.goClient(), x.ourServer(http.HandlerFunc(httpBulk)), n)
}

// TestHTTP has net/http at both ends, over one of ours or two.
func TestHTTP(t *testing.T) {
	each(t, func(t *testing.T, m mode) {
		for _, s := range []suite{suites[0], suites[4]} {
			t.Run(versionName(s.version), func(t *testing.T) {
				for _, test := range []struct {
					name string
					role ktls.Role
					run  func(x *trial)
				}{
					{"server", ktls.RoleServer, func(x *trial) { x.methods(x.goClient(), x.ourServer(http.HandlerFunc(reflect))) }},
					{"client", ktls.RoleClient, func(x *trial) { x.methods(x.ourClient(), x.goServer(http.HandlerFunc(reflect))) }},
					{"files", ktls.RoleServer, testFiles},
					{"many at once", ktls.RoleServer, testManyRequests},
				} {
					t.Run(test.name, func(t *testing.T) {
						audit(t, m, func(a *account) {
							x := newTrial(t, m, test.role, s, a)
							defer x.finish()
							test.run(x)
						})
					})
				}
			})
		}
	})
}

// reflect answers with what it was asked.
func reflect(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
}

func (x *trial) methods(c *http.Client, url string) {
	x.Helper()
	for range 2 {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			body := ""
			if method != "GET" && method != "DELETE" {
				body = strings.Repeat(method, 10000)
			}
			r, err := http.NewRequest(method, url+"/path", strings.NewReader(body))
			x.must(err)
			answer, err := c.Do(r)
			x.must(err)
			got, err := io.ReadAll(answer.Body)
			answer.Body.Close()
			x.must(err)
			x.must(same(got, []byte(method+" /path "+body)))
		}
	}
}

// Files leave by sendfile, and by parts.
func testFiles(x *trial) {
	text := pattern(700001)
	f := x.file(text)
	url := x.ourServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, f.Name())
	}))
	c := x.goClient()
	for _, part := range []struct {
		header string
		want   []byte
	}{{"", text}, {"bytes=1000-599999", text[1000:600000]}, {"bytes=-5", text[len(text)-5:]}} {
		r, err := http.NewRequest("GET", url, nil)
		x.must(err)
		if part.header != "" {
			r.Header.Set("Range", part.header)
		}
		answer, err := c.Do(r)
		x.must(err)
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		x.must(err)
		x.must(same(got, part.want))
	}
}

func testManyRequests(x *trial) {
	url, c := x.ourServer(http.HandlerFunc(reflect)), x.goClient()
	var waits []func() error
	for i := range 8 {
		waits = append(waits, x.do(func() error {
			body := bytes.Repeat([]byte{byte('a' + i)}, 50000)
			answer, err := c.Post(url+"/many", "text/plain", bytes.NewReader(body))
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			got, err := io.ReadAll(answer.Body)
			if err != nil {
				return err
			}
			return same(got, append([]byte("POST /many "), body...))
		}))
	}
	for _, wait := range waits {
		x.must(wait())
	}
}
