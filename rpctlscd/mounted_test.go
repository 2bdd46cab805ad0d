// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// As Linux 7.2 prints it (fs/nfs/client.c nfs_volume_list_show).
const volumes = `NV SERVER   PORT DEV          FSID                              FSC
v4 0a000001  801 0:50         0:0                               no 
v3 20010db8000000000000000000000001  801 0:51         1f:0      no 
`

const mountinfo = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
50 22 0:50 / /mnt rw,relatime shared:2 - nfs4 nfs.example.com:/export rw,vers=4.2,rsize=65536,proto=tcp,xprtsec=mtls,clientaddr=10.0.0.2,local_lock=none,addr=10.0.0.1
51 22 0:51 / /mnt2 rw,relatime shared:3 - nfs [2001:db8::1]:/a\040b rw,vers=3,addr=2001:db8::1
52 22 0:52 / /trap rw - fuse nfs.trap:/ rw,addr=10.9.9.9
53 22 0:53 / /trap2 rw,relatime - tmpfs - rw
`

func TestInVolumes(t *testing.T) {
	for addr, want := range map[string]bool{
		"10.0.0.1": true, "::ffff:10.0.0.1": true, "10.0.0.2": false, "2001:db8::1": true, "2001:db8::2": false,
	} {
		got, err := inVolumes(strings.NewReader(volumes), netip.MustParseAddr(addr))
		if err != nil || got != want {
			t.Errorf("%s: %v, %v", addr, got, err)
		}
	}
}

func TestInMountinfo(t *testing.T) {
	tests := []struct {
		name, addr string
		want       bool
	}{
		{"nfs.example.com", "10.0.0.9", true},
		{"NFS.example.com.", "10.0.0.9", true},
		{"other", "10.0.0.1", true},
		{"other", "10.0.0.9", false},
		{"2001:db8:0::1", "10.0.0.9", true},
		{"nfs.trap", "10.9.9.9", false},
	}
	for _, tt := range tests {
		got, err := inMountinfo(strings.NewReader(mountinfo), tt.name, netip.MustParseAddr(tt.addr))
		if err != nil || got != tt.want {
			t.Errorf("%s, %s: %v, %v", tt.name, tt.addr, got, err)
		}
	}
}

func TestMountedAsksBothFiles(t *testing.T) {
	defer func(v, m string) { volumesFile, mountinfoFile = v, m }(volumesFile, mountinfoFile)
	dir := t.TempDir()
	volumesFile, mountinfoFile = filepath.Join(dir, "volumes"), filepath.Join(dir, "mountinfo")
	if yes, err := mounted("nfs.example.com", netip.MustParseAddr("10.0.0.1")); yes || err != nil {
		t.Errorf("without the files: %v, %v", yes, err)
	}
	if err := os.WriteFile(mountinfoFile, []byte(mountinfo), 0o600); err != nil {
		t.Fatal(err)
	}
	if yes, err := mounted("nfs.example.com", netip.Addr{}); !yes || err != nil {
		t.Errorf("by name: %v, %v", yes, err)
	}
	// A file that cannot be read is an error, unless the other one answers.
	if err := os.Mkdir(volumesFile, 0o700); err != nil {
		t.Fatal(err)
	}
	if yes, err := mounted("nfs.example.com", netip.Addr{}); !yes || err != nil {
		t.Errorf("one file unreadable: %v, %v", yes, err)
	}
	if yes, err := mounted("other", netip.Addr{}); yes || err == nil {
		t.Errorf("nothing found, one file unreadable: %v, %v", yes, err)
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add(mountinfo)
	f.Add(`1 1 0:0 / / - nfs \0409:/ \`)
	f.Fuzz(func(t *testing.T, s string) {
		inMountinfo(strings.NewReader(s), "nfs", netip.MustParseAddr("10.0.0.1"))
		inVolumes(strings.NewReader(s), netip.MustParseAddr("10.0.0.1"))
	})
}
