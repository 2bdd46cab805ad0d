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
// a first mount from a reconnect. The second also knows the name it was
// mounted by, for servers with several addresses.
var (
	volumesFile   = "/proc/self/net/nfsfs/volumes"
	mountinfoFile = "/proc/self/mountinfo"
)

// maxLine bounds a line of these files, in bytes.
const maxLine = 64 << 10

// mounted reports whether the server called name, now reached at addr, has a
// mount on this host. It is asked only about failed handshakes.
func mounted(name string, addr netip.Addr) (bool, error) {
	found, verr := searchFile(volumesFile, func(r io.Reader) (bool, error) { return inVolumes(r, addr) })
	if found {
		return true, nil
	}
	found, merr := searchFile(mountinfoFile, func(r io.Reader) (bool, error) { return inMountinfo(r, name, addr) })
	if found {
		return true, nil
	}
	return false, errors.Join(verr, merr)
}

func searchFile(path string, search func(io.Reader) (bool, error)) (bool, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // the nfs module is not loaded: nothing is mounted
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	found, err := search(f)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return found, nil
}

// inVolumes searches nfsfs/volumes for a mount from addr. A line is
// "v4 0a000001  801 0:50 …": version, address in hexadecimal (8 digits or 32),
// port, device.
func inVolumes(r io.Reader, addr netip.Addr) (bool, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		if a, ok := hexAddr(fields[1]); ok && a == addr.Unmap().WithZone("") {
			return true, nil
		}
	}
	return false, s.Err()
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

// inMountinfo searches mountinfo (proc_pid_mountinfo(5)) for an NFS mount from
// the server called name, or with addr in its options.
func inMountinfo(r io.Reader, name string, addr netip.Addr) (bool, error) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	for s.Scan() {
		_, rest, ok := strings.Cut(s.Text(), " - ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 3 || fields[0] != "nfs" && fields[0] != "nfs4" {
			continue
		}
		if sameHost(hostOf(unescape(fields[1])), name) {
			return true, nil
		}
		for opt := range strings.SplitSeq(fields[2], ",") {
			if v, ok := strings.CutPrefix(opt, "addr="); ok && addr.IsValid() && sameHost(v, addr.String()) {
				return true, nil
			}
		}
	}
	return false, s.Err()
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
