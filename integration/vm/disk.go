// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyDisk copies an image, and not its holes. Files that can share their
// blocks do.
func copyDisk(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return nil
	}
	for at := int64(0); at < info.Size(); {
		data, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, syscall.ENXIO) { // nothing but a hole is left
			break
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		end, err := in.Seek(data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		if _, err := in.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := out.Seek(data, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, end-data); err != nil {
			return fmt.Errorf("copy %s: %w", from, err)
		}
		at = end
	}
	return out.Truncate(info.Size())
}
