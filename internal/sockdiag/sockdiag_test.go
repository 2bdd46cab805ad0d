// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sockdiag

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// message builds what a kernel sends of one socket. The numbers are written out
// again on purpose.
func message(t testing.TB, family byte, local, remote netip.AddrPort, attrs func(*netlink.AttributeEncoder)) []byte {
	t.Helper()
	b := make([]byte, 72)
	b[0], b[1] = family, 1
	binary.BigEndian.PutUint16(b[4:], local.Port())
	binary.BigEndian.PutUint16(b[6:], remote.Port())
	copy(b[8:24], local.Addr().AsSlice())
	copy(b[24:40], remote.Addr().AsSlice())
	binary.NativeEndian.PutUint32(b[40:], 3)
	binary.NativeEndian.PutUint32(b[44:], 0xdeadbeef)
	binary.NativeEndian.PutUint32(b[48:], 7)
	binary.NativeEndian.PutUint32(b[64:], 42)
	binary.NativeEndian.PutUint32(b[68:], 4711)
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	more, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return append(b, more...)
}

func withTLS(ae *netlink.AttributeEncoder) {
	info := make([]byte, 240)
	binary.NativeEndian.PutUint64(info[120:], 1000)
	binary.NativeEndian.PutUint64(info[128:], 2000)
	ae.Bytes(2, info)
	ae.Bytes(15, []byte{0})
	ae.Nested(19, func(ulp *netlink.AttributeEncoder) error {
		ulp.String(1, "tls")
		ulp.Nested(2, func(tls *netlink.AttributeEncoder) error {
			tls.Uint16(1, 0x0304)
			tls.Uint16(2, 52)
			tls.Uint16(3, 2)
			tls.Uint16(4, 3)
			return nil
		})
		return nil
	})
}

