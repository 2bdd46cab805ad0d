// SPDX-License-Identifier: BSD-3-Clause

package ktls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"

	"rpctls/ktls"
)

// configs returns a server's and a client's configuration for examples.
func configs() (server, client *tls.Config) {
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	defer s.Close()
	client = s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	client.ServerName = "example.com"
	return &tls.Config{Certificates: s.TLS.Certificates}, client
}

// A client looks like one of crypto/tls.
func ExampleDial() {
	serverConfig, clientConfig := configs()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	l := ktls.NewListener(inner, serverConfig)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c) // until close_notify
			}()
		}
	}()

	c, err := ktls.Dial("tcp", l.Addr().String(), clientConfig)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	if err := c.CloseWrite(); err != nil {
		log.Fatal(err)
	}
	answer, err := io.ReadAll(c) // until close_notify
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output: hello
}

// An HTTPS server whose files go from the page cache to the kernel's TLS, and a
// client.
func ExampleDialer() {
	serverConfig, clientConfig := configs()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	name := "example_test.go"
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, name)
	})}
	go srv.Serve(ktls.NewListener(l, serverConfig))
	defer srv.Close()

	dialer := &ktls.Dialer{Config: clientConfig}
	transport := &http.Transport{DialTLSContext: dialer.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + l.Addr().String())
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		log.Fatal(err)
	}
	want, err := os.ReadFile(name)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(resp.Status, bytes.Equal(got, want))
	// Output: 200 OK true
}

// What the kernel carries is known after the handshake.
func ExampleConn_Offload() {
	serverConfig, clientConfig := configs()
	a, b := net.Pipe() // which has no socket
	server, client := ktls.Server(b, serverConfig), ktls.Client(a, clientConfig)
	go server.Handshake()
	if err := client.Handshake(); err != nil {
		log.Fatal(err)
	}
	o := client.Offload()
	fmt.Println("sending:", o.TX.Kernel, o.TX.Reason)
	fmt.Println("receiving:", o.RX.Kernel, o.RX.Reason)
	// Output:
	// sending: false not a *net.TCPConn
	// receiving: false not a *net.TCPConn
}

func ExampleRequireOffload() {
	serverConfig, clientConfig := configs()
	a, b := net.Pipe()
	go io.Copy(io.Discard, ktls.Server(b, serverConfig))
	client := ktls.Client(a, clientConfig, ktls.RequireOffload())
	err := client.Handshake()
	fmt.Println(errors.Is(err, ktls.ErrOffload), err)
	// Output: true kernel does not carry the session: not a *net.TCPConn
}

// What this kernel can do, without a session to try it on.
func ExampleProbe() {
	caps, err := ktls.Probe()
	if err != nil {
		log.Fatal(err) // no connections here: not about TLS
	}
	if caps.ULP != nil {
		fmt.Println(caps.ULP) // for example: the kernel module tls is not loaded
		return
	}
	for _, suite := range ktls.Suites() {
		d := caps.Suites[suite]
		fmt.Println(suite, "sending:", d.TX == nil, "receiving:", d.RX == nil)
	}
	fmt.Println("keys can be replaced:", caps.Rekey == nil)
}
