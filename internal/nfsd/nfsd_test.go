// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package nfsd

import (
	"bytes"
	"testing"

	"github.com/mdlayher/netlink"
)

func TestThreadsOfAllPools(t *testing.T) {
	e := netlink.NewAttributeEncoder()
	e.Uint32(2, 90) // grace time: not of interest
	e.Uint32(attrThreads, 3)
	e.Uint32(attrThreads, 5)
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := threads(b); err != nil || n != 8 {
		t.Errorf("%d, %v; want 8", n, err)
	}
	if n, err := threads(nil); err != nil || n != 0 {
		t.Errorf("without an answer: %d, %v", n, err)
	}
	for _, bad := range [][]byte{b[:len(b)-1], bytes.Repeat([]byte{0xff}, 8), {5, 0, 1, 0, 9}} {
		if n, err := threads(bad); err == nil {
			t.Errorf("%x: %d and no error", bad, n)
		}
	}
}

func FuzzThreads(f *testing.F) {
	f.Add([]byte{8, 0, 1, 0, 16, 0, 0, 0})
	f.Add([]byte{8, 0, 1, 0, 255, 255, 255, 255, 8, 0, 1, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n, err := threads(b); n < 0 || n > maxThreads || err != nil && n != 0 {
			t.Errorf("%x: %d, %v", b, n, err)
		}
	})
}
