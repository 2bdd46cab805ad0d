// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
)

// Capabilities say what this kernel's TLS can do, found by trying it.
type Capabilities struct {
	// ULP is nil when TCP_ULP "tls" works, else why it does not.
	ULP error
	// Ciphers holds, for every cipher, nil when both directions took keys
	// and gave them back, else the *[InstallError].
	Ciphers map[Cipher]error
}

// Usable returns nil when the kernel can take over sessions of c.
func (c Capabilities) Usable(cipher Cipher) error {
	if c.ULP != nil {
		return c.ULP
	}
	err, tried := c.Ciphers[cipher]
	if !tried {
		return fmt.Errorf("cipher %v was not tried", cipher)
	}
	return err
}

// Probe tries the hand-over with throw-away keys on loopback connections, one
// for each cipher, and reports what this kernel can do. The error says why it
// could not be tried; it is not about TLS.
func Probe() (Capabilities, error) {
	caps := Capabilities{Ciphers: make(map[Cipher]error)}
	l, err := listenLoopback()
	if err != nil {
		return caps, fmt.Errorf("probe kernel tls: %w", err)
	}
	defer l.Close()
	for _, c := range Ciphers() {
		err := probeCipher(l, c)
		ie, isInstall := err.(*InstallError)
		if err != nil && !isInstall {
			return caps, fmt.Errorf("probe kernel tls: %w", err)
		}
		if isInstall && ie.Op == "TCP_ULP" {
			caps.ULP = ie
			return caps, nil
		}
		caps.Ciphers[c] = err
	}
	return caps, nil
}

// Loaded reports whether the kernel's TLS is there, for a process whose sandbox
// has no connections to try it on. It loads nothing, and says nothing of ciphers.
func Loaded() error {
	// Every network namespace has it (net/tls/tls_proc.c).
	_, err := os.Stat("/proc/thread-self/net/tls_stat")
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("the kernel module tls is not loaded: modprobe tls")
	}
	return err
}

// listenLoopback listens on whichever loopback address this network namespace
// has.
func listenLoopback() (*net.TCPListener, error) {
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:0")))
	if err != nil {
		l, err = net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(netip.MustParseAddrPort("[::1]:0")))
	}
	return l, err
}

// probeCipher puts a session of c on one end of a new connection to l.
func probeCipher(l *net.TCPListener, c Cipher) error {
	conn, err := net.DialTCP(l.Addr().Network(), nil, l.Addr().(*net.TCPAddr))
	if err != nil {
		return err
	}
	defer conn.Close()
	spec := cipherSpecs[c]
	s := &Session{Cipher: c, role: Client, secret: map[string][]byte{
		labelClientTraffic: make([]byte, spec.hash.Size()),
		labelServerTraffic: make([]byte, spec.hash.Size()),
	}}
	defer s.Wipe()
	if err := s.Install(conn); err != nil {
		return err
	}
	// Leave no close_notify and no TIME_WAIT behind.
	return conn.SetLinger(0)
}
