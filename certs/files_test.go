// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

// put replaces a file in one step, as a careful tool does.
func put(t testing.TB, path string, data []byte, mode os.FileMode) string {
	t.Helper()
	if err := certstest.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantErr checks that err is there and contains every one of parts.
func wantErr(t testing.TB, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not contain %q", err, part)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	tests := []struct {
		name string
		make func()
		want string
	}{
		{"missing", func() {}, "no such file"},
		{"dangling link", func() { must(t, os.Symlink("nowhere", path)) }, "no such file"},
		{"empty", func() { put(t, path, nil, 0o644) }, "file is empty"},
		{"too large", func() { put(t, path, make([]byte, 1<<20+1), 0o644) }, "more than the limit"},
		{"directory", func() { must(t, os.Mkdir(path, 0o755)) }, "is a directory"},
		{"fifo, without waiting for a writer", func() { must(t, syscall.Mkfifo(path, 0o644)) }, "not a regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.make()
			defer os.Remove(path)
			var f certs.Files
			data, err := f.Read(path)
			wantErr(t, err, path, tt.want)
			if data != nil {
				t.Errorf("data returned with an error")
			}
			if f.Changed() {
				t.Error("changed though nothing did")
			}
			os.Remove(path)
			put(t, path, []byte("mended"), 0o644)
			if !f.Changed() {
				t.Error("the mended file was not noticed")
			}
		})
	}
}

func TestReadRefusesWhatOthersCannotRead(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	path := put(t, filepath.Join(t.TempDir(), "file"), []byte("x"), 0)
	var f certs.Files
	_, err := f.Read(path)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want a permission error", err)
	}
}

func TestReadAllFilesTogetherAreBounded(t *testing.T) {
	path := put(t, filepath.Join(t.TempDir(), "file"), make([]byte, 1<<20), 0o644)
	var f certs.Files
	for range 64 {
		_, err := f.Read(path)
		must(t, err)
	}
	_, err := f.Read(path)
	wantErr(t, err, path, "more than 64 MiB")
}

func TestReadNoticesGrowthAndTruncation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for name, size := range map[string]int64{"grown": 11, "truncated": 5, "emptied": 0} {
		t.Run(name, func(t *testing.T) {
			put(t, path, make([]byte, 10), 0o644)
			var f certs.Files
			_, err := f.ReadWhile(path, func() { must(t, os.Truncate(path, size)) })
			wantErr(t, err, path, "changed while it was read")
		})
	}
}

func TestKeyFileRule(t *testing.T) {
	const us, group, other = 990, 991, 1000
	tests := []struct {
		name          string
		mode          uint32
		uid, gid      uint32
		want, wantFix string
	}{
		{"readable by others", 0o604, 0, 0, "mode 0604 gives access to others", "chmod 0600"},
		{"executable by others", 0o601, 0, 0, "mode 0601 gives access to others", "chmod 0600"},
		{"writable by others", 0o602, us, 0, "mode 0602 gives access to others", "chmod 0600"},
		{"writable by the group", 0o620, us, us, "mode 0620 lets the group write", "chmod 0600"},
		{"readable by a foreign group", 0o640, us, other, "mode 0640 lets gid 1000 read", "chmod 0600"},
		{"owned by somebody else", 0o600, other, 0, "owned by uid 1000", "chown"},
		{name: "ours", mode: 0o600, uid: us, gid: other},
		{name: "read-only", mode: 0o400, uid: us, gid: us},
		{name: "root's, for root's group (systemd credential)", mode: 0o440, uid: 0, gid: 0},
		{name: "root's, for our supplementary group", mode: 0o640, uid: 0, gid: group},
		{name: "regular file type bits", mode: syscall.S_IFREG | 0o600, uid: us, gid: us},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := certs.CheckKeyFile(tt.mode, tt.uid, tt.gid, us, []int{group, us})
			if tt.want == "" {
				must(t, err)
				return
			}
			wantErr(t, err, tt.want, tt.wantFix)
			if !errors.Is(err, certs.ErrKeyPermission) {
				t.Error("does not wrap ErrKeyPermission")
			}
		})
	}
}

