// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// probed is what Probe found, once that is for good.
var probed struct {
	sync.Mutex
	caps *Capabilities // guarded by the mutex

	// Of a loopback that does not answer, guarded by the mutex.
	err   error
	again time.Time
}

const (
	// probePatience is how long a connection to this machine itself may take.
	probePatience = time.Second
	// probePause is how long one that took longer is not tried again: every
	// handshake of a [Conn] would wait for it.
	probePause = time.Minute
)

// Probe tries with throw-away keys on loopback connections, one for each
// [Suite], and reports what this kernel can do. The error says why it could not
// be tried; it is not about TLS.
//
// Once TCP_ULP works, the answer is kept for the life of the process. A module
// that is missing may come, and so may memory: that is asked for each time.
func Probe() (Capabilities, error) {
	probed.Lock()
	defer probed.Unlock()
	if probed.caps == nil {
		if probed.err != nil && time.Now().Before(probed.again) {
			return untried(), probed.err
		}
		caps, err := probe()
		probed.err = nil
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			probed.err, probed.again = err, time.Now().Add(probePause)
		}
		if err != nil || caps.ULP != nil || caps.byChance() {
			return caps, err
		}
		probed.caps = &caps
	}
	caps := *probed.caps
	caps.Ciphers, caps.Suites = maps.Clone(caps.Ciphers), maps.Clone(caps.Suites)
	return caps, nil
}

// byChance reports whether something failed that may do another time.
func (c *Capabilities) byChance() bool {
	for _, d := range c.Suites {
		for _, err := range []error{d.TX, d.RX} {
			for _, e := range []unix.Errno{unix.ENOMEM, unix.ENOBUFS, unix.EINTR, unix.EAGAIN} {
				if errors.Is(err, e) {
					return true
				}
			}
		}
	}
	return false
}

func probe() (Capabilities, error) {
	caps := untried()
	l, err := listenLoopback()
	if err != nil {
		return caps, fmt.Errorf("probe kernel tls: %w", err)
	}
	defer l.Close()
	for _, s := range Suites() {
		if err := caps.try(l, s); err != nil {
			return caps, fmt.Errorf("probe kernel tls: %w", err)
		}
		if caps.ULP != nil {
			break
		}
	}
	return caps, nil
}

func untried() Capabilities {
	return Capabilities{
		Ciphers: make(map[Cipher]error),
		Suites:  make(map[Suite]Directions),
		Rekey:   errUntried, ZeroCopySendfile: errUntried, ExpectNoPad: errUntried, PayloadLimit: errUntried,
	}
}

// dialLoopback is a variable for tests.
var dialLoopback = func(l *net.TCPListener) (*net.TCPConn, error) {
	c, err := net.DialTimeout(l.Addr().Network(), l.Addr().String(), probePatience)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// try puts a session of s on one end of a new connection to l.
func (c *Capabilities) try(l *net.TCPListener, s Suite) error {
	conn, err := dialLoopback(l)
	if err != nil {
		return err
	}
	defer conn.Close()
	// Leave no close_notify and no TIME_WAIT behind.
	if err := conn.SetLinger(0); err != nil {
		return err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) { c.tryOn(int(fd), s) })
}

func (c *Capabilities) tryOn(fd int, s Suite) {
	if err := attach(fd); err != nil {
		c.ULP = &InstallError{Op: "TCP_ULP", Cipher: s.Cipher, Err: err}
		return
	}
	keys := trafficKeys{key: make([]byte, cipherSpecs[s.Cipher].keyLen), iv: make([]byte, staticIVLen)}
	var d Directions
	if d.TX = installKeys(fd, optTX, "TLS_TX", s, keys); d.TX != nil {
		// The kernel wants the same cipher in both directions, so the other is
		// not to be had without this one.
		d.RX = d.TX
	} else {
		d.RX = installKeys(fd, optRX, "TLS_RX", s, keys)
	}
	c.Suites[s] = d
	if s.Version != tls.VersionTLS13 {
		return
	}
	c.Ciphers[s.Cipher] = d.TX
	if d.TX == nil {
		c.Ciphers[s.Cipher] = d.RX
	}
	if c.Ciphers[s.Cipher] != nil {
		return
	}
	// Of what does not depend on the cipher, the last that works is heard.
	c.Rekey = setKeys(fd, optTX, "TLS_TX again", s, keys, 0)
	if c.Rekey == nil {
		c.Rekey = setKeys(fd, optRX, "TLS_RX again", s, keys, 0)
	}
	c.ZeroCopySendfile = optionError("TLS_TX_ZEROCOPY_RO", s, setNumber(fd, optZeroCopyRO, 1))
	c.ExpectNoPad = optionError("TLS_RX_EXPECT_NO_PAD", s, setNumber(fd, optNoPad, 1))
	c.PayloadLimit = optionError("TLS_TX_MAX_PAYLOAD_LEN", s, setPayloadLimit(fd, maxPlaintext))
}

func optionError(op string, s Suite, err error) error {
	if err == nil {
		return nil
	}
	return &InstallError{Op: op, Cipher: s.Cipher, Err: err}
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
