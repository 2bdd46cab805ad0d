// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netns

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"
)

// maxEntries is how many entries of a directory are looked at.
const maxEntries = 4096

// An ID tells namespaces apart that are held by something.
type ID struct{ Dev, Ino uint64 }

// A Found is a namespace that has names.
type Found struct {
	ID    ID
	Paths []string // its names, in the order of the patterns
}

// List returns the namespaces that the patterns mean, except for the calling
// thread's own, each once. What is not there, or is no network namespace, is left
// out: names come and go, and "ip netns add" makes the file before it is one. The
// error, which comes with what could be found, is about directories that cannot be
// read.
func List(patterns []Pattern) ([]Found, error) {
	own, err := identify("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	var list []Found
	var errs []error
	for _, p := range patterns {
		if p.IsHost() {
			continue
		}
		paths, err := p.expand()
		if err != nil {
			errs = append(errs, err)
		}
		for _, name := range paths {
			id, err := identify(name)
			if err != nil || id == own {
				continue
			}
			i := slices.IndexFunc(list, func(f Found) bool { return f.ID == id })
			if i < 0 {
				list = append(list, Found{id, []string{name}})
			} else if !slices.Contains(list[i].Paths, name) {
				list[i].Paths = append(list[i].Paths, name)
			}
		}
	}
	return list, errors.Join(errs...)
}

// expand returns the paths that may be meant, in order.
func (p Pattern) expand() ([]string, error) {
	if p.literal() {
		return []string{p.text}, nil
	}
	dir := path.Dir(p.text)
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the first namespace will make it
	}
	if err != nil {
		return nil, fmt.Errorf("network namespaces: %w", err)
	}
	defer f.Close()
	names, err := f.Readdirnames(maxEntries)
	if err == io.EOF {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("network namespaces: %w", err)
	}
	var paths []string
	for _, n := range names {
		if full := path.Join(dir, n); p.Match(full) {
			paths = append(paths, full)
		}
	}
	slices.Sort(paths)
	return paths, err
}

var errNotOne = errors.New("not a network namespace")

// identify looks at a name without opening it: whatever else is there may not like
// that.
func identify(name string) (ID, error) {
	var sfs unix.Statfs_t
	if err := unix.Statfs(name, &sfs); err != nil {
		return ID{}, &os.PathError{Op: "statfs", Path: name, Err: err}
	}
	if sfs.Type != unix.NSFS_MAGIC {
		return ID{}, fmt.Errorf("%s: %w", name, errNotOne)
	}
	fd, id, err := open(name)
	if err != nil {
		return ID{}, err
	}
	unix.Close(fd)
	return id, nil
}

// open opens a name of a network namespace.
func open(name string) (fd int, id ID, err error) {
	fd, err = unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, ID{}, &os.PathError{Op: "open", Path: name, Err: err}
	}
	// Anything else refuses the ioctl, or has another answer.
	typ, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || typ != unix.CLONE_NEWNET {
		unix.Close(fd)
		return -1, ID{}, fmt.Errorf("%s: %w", name, errNotOne)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, ID{}, &os.PathError{Op: "fstat", Path: name, Err: err}
	}
	return fd, ID{st.Dev, st.Ino}, nil
}
