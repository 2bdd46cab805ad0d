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

// Record writes into a file which socket is ours, for the sibling. It stays true
// when this process has ended and the service manager keeps the socket.
func Record(f *os.File, inode uint32) error {
	text := strconv.FormatUint(uint64(inode), 10) + "\n"
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("record the socket: %w", err)
	}
	if _, err := f.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("record the socket: %w", err)
	}
	return nil
}

// Recorded reads what the sibling has recorded; false if there is nothing.
func Recorded(path string) (uint32, bool) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 16))
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(text), "\n"), 10, 32)
	return uint32(n), err == nil && n != 0
}