func TestParse(t *testing.T) {
	v4 := func(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
	local, remote := v4("192.0.2.1:2049"), v4("192.0.2.2:801")
	ll, lr := v4("[fe80::1]:2049"), v4("[fe80::2]:801")
	tests := []struct {
		name string
		msg  []byte
		want Socket
	}{
		{
			"IPv4 with TLS", message(t, unix.AF_INET, local, remote, withTLS),
			Socket{ID: ID{local, remote, 3, 7<<32 | 0xdeadbeef}, State: Established, UID: 42, Inode: 4711, TLS: &TLS{0x0304, 52, Software, Hardware}, Acked: 1000, Received: 2000},
		},
		{
			"IPv6, link-local", message(t, unix.AF_INET6, ll, lr, func(*netlink.AttributeEncoder) {}),
			Socket{ID: ID{v4("[fe80::1%3]:2049"), v4("[fe80::2%3]:801"), 3, 7<<32 | 0xdeadbeef}, State: Established, UID: 42, Inode: 4711},
		},
		{
			"IPv4 in IPv6's clothes",
			message(t, unix.AF_INET6, v4("[::ffff:192.0.2.1]:2049"), v4("[::ffff:192.0.2.2]:801"), func(*netlink.AttributeEncoder) {}),
			Socket{ID: ID{local, remote, 3, 7<<32 | 0xdeadbeef}, State: Established, UID: 42, Inode: 4711},
		},
		{
			"another ULP",
			message(t, unix.AF_INET, local, remote, func(ae *netlink.AttributeEncoder) {
				ae.Nested(19, func(ulp *netlink.AttributeEncoder) error { ulp.String(1, "mptcp"); return nil })
			}),
			Socket{ID: ID{local, remote, 3, 7<<32 | 0xdeadbeef}, State: Established, UID: 42, Inode: 4711},
		},
		{
			"TLS without keys, short tcp_info",
			message(t, unix.AF_INET, local, remote, func(ae *netlink.AttributeEncoder) {
				ae.Bytes(2, make([]byte, 104))
				ae.Nested(19, func(ulp *netlink.AttributeEncoder) error { ulp.String(1, "tls"); return nil })
			}),
			Socket{ID: ID{local, remote, 3, 7<<32 | 0xdeadbeef}, State: Established, UID: 42, Inode: 4711, TLS: &TLS{}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(tt.msg)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	good := message(t, unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), withTLS)
	family := append([]byte(nil), good...)
	family[0] = unix.AF_UNIX
	length := append([]byte(nil), good...)
	length[72], length[73] = 0xff, 0xff
	wide := message(t, unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), func(ae *netlink.AttributeEncoder) {
		ae.Nested(19, func(ulp *netlink.AttributeEncoder) error {
			ulp.String(1, "tls")
			ulp.Nested(2, func(tls *netlink.AttributeEncoder) error { tls.Uint32(2, 52); return nil })
			return nil
		})
	})
	for name, b := range map[string][]byte{"nothing": nil, "short": good[:71], "family": family, "length of an attribute": length, "wide cipher": wide} {
		if s, err := parse(b); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestRequest(t *testing.T) {
	id := ID{netip.MustParseAddrPort("192.0.2.1:2049"), netip.MustParseAddrPort("192.0.2.2:801"), 5, 0x1122334455667788}
	b := request(unix.AF_INET, 0, id)
	want := make([]byte, 56)
	want[0], want[1], want[2] = 2, 6, 2
	copy(want[8:], []byte{0x08, 0x01, 0x03, 0x21, 192, 0, 2, 1})
	copy(want[28:], []byte{192, 0, 2, 2})
	binary.NativeEndian.PutUint32(want[44:], 5)
	binary.NativeEndian.PutUint32(want[48:], 0x55667788)
	binary.NativeEndian.PutUint32(want[52:], 0x11223344)
	if diff := cmp.Diff(want, b); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// No request may ever mean "whatever socket is there".
func TestNoCookie(t *testing.T) {
	c := &Conn{fd: -1}
	for _, id := range []ID{
		{},
		{Local: netip.MustParseAddrPort("192.0.2.1:1"), Remote: netip.MustParseAddrPort("192.0.2.2:2")},
		{Local: netip.MustParseAddrPort("192.0.2.1:1"), Remote: netip.MustParseAddrPort("192.0.2.2:2"), Cookie: 1<<64 - 1},
		{Local: netip.MustParseAddrPort("192.0.2.1:1"), Remote: netip.MustParseAddrPort("[2001:db8::1]:2"), Cookie: 1},
	} {
		if err := c.Destroy(id); err == nil || errors.Is(err, unix.EBADF) {
			t.Errorf("%+v was sent: %v", id, err)
		}
		if _, err := c.Find(id); err == nil || errors.Is(err, unix.EBADF) {
			t.Errorf("%+v was sent: %v", id, err)
		}
	}
}

func pair(t *testing.T, network, address string) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("listen: %v", err)
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func addrs(c *net.TCPConn) (local, remote netip.AddrPort) {
	unmap := func(a net.Addr) netip.AddrPort {
		ap := a.(*net.TCPAddr).AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return unmap(c.LocalAddr()), unmap(c.RemoteAddr())
}

// TestKernel asks this machine's kernel, as far as it can do this.
func TestKernel(t *testing.T) {
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Available(); errors.Is(err, ErrNoDiag) {
		t.Skip(err)
	} else if err != nil {
		t.Fatal(err)
	}
	for _, listen := range [][2]string{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}} {
		t.Run(listen[0], func(t *testing.T) {
			client, server := pair(t, listen[0], listen[1])
			local, remote := addrs(client)
			id, err := Identify(client, local, remote)
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.Find(id)
			if err != nil {
				t.Fatal(err)
			}
			if s.ID != id || s.State != Established || s.TLS != nil {
				t.Errorf("found %+v, want %+v", s, id)
			}
			other := id
			other.Cookie++
			if _, err := c.Find(other); !errors.Is(err, ErrGone) {
				t.Errorf("with another cookie: %v", err)
			}
			seen := make(map[ID]int)
			if err := c.Dump(func(s Socket) { seen[s.ID]++ }); err != nil {
				t.Fatal(err)
			}
			local, remote = addrs(server)
			sid, err := Identify(server, local, remote)
			if err != nil {
				t.Fatal(err)
			}
			if seen[id] != 1 || seen[sid] != 1 {
				t.Errorf("the dump has the client %d times, the server %d times", seen[id], seen[sid])
			}
			if err := c.Destroy(other); !errors.Is(err, ErrGone) {
				t.Errorf("destroyed with another cookie: %v", err)
			}
			err = c.Destroy(id)
			switch {
			case errors.Is(err, ErrNoDestroy), errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
				t.Skip(err)
			case err != nil:
				t.Fatal(err)
			}
			if _, err := client.Write([]byte("x")); err == nil {
				t.Error("a destroyed connection can be written to")
			}
			if _, err := server.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("its peer hears %v", err)
			}
			if err := c.Destroy(id); !errors.Is(err, ErrGone) {
				t.Errorf("destroyed again: %v", err)
			}
		})
	}
}

// frames puts messages into a netlink datagram.
func frames(seq uint32, typ uint16, bodies ...[]byte) (b []byte) {
	for _, body := range bodies {
		h := make([]byte, 16)
		binary.NativeEndian.PutUint32(h, uint32(16+len(body)))
		binary.NativeEndian.PutUint16(h[4:], typ)
		binary.NativeEndian.PutUint32(h[8:], seq)
		b = append(append(b, h...), body...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return b
}

func TestAnswer(t *testing.T) {
	sock := message(t, unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), withTLS)
	errno := func(e int32) []byte {
		b := make([]byte, 20)
		binary.NativeEndian.PutUint32(b, uint32(-e))
		return b
	}
	tests := []struct {
		name  string
		flags uint16
		b     []byte
		n     int
		over  bool
		err   error
	}{
		{"one of a dump", unix.NLM_F_DUMP, frames(1, 20, sock, sock), 2, false, nil},
		{"end of a dump", unix.NLM_F_DUMP, append(frames(1, 20, sock), frames(1, 3, errno(0))...), 1, true, nil},
		{"failed at its end", unix.NLM_F_DUMP, frames(1, 3, errno(12)), 0, true, unix.ENOMEM},
		{"the one that was asked for", 0, frames(1, 20, sock), 1, true, nil},
		{"gone", 0, frames(1, 2, errno(2)), 0, true, unix.ENOENT},
		{"done", unix.NLM_F_ACK, frames(1, 2, errno(0)), 0, true, nil},
		{"another question's", unix.NLM_F_ACK, frames(7, 2, errno(1)), 0, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := 0
			over, err := answer(tt.b, 1, tt.flags, func(Socket) { n++ })
			if over != tt.over || err != tt.err || n != tt.n {
				t.Errorf("over %v, %v, %d sockets; want %v, %v, %d", over, err, n, tt.over, tt.err, tt.n)
			}
		})
	}
}

// Whatever comes is read within its bounds, and what is a socket has addresses.
func FuzzAnswer(f *testing.F) {
	sock := message(f, unix.AF_INET, netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:2"), withTLS)
	six := message(f, unix.AF_INET6, netip.MustParseAddrPort("[2001:db8::1]:1"), netip.MustParseAddrPort("[2001:db8::2]:2"), func(*netlink.AttributeEncoder) {})
	f.Add(frames(1, 20, sock, six))
	f.Add(append(frames(1, 20, sock), frames(1, 3, make([]byte, 4))...))
	f.Add(frames(1, 2, make([]byte, 20)))
	f.Add(frames(1, 20, sock[:80]))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = answer(b, 1, unix.NLM_F_DUMP, func(s Socket) {
			if !s.Local.IsValid() || !s.Remote.IsValid() {
				t.Errorf("%+v", s)
			}
		})
	})
}
