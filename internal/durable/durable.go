// SPDX-License-Identifier: BSD-3-Clause

package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// tempPrefix begins the names of files that are not finished. The dot keeps
// them out of every directory of certificates.
const tempPrefix = ".rpctls-new-"

// A Disk makes changes. The zero value is the real disk.
type Disk struct {
	// DryRun leaves everything as it is.
	DryRun bool
	// Report, if not nil, hears of each change that is made, or would be.
	Report func(Change)
	// Step, if not nil, is asked before each step; its error is the step's.
	// A write that fails so has written half.
	Step func(op, path string) error
}

// A Change is one that a user would notice.
type Change struct {
	Verb string // "write", "link", "remove", "make directory"
	Path string
}

// Attr are the attributes of a new file.
type Attr struct {
	Mode fs.FileMode
	// Group owns the file; 0 leaves it with the group of the process.
	Group int
}

func (d *Disk) step(op, path string) error {
	if d.Step == nil {
		return nil
	}
	if err := d.Step(op, path); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	return nil
}

// Note reports a change that was made in other words, through a Disk that
// reports nothing.
func (d *Disk) Note(verb, path string) {
	if d.Report != nil {
		d.Report(Change{verb, path})
	}
}

// Quiet is the same disk, reporting nothing: for changes that are not the
// user's concern one by one.
func (d *Disk) Quiet() *Disk { return &Disk{DryRun: d.DryRun, Step: d.Step} }

// A Staged file (or link) is complete on disk, but not yet under its name. That leaves
// for Publish the one step that hardly fails.
type Staged struct {
	disk       *Disk
	temp, path string
	verb       string // of the change
}

// WriteFile creates or replaces path.
func (d *Disk) WriteFile(path string, data []byte, attr Attr) error {
	s, err := d.Stage(path, data, attr)
	if err != nil {
		return err
	}
	defer s.Discard()
	return s.Publish()
}

// Stage writes data beside path.
func (d *Disk) Stage(path string, data []byte, attr Attr) (*Staged, error) {
	s := &Staged{disk: d, path: path, verb: "write"}
	if d.DryRun {
		return s, nil
	}
	if err := d.step("create", path); err != nil {
		return nil, err
	}
	file, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*") // O_EXCL, 0600
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, underlying(err))
	}
	s.temp = file.Name()
	err = d.fill(file, path, data, attr)
	if err = errors.Join(err, file.Close()); err != nil {
		s.Discard()
		return nil, err
	}
	return s, nil
}

func (d *Disk) fill(file *os.File, path string, data []byte, attr Attr) error {
	if err := d.step("write", path); err != nil {
		file.Write(data[:len(data)/2])
		return err
	}
	if _, err := file.Write(data); err != nil {
		return fmt.Errorf("write %s: %w", path, underlying(err))
	}
	// The owner before the mode: the file is never open to the wrong group.
	if attr.Group != 0 {
		if err := d.step("chown", path); err != nil {
			return err
		}
		if err := file.Chown(-1, attr.Group); err != nil {
			return fmt.Errorf("give %s to group %d: %w", path, attr.Group, underlying(err))
		}
	}
	if err := d.step("chmod", path); err != nil {
		return err
	}
	if err := file.Chmod(attr.Mode); err != nil {
		return fmt.Errorf("chmod %s: %w", path, underlying(err))
	}
	if err := d.step("sync", path); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, underlying(err))
	}
	return nil
}

// underlying drops the name of the temporary file, which would tell nobody
// anything.
func underlying(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Err
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return e.Err
	}
	return err
}

// Publish puts the file under its name, in place of what was there.
func (s *Staged) Publish() error {
	s.disk.Note(s.verb, s.path)
	if s.disk.DryRun {
		return nil
	}
	if err := s.disk.step("rename", s.path); err != nil {
		return err
	}
	if err := os.Rename(s.temp, s.path); err != nil {
		return fmt.Errorf("replace %s: %w", s.path, underlying(err))
	}
	s.temp = ""
	return s.disk.syncDir(filepath.Dir(s.path))
}

// Discard removes what Publish did not put in place.
func (s *Staged) Discard() {
	if s.temp == "" || s.disk.step("remove", s.temp) != nil {
		return
	}
	os.Remove(s.temp) // if that fails, Sweep is next
	s.temp = ""
}

// Append adds data to the end of the file at path, which exists. If that fails
// the file is cut back to what it was; if that fails as well, as in a crash,
// the file ends in a part of data.
func (d *Disk) Append(path string, data []byte) error {
	if d.DryRun {
		return nil
	}
	if err := d.step("append", path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	err = d.appendTo(file, path, data)
	if err == nil {
		return nil
	}
	if d.step("truncate", path) == nil {
		err = errors.Join(err, file.Truncate(info.Size()), file.Sync())
	}
	return err
}

func (d *Disk) appendTo(file *os.File, path string, data []byte) error {
	if err := d.step("write", path); err != nil {
		file.Write(data[:len(data)/2])
		return err
	}
	if _, err := file.Write(data); err != nil {
		return err
	}
	if err := d.step("sync", path); err != nil {
		return err
	}
	return file.Sync()
}

// Truncate cuts the file at path to size bytes.
func (d *Disk) Truncate(path string, size int64) error {
	if d.DryRun {
		return nil
	}
	if err := d.step("truncate", path); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(size); err != nil {
		return err
	}
	return file.Sync()
}

// Mkdir makes a directory, and those above it with mode 0755. It is no error
// if it is there; then its mode stays as it is.
func (d *Disk) Mkdir(path string, mode fs.FileMode) error {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil
	}
	return d.MakeDir(path, mode, func(string, *Disk) error { return nil })
}

