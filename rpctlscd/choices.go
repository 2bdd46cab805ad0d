// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"rpctls/internal/clientask"
	"rpctls/internal/names"
)

// choices are the identities that mounts have asked for, by server: what takes
// the place of the mount option where the kernel has none. The kernel then has one
// connection for all mounts of a server, whatever they asked for, so that a server
// has one identity at a time, and who asks for another is refused as long as there
// is a mount.
//
// They are kept in the runtime directory: a daemon that restarts goes on
// presenting what it did, and a host that restarts has no mounts.
type choices struct {
	path    string
	mounted func(clientask.Server) (bool, error)

	write sync.Mutex // one choice at a time: held while mounted is asked and the file written
	mu    sync.RWMutex
	list  []choice  // guarded by mu
	holds []*choice // guarded by mu: of mounts in progress
}

// A choice is part of the file.
type choice struct {
	Server   clientask.Server `json:"server"`
	Identity string           `json:"identity"` // empty, in holds only: the configuration's
}

// Bounds of the file: servers, and bytes.
const (
	maxChoices     = 256
	maxChoicesFile = 1 << 20
)

// loadChoices reads what an earlier instance has kept. A file that cannot be
// read is an error: going on without would present the wrong certificate.
func loadChoices(dir string, mounted func(clientask.Server) (bool, error)) (*choices, error) {
	c := &choices{path: filepath.Join(dir, "rpctlscd.choices"), mounted: mounted}
	f, err := os.Open(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("identities chosen by mounts: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxChoicesFile+1))
	if err == nil {
		c.list, err = parseChoices(b)
	}
	if err != nil {
		return nil, fmt.Errorf("identities chosen by mounts: %s: %w (without mounts, remove the file)", c.path, err)
	}
	return c, nil
}

func parseChoices(b []byte) (list []choice, err error) {
	if len(b) > maxChoicesFile {
		return nil, fmt.Errorf("over %d bytes", maxChoicesFile)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&list); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the list")
	}
	if len(list) > maxChoices {
		return nil, fmt.Errorf("over %d servers", maxChoices)
	}
	for _, ch := range list {
		if err := ch.Server.Check(); err != nil {
			return nil, err
		}
		if ch.Identity == "" {
			return nil, errors.New("an identity is missing")
		}
	}
	return list, nil
}

// of returns the identity that was chosen for a server, if one was. A choice by
// name goes before one by address.
func (c *choices) of(name string, addr netip.Addr) (identity string, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, ch := range c.list {
		if names.Same(ch.Server.Name, name) {
			return ch.Identity, true
		}
	}
	for _, ch := range c.list {
		if addr.IsValid() && hasAddress(ch.Server, addr) {
			return ch.Identity, true
		}
	}
	return "", false
}

func hasAddress(s clientask.Server, addr netip.Addr) bool {
	return slices.ContainsFunc(s.Addresses, func(a netip.Addr) bool { return names.Same(a.String(), addr.String()) })
}

// sameServer reports whether two names may stand for one server.
func sameServer(a, b clientask.Server) bool {
	return names.Same(a.Name, b.Name) || slices.ContainsFunc(a.Addresses, func(x netip.Addr) bool {
		return hasAddress(b, x) || names.Same(b.Name, x.String())
	}) || slices.ContainsFunc(b.Addresses, func(x netip.Addr) bool { return names.Same(a.Name, x.String()) })
}

// choose makes a choice, which cannot be changed until release is called, nor
// while the server is mounted.
func (c *choices) choose(server clientask.Server, identity string) (release func(), err error) {
	c.write.Lock()
	defer c.write.Unlock()
	for _, h := range c.inProgress() {
		if sameServer(h.Server, server) && h.Identity != identity {
			return nil, clientask.ErrConflict(fmt.Sprintf("%s is just being mounted with %s", h.Server.Name, called(h.Identity)))
		}
	}
	next := choice{server, identity}
	var rest []choice
	known := false
	for _, ch := range c.list { // only choose changes it, and write is held
		switch {
		case !sameServer(ch.Server, server):
			rest = append(rest, ch)
		case ch.Identity == identity:
			known = true
			if !names.Same(ch.Server.Name, server.Name) {
				rest = append(rest, ch) // the same server by another name
				continue
			}
			next.Server.Addresses = merge(server.Addresses, ch.Server.Addresses)
		default:
			if err := c.refuseMounted(ch.Server, ch.Identity); err != nil {
				return nil, err
			}
		}
	}
	// A mount that made no choice presents what the configuration says.
	if !known && identity != "" {
		if err := c.refuseMounted(server, ""); err != nil {
			return nil, err
		}
	}
	if identity != "" && len(rest) >= maxChoices {
		if rest = c.withoutIdle(rest); len(rest) >= maxChoices {
			return nil, fmt.Errorf("more than %d servers have an identity of their own", maxChoices)
		}
	}
	list := rest
	if identity != "" { // else it is what is done without a choice
		list = append(list, next)
	}
	if err := c.store(list); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = list
	c.holds = append(c.holds, &next)
	return func() { c.release(&next) }, nil
}

func (c *choices) inProgress() []*choice {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.holds)
}

func (c *choices) release(h *choice) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holds = slices.DeleteFunc(c.holds, func(other *choice) bool { return other == h })
}

// refuseMounted refuses to change the identity of a server that is mounted. When
// it cannot be told whether it is, it is.
func (c *choices) refuseMounted(s clientask.Server, identity string) error {
	yes, err := c.mounted(s)
	if err != nil {
		return fmt.Errorf("cannot tell whether %s is mounted: %w", s.Name, err)
	}
	if yes {
		return clientask.ErrConflict(fmt.Sprintf("%s is mounted with %s", s.Name, called(identity)))
	}
	return nil
}

func called(identity string) string {
	if identity == "" {
		return "this host's own certificate"
	}
	return fmt.Sprintf("identity %q", identity)
}

// withoutIdle leaves out the choices of servers that are not mounted.
func (c *choices) withoutIdle(list []choice) []choice {
	holds := c.inProgress()
	return slices.DeleteFunc(list, func(ch choice) bool {
		if slices.ContainsFunc(holds, func(h *choice) bool { return sameServer(h.Server, ch.Server) }) {
			return false
		}
		yes, err := c.mounted(ch.Server)
		return err == nil && !yes
	})
}

// merge adds addresses that are not there yet, up to what a server may have.
func merge(to, from []netip.Addr) []netip.Addr {
	to = slices.Clone(to)
	for _, a := range from {
		if !slices.Contains(to, a) {
			to = append(to, a)
		}
	}
	return clientask.Server{Addresses: to}.Limit().Addresses
}

func (c *choices) store(list []choice) error {
	b, err := json.Marshal(list)
	if err == nil && len(b) > maxChoicesFile {
		err = fmt.Errorf("over %d bytes", maxChoicesFile)
	}
	if err == nil {
		// Whole or not at all, for a daemon that comes next. Not synced: this is
		// a file system in memory, and what it is about does not survive the host.
		tmp := c.path + ".new"
		if err = os.WriteFile(tmp, append(b, '\n'), 0o600); err == nil {
			err = os.Rename(tmp, c.path)
		}
	}
	if err != nil {
		return fmt.Errorf("remember the identity: %w", err)
	}
	return nil
}
