// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Limits of what one load may read. A host certificate chain has a few KiB,
// the trust bundle of a distribution 250 KiB, and 8 MiB of CRL hold some
// 200,000 serial numbers.
const (
	maxFile    = 1 << 20  // bytes of a certificate or key file
	maxBundle  = 8 << 20  // bytes of a trust bundle or CRL
	maxLoad    = 64 << 20 // bytes of all files of one load
	maxListed  = 1024     // files taken from one directory
	maxScanned = 4096     // entries looked at in one directory
)

// racyAge is how old a file must be, when it is read, for its time stamps
// alone to prove later that it is still the same: file systems keep time in
// steps of 4 ms (a kernel tick) to 2 s, and two writes within one step look
// alike. A younger file is compared by content until it has aged.
const racyAge = 2 * time.Second

// ErrKeyPermission is wrapped by the error of [Files.ReadKey] when owner or
// mode of a private key file allow more than they should.
var ErrKeyPermission = errors.New("private key file is not private")

// Files opens files for one load and remembers what it consulted, including
// what was missing or refused, so that [Files.Changed] can tell whether
// another load would see something else. The zero value is ready for use. A
// Files belongs to one goroutine at a time.
type Files struct {
	seen  map[string]stamp
	total int64 // bytes read so far
}

// A stamp is what Files knows of one path. That of a file describes the
// descriptor which was read, and is taken before its first byte: a file that
// is changed or replaced while it is read, or right after, differs from it.
type stamp struct {
	id   fileID
	fail string // why it could not be opened or read

	young bool      // read before it was racyAge old
	sum   uint64    // of the content, keyed by sumSeed
	limit int64     // how it was read
	check permCheck // the same

	dir      bool // a directory listing, of which only names and fail count
	subdirs  bool // of which only directories count
	suffixes []string
	names    []string
}

type permCheck func(*syscall.Stat_t) error

type fileID struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

// sumSeed differs in every process and never leaves it, so that the sum of a
// key file gives nothing away.
var sumSeed = maphash.MakeSeed()

// Read returns the content of the regular file path (symbolic links are
// followed), at most 1 MiB. A file that is missing, unreadable, empty, larger,
// or of another kind is an error that names it.
func (f *Files) Read(path string) ([]byte, error) {
	return f.read(path, maxFile, nil)
}

// ReadKey is [Files.Read] for a private key. The file must be owned by root or
// by the effective user of this process, must not be writable by its group and
// not accessible to others; its group may read it if it is group 0 or a group
// of this process. These properties are those of the opened file, not of
// whatever the path names a moment later. The error wraps [ErrKeyPermission]
// and says what was found and how to mend it.
//
// The caller wipes the result.
func (f *Files) ReadKey(path string) ([]byte, error) {
	return f.read(path, maxFile, func(st *syscall.Stat_t) error {
		groups, err := os.Getgroups()
		if err != nil {
			return fmt.Errorf("get groups: %w", err)
		}
		return checkKeyFile(st.Mode, st.Uid, st.Gid, os.Geteuid(), append(groups, os.Getegid()))
	})
}

// checkKeyFile applies the rule of ReadKey. Group 0 may read because systemd
// hands over credentials (LoadCredential=) as files of root's group with an
// access control entry for the daemon, which shows in the group bits.
func checkKeyFile(mode, uid, gid uint32, euid int, groups []int) error {
	perm := mode & 0o7777
	switch {
	case uid != 0 && int(uid) != euid:
		return fmt.Errorf("%w: owned by uid %d, want root or uid %d; run chown", ErrKeyPermission, uid, euid)
	case perm&0o007 != 0:
		return fmt.Errorf("%w: mode %04o gives access to others; run chmod 0600", ErrKeyPermission, perm)
	case perm&0o020 != 0:
		return fmt.Errorf("%w: mode %04o lets the group write; run chmod 0600 (or 0640)", ErrKeyPermission, perm)
	case perm&0o040 != 0 && gid != 0 && !slices.Contains(groups, int(gid)):
		return fmt.Errorf("%w: mode %04o lets gid %d read, which is not a group of this process; run chmod 0600", ErrKeyPermission, perm, gid)
	}
	return nil
}

// List returns the paths, sorted, of the files in dir whose name ends in one
// of suffixes (".pem"; case does not matter). Subdirectories and names that
// begin with a dot are passed over: the latter are what editors and rsync
// write to before they rename, and the "..data" of Kubernetes. An entry that
// is not a regular file after symbolic links were followed is an error, as are
// more than 1024 of them, or more than 4096 entries of any kind. An empty list is no error.
func (f *Files) List(dir string, suffixes ...string) ([]string, error) {
	names, err := list(dir, suffixes)
	st := stamp{dir: true, suffixes: slices.Clone(suffixes), names: names}
	if err != nil {
		st.fail = err.Error()
	}
	f.remember(dir, st)
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(dir, name)
	}
	return paths, nil
}

