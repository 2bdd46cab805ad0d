// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall

import (
	"errors"
	"testing"

	"github.com/mdlayher/genetlink"
	"github.com/mdlayher/genetlink/genltest"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// withFamily makes a kernel that answers a look-up of the family.
func withFamily(t *testing.T, f genltest.Func) {
	old := dial
	t.Cleanup(func() { dial = old })
	dial = func() (*genetlink.Conn, error) { return genltest.Dial(f), nil }
}

func TestOpenWithoutTheFamily(t *testing.T) {
	withFamily(t, func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
		return nil, genltest.Error(int(unix.ENOENT))
	})
	if _, err := Open(-1); !errors.Is(err, ErrNoFamily) {
		t.Errorf("got %v", err)
	}
}

func TestOpenWithoutTheGroup(t *testing.T) {
	withFamily(t, genltest.ServeFamily(genetlink.Family{ID: 0x21, Name: familyName, Version: 1,
		Groups: []genetlink.MulticastGroup{{ID: 5, Name: "none"}}},
		func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) { return nil, nil }))
	if _, err := Open(-1); !errors.Is(err, ErrNoFamily) {
		t.Errorf("got %v", err)
	}
}

func TestResolve(t *testing.T) {
	withFamily(t, genltest.ServeFamily(genetlink.Family{ID: 0x21, Name: familyName, Version: 1,
		Groups: []genetlink.MulticastGroup{{ID: 5, Name: "none"}, {ID: 6, Name: groupName}}},
		func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) { return nil, nil }))
	family, group, err := resolve()
	if err != nil || family != 0x21 || group != 6 {
		t.Errorf("%#x, %d, %v", family, group, err)
	}
}

// TestKeptSocket: whatever is passed for a kept socket and is none is closed
// and not used.
func TestKeptSocket(t *testing.T) {
	socket := func(domain, typ, proto int) int {
		fd, err := unix.Socket(domain, typ|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	good := socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_GENERIC)
	defer unix.Close(good)
	if err := usable(good); err != nil {
		t.Errorf("a good one: %v", err)
	}
	for name, fd := range map[string]int{
		"route":    socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE),
		"datagram": socket(unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_GENERIC),
		"inet":     socket(unix.AF_INET, unix.SOCK_STREAM, 0),
	} {
		if err := usable(fd); err == nil {
			t.Errorf("%s: taken for a good one", name)
		}
		withFamily(t, func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) {
			return nil, genltest.Error(int(unix.ENOENT))
		})
		if _, err := Open(fd); !errors.Is(err, ErrNoFamily) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("%s: was not closed (%v)", name, err)
		}
	}
	if err := usable(-1); err == nil {
		t.Error("no descriptor is usable")
	}
}
