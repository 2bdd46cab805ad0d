// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"rpctls/integration/internal/protocol"
)

// A Source is where a file of the payload comes from: a file or a whole
// directory of the host, or memory.
type Source struct {
	Path string      // of the host; if empty, Data is it
	Data []byte      // contents
	Mode fs.FileMode // permissions for Data; 0 is 0644
}

// writePayload writes the archive that the guest unpacks over its root. Guest
// paths that are not absolute are below /payload.
func writePayload(w io.Writer, manifest protocol.Manifest, payload map[string]Source) error {
	t := tar.NewWriter(w)
	text, err := json.MarshalIndent(manifest, "", "\t")
	if err != nil {
		return err
	}
	if err := addData(t, protocol.ManifestFile, text, 0o644); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(payload)) {
		source := payload[name]
		guest := guestPath(name)
		if source.Path == "" {
			mode := source.Mode.Perm()
			if mode == 0 {
				mode = 0o644
			}
			err = addData(t, guest, source.Data, mode)
		} else {
			err = addHost(t, guest, source.Path)
		}
		if err != nil {
			return fmt.Errorf("payload %s: %w", name, err)
		}
	}
	return t.Close()
}

func guestPath(name string) string {
	if !path.IsAbs(name) {
		name = path.Join(protocol.PayloadDir, name)
	}
	return path.Clean(name)
}

func addData(t *tar.Writer, guest string, data []byte, mode fs.FileMode) error {
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: guest[1:], Size: int64(len(data)), Mode: int64(mode)})
	if err != nil {
		return err
	}
	_, err = t.Write(data)
	return err
}

// addHost adds a file, or a directory with all that is in it. Links at the top
// are followed, those below are kept.
func addHost(t *tar.Writer, guest, host string) error {
	host, err := filepath.EvalSymlinks(host)
	if err != nil {
		return err
	}
	return filepath.WalkDir(host, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, name)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		switch info.Mode().Type() {
		case 0, fs.ModeDir:
		case fs.ModeSymlink:
			if link, err = os.Readlink(name); err != nil {
				return err
			}
		default:
			return fmt.Errorf("%s: neither file, directory nor link", name)
		}
		header := &tar.Header{
			Name:     path.Join(guest, filepath.ToSlash(rel))[1:],
			Mode:     int64(info.Mode().Perm()),
			ModTime:  info.ModTime(),
			Linkname: link,
		}
		switch {
		case info.IsDir():
			header.Typeflag = tar.TypeDir
		case link != "":
			header.Typeflag = tar.TypeSymlink
		default:
			header.Typeflag, header.Size = tar.TypeReg, info.Size()
		}
		if err := t.WriteHeader(header); err != nil || header.Typeflag != tar.TypeReg {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(t, f)
		return err
	})
}

// errNoExit says that a guest stopped before the command was done.
var errNoExit = errors.New("the guest stopped before its command had ended")

// readResults unpacks what the guest sent into dir, or nowhere if dir is
// empty, and returns how the command ended.
func readResults(r io.Reader, dir string) (*protocol.Exit, error) {
	for t := tar.NewReader(r); ; {
		header, err := t.Next()
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, errNoExit
		}
		if err != nil {
			return nil, fmt.Errorf("results: %w", err)
		}
		if header.Name == protocol.ExitEntry {
			exit := new(protocol.Exit)
			if err := json.NewDecoder(t).Decode(exit); err != nil {
				return nil, fmt.Errorf("results: %s: %w", header.Name, err)
			}
			return exit, nil
		}
		if dir == "" {
			continue
		}
		// A guest under test is not trusted with the host's files.
		name := strings.TrimSuffix(header.Name, "/")
		if !filepath.IsLocal(name) {
			return nil, fmt.Errorf("results: %q is not a local path", header.Name)
		}
		if err := unpackResult(t, header, filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("results: %w", err)
		}
	}
}

func unpackResult(t *tar.Reader, header *tar.Header, name string) error {
	switch header.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(name, 0o755)
	case tar.TypeReg:
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, t)
		return errors.Join(err, f.Close())
	default:
		return nil // guestinit sends none
	}
}