// Paths returns the paths of everything consulted, sorted.
func (f *Files) Paths() []string {
	paths := make([]string, 0, len(f.seen))
	for path := range f.seen {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

// Changed looks again at everything consulted, by path, and reports whether
// anything differs from what was read: another file behind the path (device,
// inode), another size, mtime or ctime, other names in a directory, or
// something that came or went. No notification service of the kernel is used,
// because it watches inodes: where a path leads through a chain of symbolic
// links, as with Let's Encrypt and Kubernetes, any link may be the one that is
// replaced.
func (f *Files) Changed() bool {
	for path, old := range f.seen {
		now := old.again(path)
		if !old.same(now) {
			return true
		}
		f.seen[path] = now
	}
	return false
}

func (old stamp) again(path string) stamp {
	if old.dir {
		now := stamp{dir: true, subdirs: old.subdirs, suffixes: old.suffixes}
		var err error
		if old.subdirs {
			now.names, err = listDirectories(path)
		} else {
			now.names, err = list(path, old.suffixes)
		}
		if err != nil {
			now.fail = err.Error()
		}
		return now
	}
	if old.young {
		data, now, _ := load(path, old.limit, old.check)
		clear(data)
		return now
	}
	file, now, err := open(path)
	if err != nil {
		return now
	}
	file.Close()
	now.sum, now.limit, now.check = old.sum, old.limit, old.check
	return now
}

func (old stamp) same(now stamp) bool {
	return old.id == now.id && old.fail == now.fail && old.sum == now.sum && slices.Equal(old.names, now.names)
}

// remember keeps the first stamp of a path: if it is consulted twice and
// differs, the first one is outdated and Changed says so.
func (f *Files) remember(path string, st stamp) {
	if f.seen == nil {
		f.seen = make(map[string]stamp)
	}
	if _, ok := f.seen[path]; !ok {
		f.seen[path] = st
	}
}

func (f *Files) read(path string, limit int64, check permCheck) ([]byte, error) {
	data, st, err := load(path, limit, check)
	f.remember(path, st)
	if err != nil {
		return nil, err
	}
	if f.total += int64(len(data)); f.total > maxLoad {
		clear(data)
		return nil, fmt.Errorf("read %s: more than %d MiB in all files together", path, maxLoad>>20)
	}
	return data, nil
}

// isDir tells whether path is a directory. Nothing is remembered: the caller
// goes on to list or read it, which is.
func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// A handle is an opened file with what fstat says of it.
type handle struct {
	*os.File
	info os.FileInfo
	sys  *syscall.Stat_t
}

// open opens path and stamps the descriptor. O_NONBLOCK keeps a FIFO from
// holding up the load for ever; it means nothing for a regular file.
func open(path string) (handle, stamp, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return handle{}, stamp{fail: cause(err)}, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return handle{}, stamp{fail: cause(err)}, err
	}
	sys := info.Sys().(*syscall.Stat_t)
	return handle{file, info, sys}, stamp{id: fileID{
		dev: uint64(sys.Dev), ino: sys.Ino, size: sys.Size, mtime: sys.Mtim, ctime: sys.Ctim,
	}}, nil
}

// cause reduces an error to what can be compared between two attempts.
func cause(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// load reads path. The stamp is valid with every error.
func load(path string, limit int64, check permCheck) ([]byte, stamp, error) {
	file, st, err := open(path)
	if err != nil {
		return nil, st, err
	}
	defer file.Close()
	st.limit, st.check = limit, check
	st.young = time.Since(time.Unix(st.id.ctime.Unix())) < racyAge
	size := file.info.Size()
	switch {
	case file.info.IsDir():
		return nil, st, fmt.Errorf("read %s: is a directory", path)
	case !file.info.Mode().IsRegular():
		return nil, st, fmt.Errorf("read %s: not a regular file", path)
	case size == 0:
		return nil, st, fmt.Errorf("read %s: file is empty", path)
	case size > limit:
		return nil, st, fmt.Errorf("read %s: %d bytes, more than the limit of %d", path, size, limit)
	}
	if check != nil {
		if err := check(file.sys); err != nil {
			return nil, st, fmt.Errorf("read %s: %w", path, err)
		}
	}
	// One buffer of the size found, never a growing one, which would leave
	// copies of a key behind. The byte in excess notices a file that grew.
	data := make([]byte, size+1)
	n, err := io.ReadFull(file, data)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		clear(data)
		st.fail = cause(err)
		return nil, st, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(n) != size {
		clear(data)
		return nil, st, fmt.Errorf("read %s: file changed while it was read", path)
	}
	st.sum = maphash.Bytes(sumSeed, data[:n])
	return data[:n], st, nil
}

// scan returns the entries of a directory, at most maxScanned of them.
func scan(dir string) ([]os.DirEntry, error) {
	file, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	entries, err := file.ReadDir(maxScanned + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(entries) > maxScanned {
		return nil, fmt.Errorf("list %s: more than %d entries", dir, maxScanned)
	}
	return entries, nil
}

func list(dir string, suffixes []string) ([]string, error) {
	entries, err := scan(dir)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, entry := range entries {
		name := entry.Name()
		if strings.HasPrefix(name, ".") || !hasSuffix(name, suffixes) {
			continue
		}
		info, err := os.Stat(filepath.Join(dir, name))
		switch {
		case err != nil:
			return nil, err
		case info.IsDir():
			continue
		case !info.Mode().IsRegular():
			return nil, fmt.Errorf("list %s: %s is not a regular file", dir, filepath.Join(dir, name))
		}
		if names = append(names, name); len(names) > maxListed {
			return nil, fmt.Errorf("list %s: more than %d files", dir, maxListed)
		}
	}
	slices.Sort(names)
	return names, nil
}

func hasSuffix(name string, suffixes []string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(suffixes, func(s string) bool { return strings.HasSuffix(name, s) })
}