func TestReadKeyJudgesTheOpenedFile(t *testing.T) {
	path := put(t, filepath.Join(t.TempDir(), "key"), []byte("secret"), 0o644)
	var f certs.Files
	_, err := f.ReadKey(path)
	wantErr(t, err, path, "mode 0644", "chmod 0600")
	if f.Changed() {
		t.Error("changed though nothing did")
	}
	must(t, os.Chmod(path, 0o600))
	if !f.Changed() {
		t.Error("chmod was not noticed")
	}
	link := filepath.Join(t.TempDir(), "link") // itself of mode 0777
	must(t, os.Symlink(path, link))
	data, err := f.ReadKey(link)
	must(t, err)
	if diff := cmp.Diff("secret", string(data)); diff != "" {
		t.Errorf("content (-want +got):\n%s", diff)
	}
	if os.Geteuid() == 0 {
		must(t, os.Chown(path, 12345, 0))
		_, err := new(certs.Files).ReadKey(path)
		wantErr(t, err, path, "owned by uid 12345")
	}
}

func TestList(t *testing.T) {
	dir := t.TempDir()
	elsewhere := put(t, filepath.Join(t.TempDir(), "target"), []byte("x"), 0o644)
	for _, name := range []string{"b.pem", "a.crt", "C.PEM", "d.key", "pem", ".hidden.pem"} {
		put(t, filepath.Join(dir, name), []byte("x"), 0o644)
	}
	must(t, os.Mkdir(filepath.Join(dir, "dir.pem"), 0o755))
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "link.pem")))
	var f certs.Files
	got, err := f.List(dir, ".pem", ".crt")
	must(t, err)
	var want []string
	for _, name := range []string{"C.PEM", "a.crt", "b.pem", "link.pem"} {
		want = append(want, filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{dir}, f.Paths()); diff != "" {
		t.Errorf("paths consulted (-want +got):\n%s", diff)
	}
	put(t, filepath.Join(dir, "unrelated.txt"), []byte("x"), 0o644)
	if f.Changed() {
		t.Error("an unrelated file counts as a change")
	}
	put(t, filepath.Join(dir, "e.crt"), []byte("x"), 0o644)
	if !f.Changed() {
		t.Error("a new file was not noticed")
	}
	must(t, os.Remove(filepath.Join(dir, "e.crt")))
	if f.Changed() {
		t.Error("the same names count as a change")
	}
	must(t, os.Remove(filepath.Join(dir, "a.crt")))
	if !f.Changed() {
		t.Error("a file that went was not noticed")
	}
}

