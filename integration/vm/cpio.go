// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"fmt"
	"io"
)

// File types of a cpio archive, which are those of stat(2).
const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
	cpioChar = 0o020000
)

// A cpioWriter writes the archive that the kernel unpacks as its initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst, format
// "newc"). Archives that follow each other are all unpacked.
type cpioWriter struct {
	w     io.Writer
	inode int
	err   error // first one, reported by close
}

// node adds an entry. Directories must come before what is in them; major and
// minor are for devices.
func (c *cpioWriter) node(name string, mode, major, minor int, data []byte) {
	if c.err != nil {
		return
	}
	c.inode++
	header := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.write([]byte(header))
	c.write(data)
}

func (c *cpioWriter) dir(name string) { c.node(name, cpioDir|0o755, 0, 0, nil) }
func (c *cpioWriter) file(name string, mode int, data []byte) {
	c.node(name, cpioFile|mode, 0, 0, data)
}
func (c *cpioWriter) char(name string, mode, major, minor int) {
	c.node(name, cpioChar|mode, major, minor, nil)
}

// write pads to a multiple of four, as header with name and contents both are.
func (c *cpioWriter) write(p []byte) {
	if c.err != nil {
		return
	}
	if _, c.err = c.w.Write(p); c.err != nil {
		return
	}
	_, c.err = c.w.Write(make([]byte, -len(p)&3))
}

func (c *cpioWriter) close() error {
	c.inode = -1 // becomes 0
	c.node("TRAILER!!!", 0, 0, 0, nil)
	return c.err
}
