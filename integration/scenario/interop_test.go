// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"
	"time"

	"rpctls/integration/guest"
	"rpctls/ktls"
	"rpctls/rpc"
	"rpctls/rpc/rpctest"
)

// tlshd starts the peer that fits the kernel: 1.4.0 insists on a socket option
// that 6.12 does not have. ciphers, if given, are those it may not use.
func (w *world) tlshd(t *testing.T, h *guest.Host, identity string, disabled ...string) *guest.Proc {
	t.Helper()
	return w.tlshdTrusting(t, h, identity, "ca.pem", disabled...)
}

// tlshdTrusting is tlshd for another CA than the world's.
func (w *world) tlshdTrusting(t *testing.T, h *guest.Host, identity, trust string, disabled ...string) *guest.Proc {
	t.Helper()
	program := "/opt/ktls-utils-1.0.0/usr/sbin/tlshd"
	if guest.KernelVersion(t).AtLeast(guest.Version{Major: 7, Minor: 2}) {
		program = "/usr/sbin/tlshd"
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "tlshd.conf")
	text := "[debug]\nloglevel=1\ntls=1\n"
	for _, section := range []string{"client", "server"} {
		text += fmt.Sprintf("[authenticate.%s]\nx509.truststore=%s\nx509.certificate=%s\nx509.private_key=%s\n",
			section, w.path(trust), w.path(identity+"/cert.pem"), w.path(identity+"/key.pem"))
	}
	priority := "[overrides]\n"
	for _, c := range disabled {
		priority += "tls-disabled-cipher = " + c + "\n"
	}
	for name, text := range map[string]string{config: text, filepath.Join(dir, "gnutls"): priority} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p := guest.Start(t, h, "tlshd-"+h.Name, []string{program, "-s", "-c", config},
		"GNUTLS_SYSTEM_PRIORITY_FILE="+filepath.Join(dir, "gnutls"))
	p.WaitLine(t, regexp.MustCompile(`Built from ktls-utils`), guest.CommandLimit)
	// It says nothing when it has joined the group; until then the kernel has
	// no agent, and mounts fail at once.
	guest.Poll(t, guest.CommandLimit, "tlshd to join the group", func() error {
		select {
		case <-p.Done():
			t.Fatalf("tlshd ended: %s", p.Output())
		default:
		}
		if _, ok := groupMember(t, h, p.PID()); !ok {
			return errors.New("not joined")
		}
		return nil
	})
	return p
}

// Ours and tlshd, both ways, TLS and mutual TLS, with each cipher. tlshd wants
// a cipher for either hash, so what it may not use is chosen such that only one
// is left that crypto/tls has too, or that it prefers.
func (w *world) testTLSHD(t *testing.T) {
	for _, tt := range []struct {
		cipher   ktls.Cipher
		disabled []string
		env      []string
	}{
		{ktls.AES128GCM, []string{"CHACHA20-POLY1305"}, nil},
		{ktls.AES256GCM, []string{"AES-128-GCM", "CHACHA20-POLY1305"}, nil},
		{ktls.ChaCha20Poly1305, []string{"AES-128-GCM"}, []string{noAES}},
	} {
		t.Run(fmt.Sprintf("our client and its server %v", tt.cipher), func(t *testing.T) {
			w.tlshd(t, w.server, "server", tt.disabled...)
			ours := run(t, w.client, "rpctlscd", w.clientConfig(), tt.env...)
			w.tlsAndMutual(t, tt.cipher)
			ours.said(t, "handshake success .*cipher="+tt.cipher.String())
		})
		t.Run(fmt.Sprintf("its client and our server %v", tt.cipher), func(t *testing.T) {
			w.tlshd(t, w.client, "client", tt.disabled...)
			ours := run(t, w.server, "rpctlssd", w.serverConfig(), tt.env...)
			w.tlsAndMutual(t, tt.cipher)
			ours.said(t, "handshake success .*cipher="+tt.cipher.String())
		})
	}
}

