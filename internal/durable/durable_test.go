// SPDX-License-Identifier: BSD-3-Clause

package durable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/internal/durable"
	"rpctls/internal/durable/durabletest"
)

// tree lists dir: names, modes, link targets and contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(b)
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		name, _ := filepath.Rel(dir, path)
		got[name] = info.Mode().String() + " " + content
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Every change, at every mishap: the old or the new, nothing of the change
// left behind after a failure, and nothing after a crash that Sweep misses.
func TestMishaps(t *testing.T) {
	changes := []struct {
		name   string
		change func(d *durable.Disk, dir string) error
		after  map[string]string
	}{
		{"write a new file", func(d *durable.Disk, dir string) error {
			return d.WriteFile(dir+"/new", []byte("text"), durable.Attr{Mode: 0o640})
		}, map[string]string{"new": "-rw-r----- text"}},
		{"replace a file", func(d *durable.Disk, dir string) error {
			return d.WriteFile(dir+"/old", []byte("text"), durable.Attr{Mode: 0o644})
		}, map[string]string{"old": "-rw-r--r-- text"}},
		{"replace a link", func(d *durable.Disk, dir string) error {
			return d.Symlink("new", dir+"/link")
		}, map[string]string{"link": "Lrwxrwxrwx new"}},
		{"make a directory", func(d *durable.Disk, dir string) error {
			return d.MakeDir(dir+"/sub", 0o750, func(sub string, quiet *durable.Disk) error {
				return errors.Join(quiet.WriteFile(sub+"/a", []byte("1"), durable.Attr{Mode: 0o600}),
					quiet.WriteFile(sub+"/b", []byte("2"), durable.Attr{Mode: 0o600}))
			})
		}, map[string]string{"sub": "drwxr-x--- ", "sub/a": "-rw------- 1", "sub/b": "-rw------- 2"}},
		{"append", func(d *durable.Disk, dir string) error {
			return d.Append(dir+"/old", []byte("more"))
		}, map[string]string{"old": "-rw------- oldmore"}},
	}
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			durabletest.Each(func(m *durabletest.Mishap) {
				dir := t.TempDir()
				write(t, dir+"/old", "old")
				if err := os.Symlink("old", dir+"/link"); err != nil {
					t.Fatal(err)
				}
				before := tree(t, dir)
				after := tree(t, dir)
				for name, want := range c.after {
					after[name] = want
				}
				err := c.change(m.Disk(), dir)
				if (err != nil) != (m.What != "") && !strings.HasPrefix(m.What, "remove") {
					t.Errorf("%v: error %v", m, err)
				}
				if m.What != "" && !m.Crash && !errors.Is(err, syscall.ENOSPC) {
					t.Errorf("%v: error %v does not say why", m, err)
				}
				if m.Crash {
					if err := new(durable.Disk).Sweep(dir); err != nil {
						t.Fatal(err)
					}
				}
				got := tree(t, dir)
				if c.name == "append" && m.Crash {
					torn := strings.TrimPrefix(got["old"], before["old"])
					if !strings.HasPrefix("more", torn) {
						t.Errorf("%v: appended %q", m, torn)
					}
					return
				}
				if !cmp.Equal(got, before) && !cmp.Equal(got, after) {
					t.Errorf("%v: neither before nor after:\n%v", m, got)
				}
				if err == nil && !cmp.Equal(got, after) {
					t.Errorf("no error, but (-want +got):\n%s", cmp.Diff(after, got))
				}
			})
		})
	}
}

// A directory that could not be made leaves none above it behind.
func TestParentsGoToo(t *testing.T) {
	dir := t.TempDir()
	d := &durable.Disk{Step: func(op, path string) error {
		if op == "write" {
			return syscall.ENOSPC
		}
		return nil
	}}
	err := d.MakeDir(dir+"/a/b/c", 0o700, func(sub string, quiet *durable.Disk) error {
		return quiet.WriteFile(sub+"/f", nil, durable.Attr{Mode: 0o600})
	})
	if got := tree(t, dir); !errors.Is(err, syscall.ENOSPC) || len(got) != 0 {
		t.Errorf("%v, then %v", err, got)
	}
}

// The order on which doc.go's promise rests.
func TestOrderOfSteps(t *testing.T) {
	dir := t.TempDir()
	var steps []string
	d := &durable.Disk{Step: func(op, _ string) error { steps = append(steps, op); return nil }}
	if err := d.WriteFile(dir+"/f", []byte("x"), durable.Attr{Mode: 0o640, Group: os.Getegid()}); err != nil {
		t.Fatal(err)
	}
	want := []string{"create", "write", "chmod", "sync", "rename", "sync directory"}
	if os.Getegid() != 0 {
		want = []string{"create", "write", "chown", "chmod", "sync", "rename", "sync directory"}
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/old", "old")
	before := tree(t, dir)
	var reports []durable.Change
	d := &durable.Disk{
		DryRun: true,
		Report: func(c durable.Change) { reports = append(reports, c) },
		Step:   func(op, path string) error { t.Errorf("step %s %s", op, path); return nil },
	}
	err := errors.Join(
		d.WriteFile(dir+"/old", []byte("new"), durable.Attr{Mode: 0o600}),
		d.MakeDir(dir+"/a/b", 0o700, func(sub string, quiet *durable.Disk) error {
			return quiet.WriteFile(sub+"/c", nil, durable.Attr{Mode: 0o600})
		}),
		d.Append(dir+"/old", []byte("x")),
		d.Truncate(dir+"/old", 0),
		d.Symlink("x", dir+"/link"),
		d.Remove(dir+"/old"),
		d.Remove(dir+"/none"),
		d.Rename(dir+"/old", dir+"/new"),
	)
	if err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("changed (-before +after):\n%s", diff)
	}
	want := []durable.Change{
		{Verb: "write", Path: dir + "/old"}, {Verb: "make directory", Path: dir + "/a"}, {Verb: "make directory", Path: dir + "/a/b"},
		{Verb: "link", Path: dir + "/link"}, {Verb: "remove", Path: dir + "/old"},
	}
	if diff := cmp.Diff(want, reports); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

func TestLock(t *testing.T) {
	dir := t.TempDir()
	release, err := durable.Lock(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := durable.Lock(dir, 30*time.Millisecond); !errors.Is(err, durable.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second lock: %v", err)
	}
	time.AfterFunc(50*time.Millisecond, release)
	release, err = durable.Lock(dir, 5*time.Second)
	if err != nil {
		t.Fatalf("after release: %v", err)
	}
	release()
	if _, err := durable.Lock(dir+"/none", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
}
