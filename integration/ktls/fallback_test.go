// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

// Wherever crypto/tls would have worked, a connection of ours works.
var fallbackCases = []conformanceCase{
	{name: "not a TCP socket", run: testUnix},
	{name: "IPv6", run: testIPv6},
	{name: "multipath TCP", run: testMultipath},
	{name: "cipher that the kernel lacks", versions: only12, run: testOtherCipher},
	{name: "offload required", run: testRequired},
}

// shake makes the handshake of two ends, whoever carries ours.
func (x *trial) shake(a, b net.Conn) (ours *ktls.Conn, peer *tls.Conn) {
	x.Helper()
	ours, peer = x.wrap(a), x.plain(b)
	x.later(func() { b.Close() })
	wait := x.do(peer.Handshake)
	x.must(ours.Handshake())
	x.must(wait())
	return ours, peer
}

// fellBack asserts that crypto/tls carries a connection, that it says why, and that
// it works.
func (x *trial) fellBack(ours *ktls.Conn, peer *tls.Conn) (reason error) {
	x.Helper()
	o := ours.Offload()
	if o.TX.Kernel || o.RX.Kernel || o.TX.Reason == nil || o.RX.Reason == nil {
		x.Fatalf("offload is %+v", o)
	}
	x.exchange(ours, peer)
	wait := x.do(func() error { return expectEnd(ours) })
	x.must(peer.CloseWrite())
	x.is(wait(), io.EOF)
	return o.TX.Reason
}

func testUnix(x *trial) {
	l, err := net.Listen("unix", filepath.Join(x.TempDir(), "s"))
	x.must(err)
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	x.must(err)
	s, err := l.Accept()
	x.must(err)
	p, q := net.Pipe()
	for _, ends := range [][2]net.Conn{{c, s}, {p, q}} {
		x.later(func() { ends[0].Close(); ends[1].Close() })
		ours, peer := x.wrap(ends[0]), x.plain(ends[1])
		// A pipe holds nothing: somebody must read what is said at the end.
		wait := x.do(peer.Handshake)
		x.must(ours.Handshake())
		x.must(wait())
		o := ours.Offload()
		if o.TX.Kernel || o.RX.Kernel || o.TX.Reason == nil || o.RX.Reason == nil {
			x.Errorf("%T: offload is %+v", ends[0], o)
		}
		x.exchange(ours, peer)
		ended := x.do(func() error { return expectEnd(ours) })
		closed := x.do(peer.CloseWrite)
		x.is(ended(), io.EOF)
		x.must(closed())
		_ = ends[1].Close()
	}
}

func testIPv6(x *trial) {
	l, err := net.Listen("tcp6", "[::1]:0")
	x.must(err)
	defer l.Close()
	c, err := net.Dial("tcp6", l.Addr().String())
	x.must(err)
	s, err := l.Accept()
	x.must(err)
	ours, peer := x.shake(c, s)
	x.account.check(x.T, ours)
	x.exchange(ours, peer)
}

// The kernel has no TLS over MPTCP, whose sockets look like any other's.
func testMultipath(x *trial) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(true)
	ctx, cancel := within()
	defer cancel()
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	x.must(err)
	defer l.Close()
	var d net.Dialer
	d.SetMultipathTCP(true)
	c, err := d.DialContext(ctx, "tcp4", l.Addr().String())
	x.must(err)
	s, err := l.Accept()
	x.must(err)
	ours, peer := x.shake(c, s)
	used, err := c.(*net.TCPConn).MultipathTCP()
	x.must(err)
	if !used {
		// Debian has it turned on where TLS is, too; elsewhere it is TCP.
		if guest.InVM() && kernelHasTLS(x.T) {
			x.Fatal("the connection is not MPTCP's")
		}
		return
	}
	x.Log(x.fellBack(ours, peer))
}

func testOtherCipher(x *trial) {
	for _, cfg := range []*tls.Config{x.ours, x.peers} {
		cfg.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
	}
	a, b := x.tcp()
	ours, peer := x.shake(a, b)
	reason := x.fellBack(ours, peer)
	if x.kernel() && !errors.Is(reason, ktls.ErrCipher) {
		x.Errorf("the reason is %v", reason)
	}
}

func testRequired(x *trial) {
	x.options = append(x.options, ktls.RequireOffload())
	if x.kernel() {
		ours, peer := x.connect()
		x.exchange(ours, peer)
		return
	}
	a, b := x.tcp()
	ours, peer := x.wrap(a), x.plain(b)
	wait := x.do(func() error {
		if err := peer.Handshake(); err != nil {
			return err
		}
		_, err := peer.Read(make([]byte, 1))
		return err
	})
	ctx, cancel := within()
	defer cancel()
	err := ours.HandshakeContext(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		x.Fatal("it hangs")
	}
	x.is(err, ktls.ErrOffload)
	x.Log(err)
	if _, err := ours.Write([]byte("a")); err == nil {
		x.Error("a write succeeded")
	}
	_ = ours.Close()
	if err := wait(); err == nil {
		x.Error("the peer got data")
	}
}

// TestModule takes the kernel's TLS away while nobody uses it, and gives it back:
// connections are made before, meanwhile and after.
func TestModule(t *testing.T) {
	guest.RequireVM(t)
	if !kernelHasTLS(t) {
		t.Fatal("not on a kernel without the module: every case of TestCases is about that")
	}
	const helper = "/proc/sys/kernel/modprobe"
	usual, err := os.ReadFile(helper)
	if err != nil {
		t.Fatal(err)
	}
	set := func(text string) {
		if err := os.WriteFile(helper, []byte(text), 0); err != nil {
			t.Fatal(err)
		}
	}
	defer set(string(usual))
	try := func(m mode) (reason error) {
		x := newTrial(t, m, ktls.RoleClient, suites[0], &account{mode: m})
		defer x.finish()
		if m.kernel {
			ours, peer := x.connect()
			x.exchange(ours, peer)
			return nil
		}
		x.mode = modes[0] // nothing asks for user space
		a, b := x.tcp()
		ours, peer := x.shake(a, b)
		return x.fellBack(ours, peer)
	}
	guest.LoadModule(t, "tls")
	try(modes[0])
	(*guest.Host)(nil).Run(t, "modprobe", "-r", "tls")
	set("/bin/false")
	reason := try(modes[1])
	if e, ok := errors.AsType[*ktls.InstallError](reason); !ok || e.Op != "TCP_ULP" || !strings.Contains(reason.Error(), "modprobe tls") {
		t.Errorf("the reason is %v (%T)", reason, reason)
	}
	set(strings.TrimSpace(string(usual)))
	// Root's connections load it by themselves.
	try(modes[0])
}
