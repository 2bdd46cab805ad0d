// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package guest_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rpctls/integration/guest"
)

func TestKernelVersion(t *testing.T) {
	guest.RequireVM(t)
	if got, want := guest.KernelVersion(t).String(), guest.KernelKey(); got != want {
		t.Fatalf("kernel %s, want %s", got, want)
	}
	if got := os.Getenv("RPCTLS_VM"); got != guest.KernelKey() {
		t.Fatalf("RPCTLS_VM is %q, want %q", got, guest.KernelKey())
	}
}

func TestFeatures(t *testing.T) {
	guest.RequireVM(t)
	guest.Require(t, guest.Feature{
		Name: "handshake upcall", Since: "6.12",
		Probe: func() error { return guest.HasGenetlink("handshake", "tlshd") },
	})
	guest.Require(t, guest.Feature{
		Name: "kernel TLS", Since: "6.12",
		Probe: func() error {
			guest.LoadModule(t, "tls")
			_, err := os.Stat("/proc/net/tls_stat")
			return err
		},
	})
	if err := guest.HasGenetlink("handshake", "no such group"); err == nil {
		t.Fatal("found a group that does not exist")
	}
}

func TestPeers(t *testing.T) {
	guest.RequireVM(t)
	for _, tt := range []struct{ path, version string }{
		{"/usr/sbin/tlshd", "1.4.0"},
		{"/opt/ktls-utils-1.0.0/usr/sbin/tlshd", "1.0.0"},
	} {
		p := guest.Start(t, nil, "tlshd-"+tt.version, []string{tt.path, "-s"})
		p.WaitLine(t, regexp.MustCompile(`ktls-utils.*`+regexp.QuoteMeta(tt.version)), guest.CommandLimit)
		p.Kill(t)
	}
}

func TestHosts(t *testing.T) {
	guest.RequireVM(t)
	a, b, c := guest.NewHost(t, "a"), guest.NewHost(t, "b"), guest.NewHost(t, "c")
	guest.Join(t, a, b, c)
	guest.Link(t, a, b)
	for _, from := range []*guest.Host{a, b, c} {
		for _, to := range []*guest.Host{a, b, c} {
			guest.Ping(t, from, to.IPv4())
			guest.Ping(t, from, to.IPv6())
		}
	}
	for _, family := range []string{"-4", "-6"} {
		c.Run(t, "ping", family, "-c", "1", "-W", "5", "a.test")
	}
	identifier := "/sys/fs/nfs/net/nfs_client/identifier"
	for _, h := range []*guest.Host{a, b} {
		text := h.Run(t, "ip", "netns", "exec", h.Name, "cat", identifier)
		if got := strings.TrimSpace(text); got != h.Name {
			t.Errorf("host %s calls itself %q to servers", h.Name, got)
		}
	}
}

