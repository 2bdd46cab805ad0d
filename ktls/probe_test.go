// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"errors"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLoadedAgreesWithProbe: once TLS has been tried, which loads it if it can
// be loaded, a look says the same.
func TestLoadedAgreesWithProbe(t *testing.T) {
	caps, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	loaded := Loaded()
	if (caps.ULP == nil) != (loaded == nil) {
		t.Errorf("tried: %v; looked at: %v", caps.ULP, loaded)
	}
	if loaded != nil && !strings.Contains(loaded.Error(), "modprobe tls") {
		t.Errorf("no hint in %q", loaded)
	}
}

// TestProbeKeepsNoChance: what failed for want of memory is tried again.
func TestProbeKeepsNoChance(t *testing.T) {
	probed.Lock()
	caps, real := probed.caps, setsockopt
	probed.caps = nil
	probed.Unlock()
	t.Cleanup(func() {
		probed.Lock()
		probed.caps, setsockopt = caps, real
		probed.Unlock()
	})
	var errno unix.Errno
	setsockopt = func(fd, level, opt int, value []byte) error {
		if level == solTLS {
			return errno
		}
		return nil
	}
	for _, e := range []struct {
		errno unix.Errno
		kept  bool
	}{{unix.ENOMEM, false}, {unix.ENOBUFS, false}, {unix.ENOENT, true}} {
		errno = e.errno
		if _, err := Probe(); err != nil {
			t.Fatal(err)
		}
		if (probed.caps != nil) != e.kept {
			t.Errorf("%v: kept %v", e.errno, !e.kept)
		}
	}
}

// TestProbeWaitsOnce for a loopback that does not answer.
func TestProbeWaitsOnce(t *testing.T) {
	probed.Lock()
	caps, real := probed.caps, dialLoopback
	probed.caps = nil
	probed.Unlock()
	t.Cleanup(func() {
		probed.Lock()
		probed.caps, probed.err, dialLoopback = caps, nil, real
		probed.Unlock()
	})
	var dials int
	var answer error
	dialLoopback = func(*net.TCPListener) (*net.TCPConn, error) {
		dials++
		return nil, &net.OpError{Op: "dial", Err: answer}
	}
	for _, e := range []struct {
		answer error
		dials  int
	}{{unix.ENETUNREACH, 2}, {os.ErrDeadlineExceeded, 1}} {
		dials, answer = 0, e.answer
		for range 2 {
			if caps, err := Probe(); !errors.Is(err, e.answer) || caps.Suites == nil {
				t.Errorf("%v: %v", e.answer, err)
			}
		}
		if dials != e.dials {
			t.Errorf("%v: dialed %d times", e.answer, dials)
		}
	}
}
