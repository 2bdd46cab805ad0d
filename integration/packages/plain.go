// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// plain are commands that have nothing to do with TLS: whatever they say and
// return, and what is mounted afterwards, they do the same with our packages as
// without.
var plain = []string{
	"mount nfs.example.com:/plain /mnt",
	"mount -o remount,ro /mnt",
	"touch /mnt/x",
	"mount -o remount,rw,noatime /mnt",
	"umount /mnt",
	"umount /mnt", // once more
	"mount -t nfs4 -o ro,vers=4.1,sec=sys nfs.example.com:/plain /mnt",
	"umount -v /mnt",
	"mount -t nfs -o vers=3,nolock,proto=tcp nfs.example.com:/plain /mnt",
	"umount -f /mnt",
	"mount -o xprtsec=none nfs.example.com:/plain /mnt",
	"umount -l /mnt",
	"mount -f -v nfs.example.com:/plain /mnt",
	"mount nfs.example.com:/nothing /mnt",
	"mount -o nosuchoption nfs.example.com:/plain /mnt",
	"mount -o vers=9 nfs.example.com:/plain /mnt",
	"mount -o sloppy,nosuchoption nfs.example.com:/plain /mnt",
	"umount /mnt",
	"mount -s -o nosuchoption nfs.example.com:/plain /mnt",
	"umount /mnt",
	"mount nosuchhost.example.com:/plain /mnt",
	"mount -t nfs nfs.example.com /mnt",
	"mount nfs.example.com:/plain /nosuchdirectory",
	"mount.nfs",
	"mount.nfs -V",
	"mount.nfs4 -h",
	"mount.nfs nfs.example.com:/plain",
	"mount.nfs nfs.example.com:/plain /mnt -v -o vers=4.2",
	"umount.nfs /mnt",
	"umount.nfs4 /mnt",
	"umount.nfs",
	"/sbin/mount.nfs4 nfs.example.com:/plain /mnt -n",
	"umount -n /mnt",
	"runuser -u nobody -- mount nfs.example.com:/plain /mnt",
	"runuser -u nobody -- /usr/sbin/mount.nfs nfs.example.com:/plain /mnt",
	"mount /srv", // by fstab
	"umount /srv",
	"mount -a -t nfs",
	"umount -a -t nfs,nfs4",
}

// plainSays runs them and returns what each did.
func (s *story) plainSays(t *testing.T) []string {
	t.Helper()
	var script strings.Builder
	for _, c := range plain {
		// Times and ports are no statement, nor is what starting rpc.statd
		// says after a boot.
		fmt.Fprintf(&script, `
			out=$(%s 2>&1 </dev/null); code=$?
			printf '%%s\n' "$out" | sed -E '/^Created symlink/d; s/(timeout set for|clientaddr=|addr=|prog [0-9]+, trying).*/\1 .../'
			echo "exit status $code"
			findmnt -rn -t nfs,nfs4 -o TARGET,SOURCE,FSTYPE,OPTIONS | sed -E 's/mountport=[0-9]+/mountport=.../'
			printf '\0'`, c)
	}
	said := strings.Split(s.client1.must(t, script.String()), "\x00")
	if len(said) != len(plain)+1 {
		t.Fatalf("%d answers to %d commands", len(said)-1, len(plain))
	}
	return said[:len(plain)]
}

// plainBefore: what mount.nfs says without us, and a capture that shows what a
// mount in clear shows.
func (s *story) plainBefore(t *testing.T) {
	s.server.must(t, `
		mkdir -p /plain /export && chmod 1777 /plain /export
		echo '/plain *(rw,sync,no_subtree_check,no_root_squash)' >/etc/exports
		exportfs -ra`)
	s.client1.must(t, "echo 'nfs.example.com:/plain /srv nfs noauto,vers=4.2 0 0' >>/etc/fstab; systemctl daemon-reload")
	s.plainSaid = s.plainSays(t)
	// That they do the same twice must not be because they do nothing.
	for command, want := range map[string]string{
		"mount nfs.example.com:/plain /mnt":   "exit status 0\n/mnt nfs.example.com:/plain nfs4 rw",
		"mount nfs.example.com:/nothing /mnt": "exit status 32",
		"mount /srv":                          "exit status 0\n/srv nfs.example.com:/plain nfs4",
	} {
		if said := s.plainSaid[slices.Index(plain, command)]; !strings.Contains(said, want) {
			t.Fatalf("%s: %s, want %q", command, said, want)
		}
	}
	s.client1.must(t, "mount nfs.example.com:/plain /mnt")
	if seen := s.secretSeen(t, s.client1, "/mnt", s.server, "/plain"); !seen {
		t.Error("what is written in clear is not in the capture: it shows nothing")
	}
	s.client1.must(t, "umount /mnt")
}

// plainBeside: the same with our packages.
func (s *story) plainBeside(t *testing.T) {
	for i, said := range s.plainSays(t) {
		if said != s.plainSaid[i] {
			t.Errorf("%s: without the packages:\n%s\nwith them:\n%s", plain[i], s.plainSaid[i], said)
		}
	}
}
