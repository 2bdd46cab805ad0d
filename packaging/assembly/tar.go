// SPDX-License-Identifier: BSD-3-Clause

package assembly

import (
	"archive/tar"
	"bytes"
	"cmp"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"

	"rpctls/packaging/manifest"
)

// tar makes the archive for systems without dpkg and rpm: install.sh, and below
// root/ what it installs.
func (b *Build) tar(p manifest.Package, arch string) error {
	top := "rpctls-" + b.Version + "-linux-" + arch
	type member struct {
		tar.Header
		text []byte
	}
	var members []member
	dirs := make(map[string]bool)
	add := func(name string, mode fs.FileMode, target string, text []byte) {
		for dir := path.Dir(name); dir != "." && !dirs[dir]; dir = path.Dir(dir) {
			dirs[dir] = true
			members = append(members, member{tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}, nil})
		}
		h := tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm()), Size: int64(len(text)), Linkname: target}
		switch mode.Type() {
		case fs.ModeDir:
			if dirs[name] {
				return
			}
			dirs[name] = true
			h.Typeflag, h.Name = tar.TypeDir, name+"/"
		case fs.ModeSymlink:
			h.Typeflag = tar.TypeSymlink
		}
		members = append(members, member{h, text})
	}
	for _, f := range b.files(p, manifest.Tar) {
		var text []byte
		if f.Mode.IsRegular() {
			var err error
			if text, err = b.content(p, f, arch); err != nil {
				return err
			}
		}
		add(top+"/root"+f.Path, f.Mode, f.Target, text)
	}
	for _, name := range []string{"packaging/tar/install.sh", "LICENSE"} {
		text, err := os.ReadFile(filepath.Join(b.Root, name))
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if path.Ext(name) == ".sh" {
			mode = 0o755
		}
		add(top+"/"+path.Base(name), mode, "", text)
	}
	slices.SortFunc(members, func(x, y member) int { return cmp.Compare(x.Name, y.Name) })
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	for _, m := range members {
		m.ModTime, m.Uname, m.Gname, m.Format = b.Time, "root", "root", tar.FormatPAX
		if err := w.WriteHeader(&m.Header); err != nil {
			return err
		}
		if _, err := w.Write(m.text); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	text, err := compressed(plain.Bytes(), nil)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.Out, "tar")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, top+".tar.gz"), text, 0o644)
}
