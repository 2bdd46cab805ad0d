// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rivals

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// A Socket is a member of a multicast group.
type Socket struct {
	Port  uint32 // netlink's address of it; often the process's number
	Inode uint32 // as fstat(2) has it
}

// Of sock_diag (include/uapi/linux/netlink_diag.h).
const (
	showGroups = 2
	attrGroups = 1
	requestLen = 20
	messageLen = 28
)

// Members lists the generic netlink sockets in the calling thread's network
// namespace that are in a group.
func Members(group uint32) ([]Socket, error) {
	list, err := diagnosed(group)
	if err == nil {
		return list, nil
	}
	// A kernel without netlink_diag. The file knows 32 groups.
	if group > 32 {
		return nil, fmt.Errorf("members of netlink group %d: %w", group, err)
	}
	text, ferr := os.ReadFile("/proc/thread-self/net/netlink")
	if ferr != nil {
		return nil, fmt.Errorf("members of netlink group %d: %w", group, errors.Join(err, ferr))
	}
	if list, err = parseFile(text, group); err != nil {
		return nil, fmt.Errorf("members of netlink group %d: %w", group, err)
	}
	return list, nil
}

// diagnosed asks the kernel.
func diagnosed(group uint32) ([]Socket, error) {
	c, err := netlink.Dial(unix.NETLINK_SOCK_DIAG, nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := make([]byte, requestLen)
	req[0], req[1] = unix.AF_NETLINK, unix.NETLINK_GENERIC
	binary.NativeEndian.PutUint32(req[8:], showGroups)
	replies, err := c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.SOCK_DIAG_BY_FAMILY, Flags: netlink.Request | netlink.Dump},
		Data:   req,
	})
	if err != nil {
		return nil, err
	}
	var list []Socket
	for _, r := range replies {
		s, member, err := parseMessage(r.Data, group)
		if err != nil {
			return nil, err
		}
		if member {
			list = append(list, s)
		}
	}
	return list, nil
}

// parseMessage reads one socket of the kernel's list.
func parseMessage(b []byte, group uint32) (s Socket, member bool, err error) {
	if len(b) < messageLen {
		return s, false, fmt.Errorf("a socket in %d bytes, want %d", len(b), messageLen)
	}
	if b[0] != unix.AF_NETLINK || b[2] != unix.NETLINK_GENERIC {
		return s, false, nil // the kernel was not asked for it
	}
	s = Socket{Port: binary.NativeEndian.Uint32(b[4:]), Inode: binary.NativeEndian.Uint32(b[16:])}
	d, err := netlink.NewAttributeDecoder(b[messageLen:])
	if err != nil {
		return Socket{}, false, err
	}
	for d.Next() {
		if d.Type() == attrGroups {
			member = bit(d.Bytes(), group)
		}
	}
	if err := d.Err(); err != nil {
		return Socket{}, false, err
	}
	return s, member, nil
}

// bit reports whether a group, counted from 1, is in a set of the kernel's: an
// array of its longs.
func bit(set []byte, group uint32) bool {
	const long = strconv.IntSize // of the architectures that there are packages for
	if group == 0 {
		return false
	}
	word, pos := (group-1)/long, (group-1)%long
	at := int(word) * long / 8
	if at+long/8 > len(set) {
		return false
	}
	b := set[at : at+long/8]
	if long == 32 {
		return binary.NativeEndian.Uint32(b)>>pos&1 != 0
	}
	return binary.NativeEndian.Uint64(b)>>pos&1 != 0
}

// parseFile reads /proc/net/netlink.
func parseFile(text []byte, group uint32) ([]Socket, error) {
	const protocol, port, groups, inode, fields = 1, 2, 3, 9, 10
	lines := bufio.NewScanner(bytes.NewReader(text))
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), "sk ") {
		return nil, errors.New("/proc/net/netlink has another form")
	}
	var list []Socket
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < fields {
			return nil, fmt.Errorf("/proc/net/netlink: %d fields in %q", len(f), lines.Text())
		}
		if f[protocol] != strconv.Itoa(unix.NETLINK_GENERIC) {
			continue
		}
		set, err := strconv.ParseUint(f[groups], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("/proc/net/netlink: %w", err)
		}
		if group == 0 || set>>(group-1)&1 == 0 {
			continue
		}
		p, perr := strconv.ParseUint(f[port], 10, 32)
		i, ierr := strconv.ParseUint(f[inode], 10, 32)
		if err := errors.Join(perr, ierr); err != nil {
			return nil, fmt.Errorf("/proc/net/netlink: %w", err)
		}
		list = append(list, Socket{Port: uint32(p), Inode: uint32(i)})
	}
	return list, lines.Err()
}
