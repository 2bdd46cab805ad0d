// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"

	"rpctls/internal/names"
)

// Where the kernel lists NFS mounts. The first has every mount of the network
// namespace whatever mount namespace it is in, but only from the moment it
// has succeeded (fs/nfs/client.c nfs_server_insert_lists), which is what tells
// a first mount from a reconnect. The second knows, of the mounts that we see,
// the name they were mounted by and whether they use TLS.
var (
	volumesFile   = "/proc/self/net/nfsfs/volumes"
	mountinfoFile = "/proc/self/mountinfo"
)

// maxLine bounds a line of these files, in bytes.
const maxLine = 64 << 10

// mounted reports whether the server called name, now reached at addr, has a
// mount with TLS on this host. It is asked only about failed handshakes. A mount
// in clear does not count: it has nothing to lose by this connection. One in
// another mount namespace, of which we do not know, does.
func mounted(name string, addr netip.Addr) (bool, error) {
	mounts, merr := readFile(mountinfoFile, parseMountinfo)
	known := make(map[string]bool)
	for _, m := range mounts {
		known[m.device] = true
		if m.tls && (sameHost(m.host, name) || addr.IsValid() && sameHost(m.addr, addr.String())) {
			return true, nil
		}
	}
	volumes, verr := readFile(volumesFile, parseVolumes)
	for _, v := range volumes {
		if v.addr == addr.Unmap().WithZone("") && !known[v.device] {
			return true, nil
		}
	}
	return false, errors.Join(verr, merr)
}

// readFile parses a file of /proc. One that does not exist holds nothing: the
// nfs module is not loaded.
func readFile[T any](path string, parse func(io.Reader) ([]T, error)) ([]T, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := parse(f)
	if err != nil {
		return found, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// A volume is a line of nfsfs/volumes.
type volume struct {
	addr   netip.Addr
	device string // "0:50"
}

// parseVolumes reads nfsfs/volumes. A line is "v4 0a000001  801 0:50 …":
// version, address in hexadecimal (8 digits or 32), port, device.
func parseVolumes(r io.Reader) (found []volume, err error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 4 {
			continue
		}
		if a, ok := hexAddr(fields[1]); ok {
			found = append(found, volume{a, fields[3]})
		}
	}
	return found, s.Err()
}

func hexAddr(s string) (netip.Addr, bool) {
	b, err := hex.DecodeString(s)
	if err != nil {
		return netip.Addr{}, false
	}
	switch len(b) {
	case 4:
		return netip.AddrFrom4([4]byte(b)), true
	case 16:
		return netip.AddrFrom16([16]byte(b)).Unmap(), true
	}
	return netip.Addr{}, false
}

// An nfsMount is an NFS mount in mountinfo.
type nfsMount struct {
	device string // "0:50"
	host   string // as it was given to mount(8)
	addr   string // of the server
	tls    bool
}

// parseMountinfo reads the NFS mounts of mountinfo (proc_pid_mountinfo(5)).
func parseMountinfo(r io.Reader) (found []nfsMount, err error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		head, rest, ok := strings.Cut(s.Text(), " - ")
		before, fields := strings.Fields(head), strings.Fields(rest)
		if !ok || len(before) < 3 || len(fields) < 3 || fields[0] != "nfs" && fields[0] != "nfs4" {
			continue
		}
		m := nfsMount{device: before[2], host: hostOf(unescape(fields[1]))}
		for opt := range strings.SplitSeq(fields[2], ",") {
			if v, ok := strings.CutPrefix(opt, "addr="); ok {
				m.addr = v
			}
			if v, ok := strings.CutPrefix(opt, "xprtsec="); ok {
				m.tls = v != "none"
			}
		}
		found = append(found, m)
	}
	return found, s.Err()
}

// hostOf returns the server's part of "host:/path" or "[v6]:/path".
func hostOf(source string) string {
	if i := strings.Index(source, "]:"); i >= 0 && strings.HasPrefix(source, "[") {
		return source[1:i]
	}
	host, _, _ := strings.Cut(source, ":/")
	return host
}

func sameHost(a, b string) bool {
	aa, aok := names.Addr(a)
	ba, bok := names.Addr(b)
	if aok || bok {
		return aok && bok && aa == ba
	}
	return a != "" && strings.EqualFold(strings.TrimSuffix(a, "."), strings.TrimSuffix(b, "."))
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
