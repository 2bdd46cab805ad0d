// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"rpctls/internal/mountinfo"
	"rpctls/internal/names"
)

// A place is where something is to be mounted.
type place struct {
	dir    string       // as the kernel will call it
	host   string       // of which server; empty: of any
	before map[int]bool // the NFS mounts that are there already

	resolved  bool
	addresses []netip.Addr // of the server, when somebody has had to know
}

// Variables for tests.
var (
	mountTable = mountinfo.Self
	unmount    = unix.Unmount
)

// look finds out about a directory before anything of a server's is mounted on it:
// afterwards a look might have to wait for that server.
func look(dir, host string) (*place, error) {
	p := &place{dir: dir, host: host, before: make(map[int]bool)}
	if abs, err := filepath.Abs(dir); err == nil {
		p.dir = abs
	}
	if real, err := filepath.EvalSymlinks(p.dir); err == nil {
		p.dir = real
	}
	mounts, err := mountTable()
	if err != nil {
		return p, err
	}
	for _, m := range mounts {
		if m.Point == p.dir {
			p.before[m.ID] = true
		}
	}
	return p, nil
}

// top returns the uppermost NFS mount of the server at the place, and whether it is
// new. A new one goes first.
func (p *place) top() (m mountinfo.Mount, found, fresh bool, err error) {
	mounts, err := mountTable()
	if err != nil {
		return m, false, false, err
	}
	here := make(map[int]bool)
	for _, other := range mounts {
		if other.Point != p.dir {
			continue
		}
		here[other.ID] = true
		isNew := !p.before[other.ID]
		if (isNew || !fresh) && p.isOurs(other, isNew) {
			m, found, fresh = other, true, isNew
		}
	}
	// The number of one that is gone may come again.
	maps.DeleteFunc(p.before, func(id int, _ bool) bool { return !here[id] })
	return m, found, fresh, nil
}

// isOurs reports whether a mount is of the server. The kernel calls it by the name
// by which it was mounted first, so that another name is no proof that it is another server's.
func (p *place) isOurs(m mountinfo.Mount, isNew bool) bool {
	if p.host == "" || names.Same(m.Host, p.host) {
		return true
	}
	if !isNew {
		return false
	}
	if !p.resolved {
		p.resolved, p.addresses = true, resolve(context.Background(), p.host)
	}
	addr, ok := names.Addr(m.Addr)
	return ok && slices.Contains(p.addresses, addr)
}

// A weakError is a mount that is not protected as was asked for.
type weakError struct {
	dir       string
	got, want string
	undone    error // nil: it was unmounted again
}

func (e *weakError) Error() string {
	s := fmt.Sprintf("%s was mounted with xprtsec=%s, not %s", e.dir, e.got, e.want)
	if e.undone != nil {
		return fmt.Sprintf("%s, and STILL IS: %v", s, e.undone)
	}
	return s + ", and has been unmounted again"
}

// verify makes sure that what was mounted is protected as was asked for, and
// unmounts what is not. Only what is new counts: what was there before is nobody's
// success, and not for us to unmount.
func (p *place) verify(want string) (mounted bool, err error) {
	m, _, fresh, err := p.top()
	if err != nil {
		return false, fmt.Errorf("cannot tell how %s is protected: %w", p.dir, err)
	}
	if !fresh {
		return false, nil
	}
	if m.XprtSec == want {
		return true, nil
	}
	weak := &weakError{dir: p.dir, got: m.XprtSec, want: want}
	if m.Covered {
		weak.undone = errors.New("something else is mounted on top of it")
		return true, weak
	}
	if weak.undone = unmount(p.dir, unix.UMOUNT_NOFOLLOW); weak.undone != nil {
		// Somebody uses it already. What is open stays so, but nothing new is
		// opened.
		weak.undone = unmount(p.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return true, weak
}
