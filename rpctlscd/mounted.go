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
	"slices"
	"strings"

	"rpctls/internal/mountinfo"
	"rpctls/internal/names"
)

// Where the kernel lists NFS mounts. The first has every mount of the network
// namespace whatever mount namespace it is in, but only from the moment it
// has succeeded (fs/nfs/client.c nfs_server_insert_lists), which is what tells
// a first mount from a reconnect. The second knows, of the mounts that we see,
// the name they were mounted by and whether they use TLS.
var (
	volumesFile   = "/proc/thread-self/net/nfsfs/volumes" // of the calling thread
	mountinfoFile = "/proc/self/mountinfo"
)

// maxLine bounds a line of the first, in bytes.
const maxLine = 64 << 10

// mounted reports whether the server called name, now reached at addr, has a
// mount with TLS on this host. It is asked only about failed handshakes. A mount
// in clear does not count: it has nothing to lose by this connection. One in
// another mount namespace, of which we do not know, does.
func mounted(name string, addr netip.Addr) (bool, error) {
	var addrs []netip.Addr
	if addr.IsValid() {
		addrs = []netip.Addr{addr}
	}
	return mountedWith(mountinfo.Mount.TLS, name, addrs)
}

// mutual reports whether a mount presents a certificate of this host.
func mutual(m mountinfo.Mount) bool { return m.XprtSec == mountinfo.Mutual }

// mountedWith is mounted for servers with any of the addresses and for mounts
// that count.
func mountedWith(counts func(mountinfo.Mount) bool, name string, addrs []netip.Addr) (bool, error) {
	mounts, merr := mountinfo.File(mountinfoFile)
	if errors.Is(merr, fs.ErrNotExist) {
		merr = nil
	}
	known := make(map[string]bool)
	for _, m := range mounts {
		known[m.Device] = true
		if counts(m) && (names.Same(m.Host, name) || slices.ContainsFunc(addrs, func(a netip.Addr) bool { return names.Same(m.Addr, a.String()) })) {
			return true, nil
		}
	}
	volumes, verr := readVolumes(volumesFile)
	for _, v := range volumes {
		if !known[v.device] && slices.ContainsFunc(addrs, func(a netip.Addr) bool { return v.addr == a.Unmap().WithZone("") }) {
			return true, nil
		}
	}
	return false, errors.Join(verr, merr)
}

// readVolumes parses a file of /proc. One that does not exist holds nothing: the
// nfs module is not loaded.
func readVolumes(path string) ([]volume, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := parseVolumes(f)
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
