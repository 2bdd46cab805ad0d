// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

// limit is how long anything may take before it counts as hung; ample even for
// a translated guest on a busy machine.
const limit = 2 * time.Minute

// A mode is who carries our end of a connection.
type mode struct {
	name   string
	kernel bool
}

var modes = []mode{{"kernel", true}, {"user", false}}

func (m mode) options(more ...ktls.Option) []ktls.Option {
	if m.kernel {
		return more
	}
	return append(slices.Clone(more), ktls.NoOffload())
}

// each runs a test in both modes.
func each(t *testing.T, f func(t *testing.T, m mode)) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			if m.kernel {
				guest.RequireVM(t)
				if kernelHasTLS(t) {
					guest.LoadModule(t, "tls")
				}
				if _, err := ktls.Probe(); err != nil { // before anything is counted
					t.Fatal(err)
				}
			}
			f(t, m)
		})
	}
}

// A suite is a cipher in one version of TLS, in everybody's words.
type suite struct {
	cipher  ktls.Cipher
	version uint16
	id      uint16
	openssl string // for -cipher or -ciphersuites
	gnutls  string // for a priority string
}

func (s suite) String() string { return versionName(s.version) + "/" + s.cipher.String() }

func versionName(v uint16) string {
	if v == tls.VersionTLS12 {
		return "tls1.2"
	}
	return "tls1.3"
}

