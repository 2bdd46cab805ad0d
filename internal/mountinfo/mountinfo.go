// SPDX-License-Identifier: BSD-3-Clause

package mountinfo

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// maxLine bounds a line, in bytes.
const maxLine = 64 << 10

// A Mount is an NFS mount.
type Mount struct {
	ID     int
	Device string // "0:50"
	Point  string // where it is mounted
	Source string // as it was given to mount(8)
	Host   string // of Source
	Addr   string // of the server
	// XprtSec is "tls" or "mtls". A mount in clear is "none": the kernel says
	// so or, as kernels without TLS do, nothing.
	XprtSec string
	// Keyed: it names its certificate by the serial number of a key.
	Keyed bool
	// Covered: something else is mounted on top of it, of whatever type.
	Covered bool
	// Port is the server's; 0 if the kernel does not say, as for 2049.
	Port uint16

	parent int
}

// TLS reports whether the mount's connections are encrypted.
func (m Mount) TLS() bool { return m.XprtSec != None }

// What XprtSec may be.
const (
	None   = "none"
	TLS    = "tls"
	Mutual = "mtls"
)

// Self reads the NFS mounts that this process sees, in the order in which the
// kernel lists them: of several at one place the last one is on top.
func Self() ([]Mount, error) { return File("/proc/self/mountinfo") }

// File reads them from a file.
func File(path string) ([]Mount, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := Parse(f)
	if err != nil {
		return found, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// Parse reads the NFS mounts of mountinfo (proc_pid_mountinfo(5)).
func Parse(r io.Reader) (found []Mount, err error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	// What covers a mount has it as its parent, and the same place.
	type cover struct {
		parent int
		point  string
	}
	covers := make(map[cover]bool)
	for s.Scan() {
		m, fields, ok := parseLine(s.Text())
		if !ok {
			continue
		}
		covers[cover{m.parent, m.Point}] = true
		if fields[0] == "nfs" || fields[0] == "nfs4" {
			m.nfs(fields)
			found = append(found, m)
		}
	}
	for i, m := range found {
		found[i].Covered = covers[cover{m.ID, m.Point}]
	}
	return found, s.Err()
}

// parseLine reads the first half of "36 35 0:50 / /mnt rw,noatime shared:1 - nfs4
// server:/x rw,…", and splits the second. Fields end at a space and at nothing
// else: the kernel escapes spaces, and no other white space that Unicode knows.
func parseLine(line string) (m Mount, fields []string, ok bool) {
	head, rest, ok := strings.Cut(line, " - ")
	before, fields := strings.Split(head, " "), strings.Split(rest, " ")
	if !ok || len(before) < 5 || len(fields) < 3 {
		return Mount{}, nil, false
	}
	id, err := strconv.Atoi(before[0])
	if err != nil {
		return Mount{}, nil, false
	}
	parent, err := strconv.Atoi(before[1])
	if err != nil {
		return Mount{}, nil, false
	}
	return Mount{ID: id, parent: parent, Device: before[2], Point: unescape(before[4])}, fields, true
}

// nfs reads the second half: type, source, options.
func (m *Mount) nfs(fields []string) {
	m.Source, m.XprtSec = unescape(fields[1]), None
	m.Host = HostOf(m.Source)
	for opt := range strings.SplitSeq(fields[2], ",") {
		key, value, _ := strings.Cut(opt, "=")
		switch key {
		case "addr":
			m.Addr = value
		case "port":
			if n, err := strconv.ParseUint(value, 10, 16); err == nil {
				m.Port = uint16(n)
			}
		case "xprtsec":
			m.XprtSec = value
		case "cert_serial":
			m.Keyed = true
		}
	}
}

// HostOf returns the server's part of "host:/path" or "[v6]:/path", as the
// kernel finds it (fs/nfs/fs_context.c nfs_parse_source).
func HostOf(source string) string {
	if inside, ok := strings.CutPrefix(source, "["); ok {
		host, _, _ := strings.Cut(inside, "]")
		return host
	}
	host, _, ok := strings.Cut(source, ":")
	if !ok {
		return ""
	}
	host, _, _ = strings.Cut(host, ",")
	return host
}

// unescape resolves the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, ok := octal(s[i+1 : i+4]); ok {
				b.WriteByte(v)
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func octal(s string) (byte, bool) {
	v := 0
	for _, c := range s {
		if c < '0' || c > '7' {
			return 0, false
		}
		v = v*8 + int(c-'0')
	}
	return byte(v), v < 256
}
