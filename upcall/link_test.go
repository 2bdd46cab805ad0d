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
	if _, err := Open(); !errors.Is(err, ErrNoFamily) {
		t.Errorf("got %v", err)
	}
}

func TestOpenWithoutTheGroup(t *testing.T) {
	withFamily(t, genltest.ServeFamily(genetlink.Family{ID: 0x21, Name: familyName, Version: 1,
		Groups: []genetlink.MulticastGroup{{ID: 5, Name: "none"}}},
		func(genetlink.Message, netlink.Message) ([]genetlink.Message, error) { return nil, nil }))
	if _, err := Open(); !errors.Is(err, ErrNoFamily) {
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
