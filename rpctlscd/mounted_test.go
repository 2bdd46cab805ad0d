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
v4 0a000003  801 0:54         0:0                               no 
v4 0a000004  801 0:77         0:0                               no 
`

const mounts = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw
50 22 0:50 / /mnt rw,relatime shared:2 - nfs4 nfs.example.com:/export rw,vers=4.2,rsize=65536,proto=tcp,xprtsec=mtls,clientaddr=10.0.0.2,local_lock=none,addr=10.0.0.1
51 22 0:51 / /mnt2 rw,relatime shared:3 - nfs [2001:db8::1]:/a\040b rw,vers=3,addr=2001:db8::1,xprtsec=tls
52 22 0:52 / /trap rw - fuse nfs.trap:/ rw,addr=10.9.9.9,xprtsec=tls
53 22 0:53 / /trap2 rw,relatime - tmpfs - rw
54 22 0:54 / /clear rw,relatime - nfs4 clear.example.com:/ rw,vers=4.2,addr=10.0.0.3
55 22 0:55 / /none rw,relatime - nfs4 none.example.com:/ rw,xprtsec=none,addr=10.0.0.5
`

// proc puts files in the places of the kernel's.
func proc(t *testing.T, volumes, mounts string) {
	t.Helper()
	v, m := volumesFile, mountinfoFile
	t.Cleanup(func() { volumesFile, mountinfoFile = v, m })
	dir := t.TempDir()
	volumesFile, mountinfoFile = filepath.Join(dir, "volumes"), filepath.Join(dir, "mountinfo")
	for path, text := range map[string]string{volumesFile: volumes, mountinfoFile: mounts} {
		if text == "" {
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMounted(t *testing.T) {
	tests := []struct {
		what, name, addr string
		want             bool
	}{
		{"by name", "nfs.example.com", "10.0.0.9", true},
		{"by name, otherwise written", "NFS.example.com.", "10.0.0.9", true},
		{"by address", "other", "10.0.0.1", true},
		{"by address in IPv6's form", "other", "::ffff:10.0.0.1", true},
		{"by literal", "2001:db8:0::1", "10.0.0.9", true},
		{"not at all", "other", "10.0.0.9", false},
		{"another file system", "nfs.trap", "10.9.9.9", false},
		{"in clear", "clear.example.com", "10.0.0.3", false},
		{"xprtsec=none", "none.example.com", "10.0.0.5", false},
		{"in a mount namespace that we do not see", "container", "10.0.0.4", true},
	}
	proc(t, volumes, mounts)
	for _, tt := range tests {
		got, err := mounted(tt.name, netip.MustParseAddr(tt.addr))
		if err != nil || got != tt.want {
			t.Errorf("%s: %v, %v", tt.what, got, err)
		}
	}
	if got, err := mounted("nfs.example.com", netip.Addr{}); !got || err != nil {
		t.Errorf("without an address: %v, %v", got, err)
	}
}

func TestMountedWithoutTheFiles(t *testing.T) {
	proc(t, "", "")
	if yes, err := mounted("nfs.example.com", netip.MustParseAddr("10.0.0.1")); yes || err != nil {
		t.Errorf("%v, %v", yes, err)
	}
	// Without mountinfo nothing is known to be in clear.
	proc(t, volumes, "")
	if yes, err := mounted("clear.example.com", netip.MustParseAddr("10.0.0.3")); !yes || err != nil {
		t.Errorf("%v, %v", yes, err)
	}
	// A file that cannot be read is an error, unless the other one answers.
	proc(t, "", mounts)
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

func FuzzVolumes(f *testing.F) {
	f.Add(volumes)
	f.Fuzz(func(t *testing.T, s string) { parseVolumes(strings.NewReader(s)) })
}
