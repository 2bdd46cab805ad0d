// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rivals

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Inode returns the number that identifies a socket.
func Inode(socket int) (uint32, error) {
	var st unix.Stat_t
	if err := unix.Fstat(socket, &st); err != nil {
		return 0, os.NewSyscallError("fstat", err)
	}
	return uint32(st.Ino), nil
}

// maxRecorded bounds the sockets in a file: one for each network namespace.
const maxRecorded = 64

// Record writes into a file which sockets are ours, for the sibling. It stays true
// when this process has ended and the service manager keeps the sockets.
func Record(f *os.File, inodes ...uint32) error {
	var text strings.Builder
	for _, n := range inodes[:min(len(inodes), maxRecorded)] {
		fmt.Fprintf(&text, "%d\n", n)
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("record the sockets: %w", err)
	}
	if _, err := f.WriteAt([]byte(text.String()), 0); err != nil {
		return fmt.Errorf("record the sockets: %w", err)
	}
	return nil
}

// Recorded reads what the sibling has recorded, that of its own network namespace
// first; nothing if there is nothing, or something else.
func Recorded(path string) (inodes []uint32) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 16*maxRecorded))
	if err != nil {
		return nil
	}
	return parseRecord(string(text))
}

// parseRecord reads one number a line.
func parseRecord(text string) (inodes []uint32) {
	for line := range strings.Lines(text) {
		n, err := strconv.ParseUint(strings.TrimSuffix(line, "\n"), 10, 32)
		if err != nil || n == 0 || len(inodes) == maxRecorded {
			return nil
		}
		inodes = append(inodes, uint32(n))
	}
	return inodes
}
