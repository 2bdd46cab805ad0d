// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"rpctls/internal/clientask"
)

func serverOf(name string, addrs ...string) clientask.Server {
	s := clientask.Server{Name: name}
	for _, a := range addrs {
		s.Addresses = append(s.Addresses, netip.MustParseAddr(a))
	}
	return s
}

// mountTable is which servers are mounted.
type mountTable map[string]bool

func (m mountTable) mounted(s clientask.Server) (bool, error) {
	if m["unreadable"] {
		return false, errors.New("unreadable")
	}
	if m[s.Name] {
		return true, nil
	}
	for _, a := range s.Addresses {
		if m[a.String()] {
			return true, nil
		}
	}
	return false, nil
}

func TestChoices(t *testing.T) {
	dir, table := t.TempDir(), mountTable{}
	c, err := loadChoices(dir, table.mounted)
	if err != nil {
		t.Fatal(err)
	}
	want := func(name, addr, identity string) {
		t.Helper()
		var a netip.Addr
		if addr != "" {
			a = netip.MustParseAddr(addr)
		}
		if got, _ := c.of(name, a); got != identity {
			t.Errorf("%s (%s): %q, want %q", name, addr, got, identity)
		}
	}
	refused := func(s clientask.Server, identity, text string) {
		t.Helper()
		if release, err := c.choose(s, identity); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v as %q: %v, want %q", s, identity, err, text)
			if err == nil {
				release()
			}
		}
	}
	choose := func(s clientask.Server, identity string) func() {
		t.Helper()
		release, err := c.choose(s, identity)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	a := serverOf("a.test", "10.0.0.1", "2001:db8::1")
	want("a.test", "10.0.0.1", "")
	one := choose(a, "alice")
	want("A.test.", "", "alice")
	want("10.0.0.1", "10.0.0.1", "alice") // a data server, say
	want("b.test", "10.0.0.2", "")
	// While the first mount is in progress.
	refused(a, "bob", `a.test is just being mounted with identity "alice"`)
	refused(serverOf("2001:db8::1"), "", "is just being mounted")
	refused(serverOf("alias.test", "10.0.0.1"), "bob", "is just being mounted")
	two := choose(a, "alice")
	one()
	refused(a, "bob", "is just being mounted") // the second one still is
	// It is there, then another one of the same kind by another name.
	table["a.test"], table["10.0.0.1"] = true, true
	two()
	two() // harmless
	refused(a, "bob", `a.test is mounted with identity "alice"`)
	refused(a, "", `a.test is mounted with identity "alice"`)
	choose(serverOf("alias.test", "10.0.0.1"), "alice")()
	want("alias.test", "", "alice")
	want("a.test", "", "alice")
	// A daemon that comes next knows.
	if c, err = loadChoices(dir, table.mounted); err != nil {
		t.Fatal(err)
	}
	want("a.test", "", "alice")
	refused(a, "bob", "is mounted with")
	// When the mounts are gone, everything that was the same server changes.
	clear(table)
	choose(a, "bob")()
	want("a.test", "", "bob")
	want("alias.test", "", "")
	// Mounted without a choice: with what the configuration says.
	table["b.test"] = true
	refused(serverOf("b.test"), "alice", "b.test is mounted with this host's own certificate")
	choose(serverOf("b.test"), "")()
	// What cannot be told is refused.
	table["unreadable"] = true
	refused(a, "alice", "cannot tell whether a.test is mounted: unreadable")
	info, err := os.Stat(filepath.Join(dir, "rpctlscd.choices"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

// Two mounts at once, each with its own identity, of one server: one of them is
// refused.
func TestChoicesAtOnce(t *testing.T) {
	c, err := loadChoices(t.TempDir(), mountTable{}.mounted)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		wg.Go(func() { _, results[i] = c.choose(serverOf("a.test"), fmt.Sprint(i)) })
	}
	wg.Wait()
	good := 0
	for i, err := range results {
		if err == nil {
			good++
			if got, _ := c.of("a.test", netip.Addr{}); got != fmt.Sprint(i) {
				t.Errorf("%d was chosen, %q is presented", i, got)
			}
		}
	}
	if good != 1 {
		t.Errorf("%d of them were taken", good)
	}
}

// The number of servers is bounded, and those that are not mounted make room.
func TestChoicesAreBounded(t *testing.T) {
	table := mountTable{}
	c, err := loadChoices(t.TempDir(), table.mounted)
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxChoices {
		name := fmt.Sprintf("s%d.test", i)
		release, err := c.choose(serverOf(name), "alice")
		if err != nil {
			t.Fatal(err)
		}
		release()
		table[name] = true
	}
	if _, err := c.choose(serverOf("more.test"), "alice"); err == nil || !strings.Contains(err.Error(), "more than 256") {
		t.Errorf("one more: %v", err)
	}
	delete(table, "s7.test")
	if _, err := c.choose(serverOf("more.test"), "alice"); err != nil {
		t.Errorf("in place of one: %v", err)
	}
	if _, ok := c.of("s7.test", netip.Addr{}); ok || len(c.list) != maxChoices {
		t.Errorf("%d, s7 %v", len(c.list), ok)
	}
}

// A file that is not what was written stops the daemon: it would present the
// wrong certificate.
func TestChoicesFileIsStrict(t *testing.T) {
	for _, text := range []string{"", "{}", "[{}]", "null x", `[{"server":{"name":"a"},"more":1}]`, `[{"server":{"name":"a","addresses":["x"]}}]`, "[] []"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "rpctlscd.choices")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := loadChoices(dir, mountTable{}.mounted); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzChoices(f *testing.F) {
	f.Add([]byte(`[{"server":{"name":"a.test","addresses":["10.0.0.1"]},"identity":"alice"}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := parseChoices(b)
		if err != nil {
			return
		}
		c := &choices{path: filepath.Join(t.TempDir(), "x"), mounted: mountTable{}.mounted}
		if len(list) > 0 {
			if err := c.store(list); err != nil {
				t.Fatal(err)
			}
			again, err := os.ReadFile(c.path)
			if err != nil {
				t.Fatal(err)
			}
			if l, err := parseChoices(again); err != nil || len(l) != len(list) {
				t.Errorf("%q, written again as %q: %v", b, again, err)
			}
		}
	})
}