func TestListRefuses(t *testing.T) {
	dir := t.TempDir()
	var f certs.Files
	_, err := f.List(filepath.Join(dir, "missing"), ".pem")
	wantErr(t, err, "missing", "no such file")
	_, err = f.List(put(t, filepath.Join(dir, "file"), []byte("x"), 0o644), ".pem")
	wantErr(t, err, "not a directory")
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling.pem")))
	_, err = f.List(dir, ".pem")
	wantErr(t, err, "dangling.pem", "no such file")
	must(t, os.Remove(filepath.Join(dir, "dangling.pem")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo.pem"), 0o644))
	_, err = f.List(dir, ".pem")
	wantErr(t, err, "fifo.pem", "not a regular file")
	many := t.TempDir()
	for i := range 1025 {
		must(t, os.WriteFile(filepath.Join(many, fmt.Sprintf("%d.pem", i)), []byte("x"), 0o644))
	}
	_, err = f.List(many, ".pem")
	wantErr(t, err, many, "more than 1024 files")
	for i := range 4097 {
		must(t, os.WriteFile(filepath.Join(many, fmt.Sprintf("%d.txt", i)), nil, 0o644))
	}
	_, err = f.List(many, ".pem")
	wantErr(t, err, many, "more than 4096 entries")
}

func TestChanged(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	old := time.Now().Add(-time.Hour)
	tests := []struct {
		name   string
		change func()
		want   bool
	}{
		{"nothing", func() {}, false},
		{"read by others meanwhile", func() { os.ReadFile(path) }, false},
		{"removed", func() { must(t, os.Remove(path)) }, true},
		{"replaced by one of the same size and mtime", func() {
			put(t, path, []byte("two"), 0o644)
			must(t, os.Chtimes(path, old, old))
		}, true},
		{"overwritten with the same size", func() { must(t, os.WriteFile(path, []byte("two"), 0o644)) }, true},
		{"longer", func() { must(t, os.WriteFile(path, []byte("longer"), 0o644)) }, true},
		{"became a directory", func() { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o755)) }, true},
	}
	for _, tt := range tests {
		for _, aged := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, aged %t", tt.name, aged), func(t *testing.T) {
				defer os.RemoveAll(path)
				put(t, path, []byte("one"), 0o644)
				must(t, os.Chtimes(path, old, old))
				var f certs.Files
				_, err := f.Read(path)
				must(t, err)
				if aged {
					f.Age()
					// Further apart than a step of a file system's clock.
					time.Sleep(20 * time.Millisecond)
				}
				tt.change()
				for range 2 { // looking must not hide it
					if got := f.Changed(); got != tt.want {
						t.Errorf("changed %t, want %t", got, tt.want)
					}
				}
			})
		}
	}
}

// A stamp by path, or one taken after the content, would miss these.
func TestChangedDuringTheRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for name, change := range map[string]func(){
		"replaced":    func() { put(t, path, []byte("two"), 0o644) },
		"overwritten": func() { must(t, os.WriteFile(path, []byte("two"), 0o644)) },
		"removed":     func() { must(t, os.Remove(path)) },
	} {
		t.Run(name, func(t *testing.T) {
			put(t, path, []byte("one"), 0o644)
			var f certs.Files
			_, err := f.ReadWhile(path, func() { time.Sleep(20 * time.Millisecond); change() })
			must(t, err)
			f.Age()
			if !f.Changed() {
				t.Error("the change was missed")
			}
		})
	}
}

// Time stamps of a coarse clock do not show a second write within one step.
func TestChangedWithinOneStepOfTheClock(t *testing.T) {
	path := put(t, filepath.Join(t.TempDir(), "file"), []byte("one"), 0o644)
	var f certs.Files
	_, err := f.Read(path)
	must(t, err)
	f.Restamp(t)
	if f.Changed() {
		t.Error("changed though nothing did")
	}
	must(t, os.WriteFile(path, []byte("two"), 0o644))
	f.Restamp(t)
	if !f.Changed() {
		t.Error("the change was missed")
	}
}

func TestChangedBetweenTwoReads(t *testing.T) {
	path := put(t, filepath.Join(t.TempDir(), "file"), []byte("one"), 0o644)
	var f certs.Files
	_, err := f.Read(path)
	must(t, err)
	put(t, path, []byte("two"), 0o644)
	_, err = f.Read(path)
	must(t, err)
	if !f.Changed() {
		t.Error("the first read is outdated, and that was missed")
	}
}

// Kubernetes replaces one link in the middle of the path.
func TestChangedBehindALink(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"v1", "v2"} {
		must(t, os.Mkdir(filepath.Join(dir, version), 0o755))
		put(t, filepath.Join(dir, version, "ca.pem"), []byte(version), 0o644)
	}
	must(t, os.Symlink("v1", filepath.Join(dir, "..data")))
	must(t, os.Symlink("..data/ca.pem", filepath.Join(dir, "ca.pem")))
	var f certs.Files
	paths, err := f.List(dir, ".pem")
	must(t, err)
	_, err = f.Read(paths[0])
	must(t, err)
	if f.Changed() {
		t.Error("changed though nothing did")
	}
	must(t, os.Symlink("v2", filepath.Join(dir, "..new")))
	must(t, os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	if !f.Changed() {
		t.Error("the new target was not noticed")
	}
}
