// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestCopyDisk copies data, the holes between, and one at the end; holes take
// no room.
func TestCopyDisk(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	f, err := os.Create(from)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	for at, text := range map[int64]string{0: "begin", 8 << 20: "middle", 40<<20 + 5: "late"} {
		if _, err := f.WriteAt([]byte(text), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := copyDisk(to, from); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(to)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("the copy is not equal")
	}
	var was, is syscall.Stat_t
	if err := syscall.Stat(from, &was); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Stat(to, &is); err != nil {
		t.Fatal(err)
	}
	if was.Blocks*512 < size/2 && is.Blocks > 2*was.Blocks {
		t.Errorf("the copy takes %d blocks, the image %d", is.Blocks, was.Blocks)
	}
	if err := copyDisk(to, from); err == nil {
		t.Error("a disk is overwritten")
	}
}