// TestNFS mounts a server's export in another host, writes a file, and reads
// it back when no cache has it any more.
func TestNFS(t *testing.T) {
	guest.RequireVM(t)
	server, client := guest.NewHost(t, "server"), guest.NewHost(t, "client")
	guest.Join(t, server, client)
	nfsd := guest.StartNFSD(t, server, guest.NFSDConfig{Exports: []guest.Export{{Path: "/srv/smoke"}}})
	if got, want := strings.TrimSpace(nfsd.Read(t, "versions")), "+3 +4 -4.0 +4.1 +4.2"; got != want {
		t.Errorf("versions are %q, want %q", got, want)
	}
	for _, tt := range []struct{ name, source, options string }{
		{"v4.2", "server.test:/srv/smoke", "vers=4.2"},
		{"v4.2 over IPv6", "[" + server.IPv6().String() + "]:/srv/smoke", "vers=4.2"},
		{"v3", "server.test:/srv/smoke", "vers=3,nolock,mountproto=tcp,proto=tcp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join("/mnt", t.Name())
			start := time.Now()
			guest.Mount(t, client, tt.source, dir, tt.options)
			t.Logf("mounted in %v", time.Since(start).Round(time.Millisecond))
			file := filepath.Join(dir, "file")
			start = time.Now()
			sum := guest.WriteRandom(t, file, 1, 16)
			t.Logf("wrote 16 MiB in %v", time.Since(start).Round(time.Millisecond))
			guest.CheckFile(t, file, sum)
			guest.CheckFile(t, "/srv/smoke/file", sum)
			guest.Unmount(t, client, dir)
		})
	}
	t.Run("refused", func(t *testing.T) {
		err := guest.MountErr(t, client, "server.test:/srv/other", "/mnt/refused", "vers=4.2", time.Minute)
		if errors.Is(err, guest.ErrHung) || !strings.Contains(err.Error(), "server.test:/srv/other") {
			t.Fatalf("error is %v", err)
		}
	})
	t.Run("hung", func(t *testing.T) {
		nfsd.Down(t)
		client.Run(t, "ip", "link", "set", "eth0", "down")
		err := guest.MountErr(t, client, server.IPv4().String()+":/srv/smoke", "/mnt/hung", "vers=4.2", 2*time.Second)
		client.Run(t, "ip", "link", "set", "eth0", "up")
		nfsd.Up(t)
		if err == nil {
			t.Fatal("no error")
		}
	})
	t.Run("file system mounted later", func(t *testing.T) {
		const dir = "/srv/later"
		if err := errors.Join(os.Mkdir(dir, 0o777), unix.Mount("later", dir, "tmpfs", 0, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			nfsd.Unexport(t, guest.Export{Path: dir})
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
		nfsd.Export(t, guest.Export{Path: dir})
		guest.Mount(t, client, "server.test:"+dir, "/mnt/later", "vers=4.2")
		sum := guest.WriteRandom(t, "/mnt/later/file", 3, 1)
		guest.CheckFile(t, dir+"/file", sum)
	})
	t.Run("reconnect", func(t *testing.T) {
		const dir = "/mnt/reconnect"
		guest.Mount(t, client, "server.test:/srv/smoke", dir, "vers=4.2")
		sum := guest.WriteRandom(t, dir+"/file", 2, 4)
		if n := guest.CutConnections(t, client, "dport = :2049"); n != 1 {
			t.Errorf("cut %d connections, want 1", n)
		}
		guest.CheckFile(t, dir+"/file", sum)
	})
}

// TestCapture sends text over the network and finds it, and nothing else.
func TestCapture(t *testing.T) {
	guest.RequireVM(t)
	server, client := guest.NewHost(t, "server"), guest.NewHost(t, "client")
	guest.Link(t, server, client)
	word := make([]byte, 16)
	if _, err := rand.Read(word); err != nil {
		t.Fatal(err)
	}
	text := hex.EncodeToString(word)
	capture := guest.Capture(t, server, server.Interfaces()[0], "tcp")
	one, other := connect(t, server, client)
	if _, err := one.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	capture.Stop(t)
	if !capture.Contains(t, []byte(text)) {
		t.Error("the text is not in the capture")
	}
	if capture.Contains(t, bytes.ToUpper([]byte(text))) {
		t.Error("another text is in the capture")
	}
}

// TestTLSSockets gives both ends of a connection the same made-up key.
func TestTLSSockets(t *testing.T) {
	guest.RequireVM(t)
	guest.LoadModule(t, "tls")
	server, client := guest.NewHost(t, "server"), guest.NewHost(t, "client")
	guest.Link(t, server, client)
	a, b := connect(t, server, client)
	if sockets := guest.TLSSockets(t, server); len(sockets) != 0 {
		t.Fatalf("sockets with TLS: %v", sockets)
	}
	before := guest.TLSStat(t, server)
	setKeys(t, a)
	setKeys(t, b)
	for _, h := range []*guest.Host{server, client} {
		sockets := guest.TLSSockets(t, h)
		if len(sockets) != 1 {
			t.Fatalf("host %s: %d sockets with TLS, want 1: %s", h.Name, len(sockets), h.Run(t, "ss", "-tnieHO"))
		}
		want := guest.SocketTLS{Version: "1.3", Cipher: "aes-gcm-128", RX: "sw", TX: "sw"}
		if got := sockets[0].SocketTLS; got != want {
			t.Errorf("host %s: %+v, want %+v: %s", h.Name, got, want, h.Run(t, "ss", "-tnieHO"))
		}
		if sockets[0].Local.Addr() != h.IPv4() || sockets[0].State != "ESTAB" {
			t.Errorf("host %s: %+v", h.Name, sockets[0])
		}
	}
	after := guest.TLSStat(t, server)
	for _, name := range []string{"TlsTxSw", "TlsRxSw"} {
		if after[name] != before[name]+1 {
			t.Errorf("%s: %d after %d", name, after[name], before[name])
		}
	}
	if _, err := a.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := b.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Fatalf("read %q, %v", buf[:n], err)
	}
}

