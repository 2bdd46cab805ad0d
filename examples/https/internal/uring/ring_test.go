// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package uring

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// live returns a ring of the kernel's. On a machine that has none these tests
// are skipped; a guest of the matrix has one, and there they are not.
func live(t *testing.T, operations int) *Ring {
	t.Helper()
	r, err := New(operations)
	if errors.Is(err, ErrUnavailable) && os.Getenv("RPCTLS_VM") == "" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return r
}

// pair returns a connection, as the ring sees it and as its peer does.
func pair(t *testing.T) (syscall.RawConn, *net.TCPConn, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	raw, err := a.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return raw, a.(*net.TCPConn), b.(*net.TCPConn)
}

func TestConnect(t *testing.T) {
	r := live(t, 4)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := l.Addr().(*net.TCPAddr).AddrPort()
	open := func() (*os.File, syscall.RawConn) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		t.Cleanup(func() { f.Close() })
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		return f, raw
	}
	_, raw := open()
	if err := r.Connect(raw, to, nil); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.Close()
	_, raw = open()
	if err := r.Connect(raw, to, nil); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
	if err := r.Connect(raw, netip.AddrPort{}, nil); err == nil {
		t.Error("connected to no address")
	}
}

// Much in both directions at once, on a socket that the network poller has
// made non-blocking.
func TestTransfer(t *testing.T) {
	r := live(t, 4)
	raw, _, peer := pair(t)
	want := make([]byte, 8<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	var wg sync.WaitGroup
	wg.Go(func() { // an echo
		if _, err := io.Copy(peer, struct{ io.Reader }{peer}); err != nil {
			t.Error(err)
		}
		peer.CloseWrite()
	})
	wg.Go(func() {
		for rest := want; len(rest) > 0; {
			n, err := r.Send(raw, rest, nil)
			if err != nil {
				t.Error(err)
				break
			}
			rest = rest[n:]
		}
		_ = raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_WR) })
	})
	got := make([]byte, 0, len(want))
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Recv(raw, buf, nil)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		got = append(got, buf[:n]...)
	}
	wg.Wait()
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back of %d, or others", len(got), len(want))
	}
}

func TestRecvMsg(t *testing.T) {
	r := live(t, 4)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, b := os.NewFile(uintptr(pair[0]), "a"), os.NewFile(uintptr(pair[1]), "b")
	defer a.Close()
	defer b.Close()
	raw, err := a.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	rights := unix.UnixRights(int(b.Fd()))
	if err := unix.Sendmsg(int(b.Fd()), []byte("message"), rights, nil, 0); err != nil {
		t.Fatal(err)
	}
	p, oob := make([]byte, 3), make([]byte, 64)
	for _, tt := range []struct {
		flags int
		want  string
	}{{unix.MSG_PEEK, "mes"}, {0, "mes"}, {0, "sag"}} {
		n, oobn, _, err := r.RecvMsg(raw, p, oob, tt.flags|unix.MSG_CMSG_CLOEXEC, nil)
		if err != nil || string(p[:n]) != tt.want {
			t.Fatalf("%q, %v; want %q", p[:n], err, tt.want)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			fds, err := unix.ParseUnixRights(&m)
			if err != nil || len(fds) != 1 {
				t.Fatalf("%v %v", fds, err)
			}
			unix.Close(fds[0])
		}
		if want := tt.want == "mes"; len(messages) == 1 != want {
			t.Errorf("%d control messages with %q", len(messages), p[:n])
		}
	}
}

// What is given up ends, its memory is ours again, and the ring goes on.
func TestAbort(t *testing.T) {
	r := live(t, 2)
	raw, _, peer := pair(t)
	buf := make([]byte, 16)
	for range 50 {
		abort := make(chan struct{})
		began := make(chan struct{})
		go func() { close(began); runtime.Gosched(); close(abort) }()
		<-began
		if n, err := r.Recv(raw, buf, abort); !errors.Is(err, ErrAborted) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	}
	if _, err := peer.Write([]byte("later")); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Recv(raw, buf, nil); err != nil || string(buf[:n]) != "later" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}

// More at once than there are places: they wait for each other.
func TestPlaces(t *testing.T) {
	r := live(t, 2)
	var wg sync.WaitGroup
	var all []*net.TCPConn
	for range 10 {
		raw, _, peer := pair(t)
		all = append(all, peer)
		wg.Go(func() {
			p := make([]byte, 1)
			if n, err := r.Recv(raw, p, nil); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
		})
	}
	for _, c := range all {
		if _, err := c.Write([]byte{1}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if n := r.Completed(); n != 10 {
		t.Errorf("%d operations", n)
	}
}

func TestErrors(t *testing.T) {
	r := live(t, 2)
	raw, c, peer := pair(t)
	if err := peer.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	peer.Close()
	if _, err := r.Recv(raw, make([]byte, 1), nil); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	if _, err := r.Send(raw, make([]byte, 1), nil); !errors.Is(err, unix.EPIPE) {
		t.Errorf("send after a reset: %v", err)
	}
	c.Close()
	if _, err := r.Recv(raw, make([]byte, 1), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("on a closed socket: %v", err)
	}
	for _, n := range []int{0, -1, 5000} {
		if r, err := New(n); err == nil {
			r.Close()
			t.Errorf("a ring for %d operations", n)
		}
	}
}

// Close ends what waits, and leaves no descriptor and no goroutine.
func TestClose(t *testing.T) {
	live(t, 1) // or skip
	before := descriptors(t)
	for range 20 {
		r, err := New(4)
		if err != nil {
			t.Fatal(err)
		}
		raw, a, b := pair(t)
		ended := make(chan error, 6)
		for range cap(ended) {
			go func() {
				_, err := r.Recv(raw, make([]byte, 1), nil)
				ended <- err
			}()
		}
		for len(r.places) < cap(r.places) {
			runtime.Gosched()
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		for range cap(ended) {
			if err := <-ended; !errors.Is(err, net.ErrClosed) {
				t.Errorf("an operation ended with %v", err)
			}
		}
		if err := r.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		if _, err := r.Recv(raw, make([]byte, 1), nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("received by a closed ring: %v", err)
		}
		a.Close()
		b.Close()
	}
	if n := descriptors(t); n > before {
		t.Errorf("%d descriptors, %d before", n, before)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// What the garbage collector does meanwhile does no harm to memory that only
// the kernel knows.
func TestMemoryIsPinned(t *testing.T) {
	r := live(t, 2)
	raw, _, peer := pair(t)
	for i := range 20 {
		got := make(chan []byte)
		go func() {
			p := make([]byte, 4<<10)
			n, err := r.Recv(raw, p, nil)
			if err != nil {
				t.Error(err)
			}
			got <- p[:n]
		}()
		for len(r.places) == 0 {
			runtime.Gosched()
		}
		for range 3 {
			runtime.GC()
			_ = bytes.Repeat([]byte{0xee}, 4<<10)
		}
		want := bytes.Repeat([]byte{byte(i)}, 100)
		if _, err := peer.Write(want); err != nil {
			t.Fatal(err)
		}
		if p := <-got; !bytes.Equal(p, want) {
			t.Fatalf("%d bytes: %x", len(p), p)
		}
	}
}
