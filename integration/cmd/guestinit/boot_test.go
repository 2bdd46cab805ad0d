// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestUnpack unpacks over a root with the links that Debian's has.
func TestUnpack(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/bin", "etc/systemd/system", "run"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"bin": "usr/bin", "var": "/usr", "etc/systemd/system/x.service": "/dev/null"} {
		if err := os.Symlink(to, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "bin/tool", Mode: 0o755, Size: 1},
		{Typeflag: tar.TypeReg, Name: "var/lib/x", Mode: 0o600, Size: 1},
		{Typeflag: tar.TypeReg, Name: "etc/systemd/system/x.service", Mode: 0o644, Size: 1},
		{Typeflag: tar.TypeDir, Name: "payload/d", Mode: 0o700},
		{Typeflag: tar.TypeSymlink, Name: "payload/d/link", Linkname: "x"},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("!")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := unpack(tar.NewReader(&b), root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		"usr/bin/tool": 0o755, "usr/lib/x": 0o600, "etc/systemd/system/x.service": 0o644,
		"payload/d": os.ModeDir | 0o700, "payload/d/link": os.ModeSymlink | 0o777,
	} {
		info, err := os.Lstat(filepath.Join(root, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != want {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), want)
		}
	}
}