var suites = []suite{
	{ktls.AES128GCM, tls.VersionTLS13, tls.TLS_AES_128_GCM_SHA256, "TLS_AES_128_GCM_SHA256", "AES-128-GCM"},
	{ktls.AES256GCM, tls.VersionTLS13, tls.TLS_AES_256_GCM_SHA384, "TLS_AES_256_GCM_SHA384", "AES-256-GCM"},
	{ktls.ChaCha20Poly1305, tls.VersionTLS13, tls.TLS_CHACHA20_POLY1305_SHA256, "TLS_CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"},
	{ktls.AES128GCM, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-ECDSA-AES128-GCM-SHA256", "AES-128-GCM"},
	{ktls.AES256GCM, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-ECDSA-AES256-GCM-SHA384", "AES-256-GCM"},
	{ktls.ChaCha20Poly1305, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-ECDSA-CHACHA20-POLY1305", "CHACHA20-POLY1305"},
}

// eachSuite runs a test with each cipher in each version.
func eachSuite(t *testing.T, f func(t *testing.T, s suite)) {
	for _, s := range suites {
		t.Run(s.String(), func(t *testing.T) { f(t, s) })
	}
}

var bothRoles = []ktls.Role{ktls.RoleClient, ktls.RoleServer}

// kernelHasTLS reports whether Debian's kernel of this version has it (bullseye's
// 5.10 is built without). What has it has all three ciphers (net/tls, since 5.11).
func kernelHasTLS(t *testing.T) bool {
	t.Helper()
	return guest.KernelVersion(t).AtLeast(guest.Version{Major: 5, Minor: 11})
}

// An account is what a case leaves behind, and what the kernel counts of it.
type account struct {
	mode mode

	mu        sync.Mutex
	handed    uint64 // connections that went to the kernel
	mayDamage bool   // records that cannot be decrypted are part of the case
}

// audit runs f, and checks afterwards that no descriptor and no goroutine is left
// and that the kernel counts what f handed over to it.
func audit(t *testing.T, m mode, f func(a *account)) {
	t.Helper()
	a := &account{mode: m}
	var before map[string]uint64
	if guest.InVM() && kernelHasTLS(t) {
		before = guest.TLSStat(t, nil)
	}
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	f(a)
	if t.Failed() {
		return // what is left then says nothing
	}
	const patience = 20 * time.Second
	guest.Poll(t, patience, "goroutines", func() error {
		if n := runtime.NumGoroutine(); n > goroutines {
			var all strings.Builder
			_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
			return fmt.Errorf("%d, there were %d:\n%s", n, goroutines, all.String())
		}
		return nil
	})
	guest.Poll(t, patience, "descriptors", func() error {
		runtime.GC() // package net keeps the pipes of splice(2) until then
		if now := openFiles(t); len(now) > len(files) {
			return fmt.Errorf("%v, there were %v", slices.Sorted(maps.Values(now)), slices.Sorted(maps.Values(files)))
		}
		return nil
	})
	if before == nil {
		return
	}
	guest.Poll(t, patience, "sockets of the kernel's TLS", func() error {
		now := guest.TLSStat(t, nil)
		var errs []error
		for _, name := range []string{"TlsCurrTxSw", "TlsCurrRxSw"} {
			if now[name] != before[name] {
				errs = append(errs, fmt.Errorf("%s is %d, it was %d", name, now[name], before[name]))
			}
		}
		return errors.Join(errs...)
	})
	after := guest.TLSStat(t, nil)
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, name := range []string{"TlsTxSw", "TlsRxSw"} {
		if got := after[name] - before[name]; got != a.handed {
			t.Errorf("%s went up by %d, and %d connections were handed over", name, got, a.handed)
		}
	}
	for _, name := range []string{"TlsTxDevice", "TlsRxDevice", "TlsTxRekeyError", "TlsRxRekeyError"} {
		if after[name] != before[name] {
			t.Errorf("%s went up by %d", name, after[name]-before[name])
		}
	}
	if n := after["TlsDecryptError"] - before["TlsDecryptError"]; n > 0 && !a.mayDamage {
		t.Errorf("the kernel could not decrypt %d records", n)
	}
}

// check asserts who carries a connection after its handshake.
func (a *account) check(t *testing.T, c *ktls.Conn) {
	t.Helper()
	if !a.checkBeside(t, c) {
		t.FailNow()
	}
}

// checkBeside is check for goroutines beside the test's own.
func (a *account) checkBeside(t *testing.T, c *ktls.Conn) (ok bool) {
	t.Helper()
	ok = true
	want := a.mode.kernel && kernelHasTLS(t)
	o := c.Offload()
	for _, d := range []struct {
		name string
		ktls.Direction
	}{{"TX", o.TX}, {"RX", o.RX}} {
		switch {
		case d.Kernel != want:
			ok = false
			t.Errorf("%s: in the kernel: %t, want %t (%v)", d.name, d.Kernel, want, d.Reason)
		case d.Kernel && d.Reason != nil:
			t.Errorf("%s: in the kernel, and why not: %v", d.name, d.Reason)
		case !d.Kernel && d.Reason == nil:
			t.Errorf("%s: not in the kernel, and no reason", d.name)
		}
	}
	if want {
		a.mu.Lock()
		a.handed++
		a.mu.Unlock()
	}
	return ok
}

// checkLate is checkBeside for a connection that the peer may have ended already, and
// then the kernel does not take it (net/tls, tls_init).
func (a *account) checkLate(t *testing.T, c *ktls.Conn) {
	t.Helper()
	o := c.Offload()
	if a.mode.kernel && errors.Is(o.TX.Reason, syscall.ENOTCONN) && errors.Is(o.RX.Reason, syscall.ENOTCONN) {
		return
	}
	a.checkBeside(t, c)
}

// damage says that records which cannot be decrypted are part of the case.
func (a *account) damage() {
	a.mu.Lock()
	a.mayDamage = true
	a.mu.Unlock()
}

// openFiles returns what this process has open, without the files that the run
// time opens when it likes.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]string)
	for _, e := range entries {
		link, err := os.Readlink(dir + "/" + e.Name())
		if err != nil || strings.HasSuffix(link, "/fd") || strings.HasPrefix(link, "/proc/") {
			continue // the directory itself
		}
		open[e.Name()] = e.Name() + " " + link
	}
	return open
}