func TestTrace(t *testing.T) {
	guest.RequireVM(t)
	trace := guest.Trace(t, "sched:sched_process_exec")
	(*guest.Host)(nil).Run(t, "/bin/true")
	trace.Stop(t)
	if lines := trace.Lines(t); !strings.Contains(strings.Join(lines, "\n"), "filename=/bin/true") {
		t.Errorf("events: %q", lines)
	}
}

func TestProc(t *testing.T) {
	guest.RequireVM(t)
	h := guest.NewHost(t, "host")
	p := guest.Start(t, h, "shell", []string{"sh", "-c", `trap 'echo bye; exit 3' TERM; echo "hello $WHO"; while :; do sleep 0.1; done`}, "WHO=you")
	if got := p.WaitLine(t, regexp.MustCompile("hello"), guest.CommandLimit); got != "hello you" {
		t.Errorf("line is %q", got)
	}
	if n := guest.FDs(t, p.PID()); n < 3 {
		t.Errorf("%d descriptors", n)
	}
	if n := guest.Threads(t, p.PID()); n != 1 {
		t.Errorf("%d threads", n)
	}
	if n := guest.ResidentKiB(t, p.PID()); n < 100 {
		t.Errorf("%d KiB", n)
	}
	p.Signal(t, syscall.SIGTERM)
	p.WaitLine(t, regexp.MustCompile("bye"), guest.CommandLimit)
	if err := p.Wait(t, guest.CommandLimit); err == nil || err.Error() != "exit status 3" {
		t.Errorf("ended with %v", err)
	}
	if _, err := os.Stat(filepath.Join(guest.ResultsDir(t), "shell.log")); err != nil {
		t.Error(err)
	}
}

// connect makes a TCP connection between two hosts.
func connect(t *testing.T, server, client *guest.Host) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	// The listener's descriptor keeps its namespace wherever it is used. A
	// numeric address is dialled by the goroutine that asks.
	var l net.Listener
	var c net.Conn
	var err error
	if e := server.Do(func() { l, err = net.Listen("tcp", net.JoinHostPort(server.IPv4().String(), "0")) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	defer l.Close()
	e := client.Do(func() {
		ctx, cancel := context.WithTimeout(t.Context(), guest.CommandLimit)
		defer cancel()
		c, err = new(net.Dialer).DialContext(ctx, "tcp4", l.Addr().String())
	})
	if e != nil || err != nil {
		t.Fatal(e, err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, conn := range []net.Conn{s, c} {
		t.Cleanup(func() { conn.Close() })
		if err := conn.SetDeadline(time.Now().Add(guest.CommandLimit)); err != nil {
			t.Fatal(err)
		}
	}
	return s.(*net.TCPConn), c.(*net.TCPConn)
}

// setKeys turns on kernel TLS with a key of zeros.
func setKeys(t *testing.T, c *net.TCPConn) {
	t.Helper()
	const (
		solTLS, txKey, rxKey = 282, 1, 2
		tls13, aesGCM128     = 0x0304, 51
	)
	info := struct {
		version, cipher uint16
		iv              [8]byte
		key             [16]byte
		salt            [4]byte
		seq             [8]byte
	}{version: tls13, cipher: aesGCM128}
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var setErr error
	err = raw.Control(func(fd uintptr) {
		text := string(unsafe.Slice((*byte)(unsafe.Pointer(&info)), unsafe.Sizeof(info)))
		setErr = errors.Join(
			unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_ULP, "tls"),
			unix.SetsockoptString(int(fd), solTLS, txKey, text),
			unix.SetsockoptString(int(fd), solTLS, rxKey, text),
		)
	})
	if err := errors.Join(err, setErr); err != nil {
		t.Fatal(err)
	}
}
