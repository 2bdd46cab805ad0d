// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"rpctls/internal/mountinfo"
)

// A place is where something is to be mounted.
type place struct {
	dir    string       // as the kernel will call it
	before map[int]bool // the NFS mounts that are there already
}

// look finds out about a directory before anything is mounted on it: afterwards
// a look might have to wait for a server.
func look(dir string) (place, error) {
	p := place{dir: dir, before: make(map[int]bool)}
	if abs, err := filepath.Abs(dir); err == nil {
		p.dir = abs
	}
	if real, err := filepath.EvalSymlinks(p.dir); err == nil {
		p.dir = real
	}
	mounts, err := mountinfo.Self()
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

// top returns the NFS mount that is on top at the place, and whether it is new.
func (p place) top() (m mountinfo.Mount, found, fresh bool, err error) {
	mounts, err := mountinfo.Self()
	if err != nil {
		return m, false, false, err
	}
	for _, other := range mounts {
		if other.Point == p.dir {
			m, found = other, true
		}
	}
	return m, found, found && !p.before[m.ID], nil
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
// unmounts what is not.
func (p place) verify(want string) (mounted bool, err error) {
	m, found, fresh, err := p.top()
	if err != nil {
		return false, fmt.Errorf("cannot tell how %s is protected: %w", p.dir, err)
	}
	if !found {
		return false, nil
	}
	if m.XprtSec == want {
		return true, nil
	}
	weak := &weakError{dir: p.dir, got: m.XprtSec, want: want}
	if !fresh {
		weak.undone = errors.New("it was so before")
		return true, weak
	}
	if weak.undone = unix.Unmount(p.dir, unix.UMOUNT_NOFOLLOW); weak.undone != nil {
		// Somebody uses it already. What is open stays so, but nothing new is
		// opened.
		weak.undone = unix.Unmount(p.dir, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	return true, weak
}