// MakeDir makes a directory that appears under its name only when it is
// complete: fill puts into it what it shall hold, with a Disk that reports
// nothing. The directory must not exist, unless it is empty; those above it
// are made with mode 0755, and removed again if this fails.
func (d *Disk) MakeDir(path string, mode fs.FileMode, fill func(dir string, quiet *Disk) error) error {
	parent := filepath.Dir(path)
	missing := missingDirs(parent)
	if len(missing) > 0 {
		if err := d.Mkdir(parent, 0o755); err != nil {
			return err
		}
	}
	d.Note("make directory", path)
	if d.DryRun {
		return fill(path, d.Quiet())
	}
	err := d.makeDir(parent, path, mode, fill)
	if err != nil {
		for _, dir := range missing {
			d.RemoveEmpty(dir)
		}
	}
	return err
}

// missingDirs returns dir and those above it that do not exist, the innermost
// first.
func missingDirs(dir string) (missing []string) {
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return missing
		}
		missing = append(missing, dir)
		dir = filepath.Dir(dir)
	}
}

func (d *Disk) makeDir(parent, path string, mode fs.FileMode, fill func(string, *Disk) error) error {
	if err := d.step("mkdir", path); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(parent, tempPrefix+"*") // 0700
	if err != nil {
		return fmt.Errorf("mkdir %s: %w", path, underlying(err))
	}
	err = d.completeDir(temp, path, mode, fill)
	if err != nil && d.step("remove", temp) == nil {
		os.RemoveAll(temp) // if that fails, Sweep is next
	}
	return err
}

func (d *Disk) completeDir(temp, path string, mode fs.FileMode, fill func(string, *Disk) error) error {
	if err := fill(temp, d.Quiet()); err != nil {
		return err
	}
	if err := d.step("chmod", path); err != nil {
		return err
	}
	if err := os.Chmod(temp, mode); err != nil { // whatever the umask
		return err
	}
	if err := d.syncDir(temp); err != nil {
		return err
	}
	return d.Rename(temp, path)
}

// Symlink makes path a symbolic link to target, in place of whatever file was
// there, in one step.
func (d *Disk) Symlink(target, path string) error {
	s, err := d.StageLink(target, path)
	if err != nil {
		return err
	}
	defer s.Discard()
	return s.Publish()
}

// StageLink is Stage for a symbolic link.
func (d *Disk) StageLink(target, path string) (*Staged, error) {
	s := &Staged{disk: d, path: path, verb: "link"}
	if d.DryRun {
		return s, nil
	}
	if err := d.step("symlink", path); err != nil {
		return nil, err
	}
	temp := filepath.Join(filepath.Dir(path), fmt.Sprintf("%s%d", tempPrefix, rand.Uint64()))
	if err := os.Symlink(target, temp); err != nil {
		return nil, fmt.Errorf("link %s: %w", path, underlying(err))
	}
	s.temp = temp
	return s, nil
}

// Rename moves a file or directory within one directory. A directory may
// replace an empty one.
func (d *Disk) Rename(from, to string) error {
	if d.DryRun {
		return nil
	}
	if err := d.step("rename", to); err != nil {
		return err
	}
	// Not os.Rename, which refuses an empty directory as well.
	if err := syscall.Rename(from, to); err != nil {
		return &fs.PathError{Op: "rename", Path: to, Err: err}
	}
	return d.syncDir(filepath.Dir(to))
}

// Remove removes a file or a directory with all that is in it. It is no error
// if it is not there.
func (d *Disk) Remove(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !isTemp(path) {
		d.Note("remove", path)
	}
	if d.DryRun {
		return nil
	}
	if err := d.step("remove", path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

// RemoveEmpty removes a directory if nothing is in it.
func (d *Disk) RemoveEmpty(dir string) {
	if !d.DryRun && d.step("remove", dir) == nil {
		os.Remove(dir) // rmdir(2), which refuses any other
	}
}

// Sweep removes what an earlier crash left unfinished in dir. The caller holds
// the lock of dir, or else it may be what another process is writing.
func (d *Disk) Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if isTemp(entry.Name()) {
			if err := d.Remove(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func isTemp(path string) bool { return strings.HasPrefix(filepath.Base(path), tempPrefix) }

func (d *Disk) syncDir(dir string) error {
	if err := d.step("sync directory", dir); err != nil {
		return err
	}
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer file.Close()
	return file.Sync()
}