func (w *world) tlsAndMutual(t *testing.T, cipher ktls.Cipher) {
	t.Helper()
	for _, tt := range []struct{ sec, export string }{{"tls", exportTLS}, {"mtls", exportMTLS}} {
		dir := mountPoint(t) + "-" + tt.sec
		guest.Mount(t, w.client, "server.test:"+tt.export, dir, "vers=4.2,xprtsec="+tt.sec)
		use(t, dir, 1)
		w.wantTLS(t, w.client, cipher)
		guest.Unmount(t, w.client, dir)
	}
}

// serve runs a server on port 2049 of the rogue host until the test ends.
func (w *world) serve(t *testing.T, s *rpctest.Server) {
	t.Helper()
	var l net.Listener
	var err error
	if derr := w.rogue.Do(func() { l, err = net.Listen("tcp", "0.0.0.0:2049") }); derr != nil || err != nil {
		t.Fatalf("listen: %v, %v", derr, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.ServeConn(ctx, c) })
		}
	})
	t.Cleanup(func() {
		cancel()
		l.Close()
		wg.Wait()
	})
}

// tlsConfig is a configuration for crypto/tls with an identity of the world.
func (w *world) tlsConfig(t *testing.T, identity string) *tls.Config {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(w.path(identity+"/cert.pem"), w.path(identity+"/key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(w.ca.Cert)
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool, NextProtos: []string{rpc.ALPN}}
}

// What is queued behind the last handshake message, in either direction, is
// the kernel's.
func (w *world) testWhatFollowsFinished(t *testing.T) {
	t.Run("a server's tickets", func(t *testing.T) {
		w.issue(t, "rogue", serverOptions(w.rogue))
		type call struct{ procedure uint32 }
		calls := make(chan call, 100)
		// crypto/tls sends a ticket right behind its Finished, before it has
		// seen the client's; the kernel's first request is NULL, and only if
		// its answer arrives, behind the ticket, does COMPOUND follow.
		w.serve(t, &rpctest.Server{TLS: w.tlsConfig(t, "rogue"), Handler: func(c *rpc.Call) *rpc.Reply {
			calls <- call{c.Procedure}
			return rpctest.NFS(c)
		}})
		ours := run(t, w.client, "rpctlscd", w.clientConfig())
		err := guest.MountErr(t, w.client, "rogue.test:/", mountPoint(t), "vers=4.2,xprtsec=tls", 60*time.Second)
		t.Logf("a server with NULL only: %v", err)
		ours.said(t, "handshake success")
		for _, want := range []uint32{rpc.ProcedureNull, 1} {
			select {
			case c := <-calls:
				if c.procedure != want {
					t.Errorf("procedure %d, want %d", c.procedure, want)
				}
			case <-time.After(guest.CommandLimit):
				t.Fatalf("procedure %d was not called", want)
			}
		}
	})
	t.Run("a client's first request", func(t *testing.T) {
		ours := run(t, w.server, "rpctlssd", w.serverConfig())
		const rounds = 50
		for i := range rounds {
			conn := probed(t, w.client, w.server.IPv4())
			cfg := w.tlsConfig(t, "client")
			cfg.ServerName = "server.test"
			// ClientHello goes out; Finished waits for the request, and both
			// leave as one segment.
			j := &joined{Conn: conn, pass: 1}
			session := tls.Client(j, cfg)
			if err := session.Handshake(); err != nil {
				t.Fatalf("round %d: %v", i, err)
			}
			client := rpc.NewClient(session, rpc.Config{Program: rpc.ProgramNFS, Version: rpc.NFSVersion4})
			j.release()
			ctx, cancel := context.WithTimeout(context.Background(), guest.CommandLimit)
			if err := client.Null(ctx); err != nil {
				t.Fatalf("round %d: the first request got no answer: %v", i, err)
			}
			cancel()
			client.Close()
		}
		w.waitCount(t, ours, "handshake success", rounds)
	})
}

// joined holds writes back, after the first few, until one comes after
// release: then all leave in one write.
type joined struct {
	net.Conn
	mu       sync.Mutex
	pass     int
	held     bytes.Buffer
	released bool
}

func (j *joined) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pass > 0 {
		j.pass--
		return j.Conn.Write(p)
	}
	j.held.Write(p)
	if !j.released {
		return len(p), nil
	}
	_, err := j.held.WriteTo(j.Conn)
	return len(p), err
}

func (j *joined) release() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.released = true
}
