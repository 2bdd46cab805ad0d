// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"rpctls/integration/internal/protocol"
)

func TestWritePayload(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"tree/sub/a": 0o600, "tree/b": 0o755} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(filepath.Base(name)), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("b", filepath.Join(dir, "tree", "link")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err := writePayload(&b, protocol.Manifest{Kernel: "7.2"}, map[string]Source{
		"t":        {Path: filepath.Join(dir, "tree")},
		"bin/x":    {Path: filepath.Join(dir, "tree", "link")},
		"/etc/y":   {Data: []byte("data")},
		"../z.sh":  {Data: []byte("#!"), Mode: 0o700},
		"/a/../w/": {Data: nil},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		".rpctls/manifest.json 644", "z.sh 700 #!", "w 644", "etc/y 644 data", "payload/bin/x 755 b",
		"payload/t 755", "payload/t/b 755 b", "payload/t/link 777 -> b", "payload/t/sub 755", "payload/t/sub/a 600 a",
	}
	if got := listTar(t, &b); !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("archive has\n%q, want\n%q", got, want)
	} else if got[0] != want[0] {
		t.Errorf("first is %q", got[0])
	}
	err = writePayload(io.Discard, protocol.Manifest{}, map[string]Source{"x": {Path: filepath.Join(dir, "nosuch")}})
	checkError(t, err, "payload x: ")
}

func sorted(s []string) []string { s = slices.Clone(s); slices.Sort(s); return s }

func listTar(t *testing.T, r io.Reader) []string {
	t.Helper()
	var list []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		s := fmt.Sprintf("%s %o", h.Name, h.Mode)
		text, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case h.Linkname != "":
			s += " -> " + h.Linkname
		case len(text) > 0 && h.Name != protocol.ManifestFile[1:]:
			s += " " + string(text)
		}
		list = append(list, s)
	}
}

func TestReadResults(t *testing.T) {
	type entry struct{ name, text string }
	archive := func(entries ...entry) []byte {
		var b bytes.Buffer
		tw := tar.NewWriter(&b)
		for _, e := range entries {
			h := &tar.Header{Typeflag: tar.TypeReg, Name: e.name, Size: int64(len(e.text)), Mode: 0o600}
			if err := errors.Join(tw.WriteHeader(h), writeString(tw, e.text)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Flush(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	exit := entry{protocol.ExitEntry, `{"Code": 3, "Boot": 1.5}`}
	whole := archive(entry{"sub/log", "text"}, exit)
	for _, tt := range []struct {
		name    string
		archive []byte
		err     string
		file    string
	}{
		{"all is there", whole, "", "text"},
		{"no end of archive, which the guest may lack time for", archive(exit), "", ""},
		{"empty", nil, errNoExit.Error(), ""},
		{"no exit", archive(entry{"sub/log", "text"}), errNoExit.Error(), "text"},
		{"cut in a header", whole[:100], errNoExit.Error(), ""},
		{"cut in a file", whole[:513], "unexpected EOF", ""},
		{"outside", archive(entry{"../log", "text"}, exit), "not a local path", ""},
		{"absolute", archive(entry{"/etc/passwd", "text"}, exit), "not a local path", ""},
		{"no archive", bytes.Repeat([]byte("x"), 2048), "results: ", ""},
		{"bad exit", archive(entry{protocol.ExitEntry, "{"}), "results: .exit", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			got, err := readResults(bytes.NewReader(tt.archive), dir)
			checkError(t, err, tt.err)
			if err == nil && (got.Code != 3 || got.Boot != 1.5) {
				t.Errorf("exit is %+v", got)
			}
			text, _ := os.ReadFile(filepath.Join(dir, "sub", "log"))
			if tt.err != "unexpected EOF" && string(text) != tt.file {
				t.Errorf("file is %q, want %q", text, tt.file)
			}
		})
	}
	if _, err := readResults(bytes.NewReader(whole), ""); err != nil {
		t.Errorf("without a directory: %v", err)
	}
}

func writeString(w io.Writer, s string) error { _, err := io.WriteString(w, s); return err }
