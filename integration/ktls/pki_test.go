// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"sync"
	"testing"

	_ "unsafe" // for linkname

	"rpctls/certs/certstest"
)

const serverName = "localhost"

// An identity is the certificate of whoever is the server, as this process and
// as programs want it.
type identity struct {
	pair *certstest.Pair
	pool *x509.CertPool
	dir  string // ca.pem, cert.pem, key.pem
}

func (id *identity) file(name string) string { return filepath.Join(id.dir, name) }

var identityOnce struct {
	sync.Once
	identity
}

func theIdentity(t *testing.T) *identity {
	t.Helper()
	o := &identityOnce
	o.Do(func() {
		ca := certstest.MustCA(t, certstest.CAOptions{CommonName: "ktls"})
		o.pair = ca.MustIssue(t, certstest.Options{CommonName: serverName, DNS: []string{serverName}, IPs: []string{"127.0.0.1"}})
		o.pool = x509.NewCertPool()
		o.pool.AddCert(ca.Cert)
		var err error
		if o.dir, err = os.MkdirTemp("", "ktls-"); err != nil {
			t.Fatal(err)
		}
		o.pair.MustWriteFiles(t, o.dir)
	})
	if o.dir == "" {
		t.Fatal("there are no certificates")
	}
	return &o.identity
}

func TestMain(m *testing.M) {
	code := m.Run()
	if identityOnce.dir != "" {
		_ = os.RemoveAll(identityOnce.dir)
	}
	os.Exit(code)
}

// serverConfig returns a server's configuration that agrees to one suite only.
func serverConfig(t *testing.T, s suite) *tls.Config {
	t.Helper()
	choose(s)
	cfg := &tls.Config{
		Certificates: []tls.Certificate{theIdentity(t).pair.TLS()},
		MinVersion:   s.version, MaxVersion: s.version, CipherSuites: []uint16{s.id},
	}
	cfg.SetSessionTicketKeys([][32]byte{[32]byte(pattern(32))}) // of copies, too
	return cfg
}

// clientConfig returns a client's configuration that asks for one suite only.
func clientConfig(t *testing.T, s suite) *tls.Config {
	t.Helper()
	choose(s)
	return &tls.Config{
		RootCAs: theIdentity(t).pool, ServerName: serverName,
		MinVersion: s.version, MaxVersion: s.version, CipherSuites: []uint16{s.id},
	}
}

// crypto/tls has no setting for the ciphers of TLS 1.3, but lets its lists be
// reached. They are of the whole process: tests run one after the other.
//
//go:linkname defaultCipherSuitesTLS13 crypto/tls.defaultCipherSuitesTLS13
var defaultCipherSuitesTLS13 []uint16

//go:linkname defaultCipherSuitesTLS13NoAES crypto/tls.defaultCipherSuitesTLS13NoAES
var defaultCipherSuitesTLS13NoAES []uint16

// choose makes the suite the only one of its version that crypto/tls knows.
func choose(s suite) {
	if s.version == tls.VersionTLS13 {
		defaultCipherSuitesTLS13, defaultCipherSuitesTLS13NoAES = []uint16{s.id}, []uint16{s.id}
	}
}
