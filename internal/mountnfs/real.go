// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// RealName is what mount.nfs is called where the package rpctls-mount has put
// this program in its place.
const RealName = "mount.nfs.rpctls-real"

// movingName is what it is called while an upgrade of Debian moves nfs-common's
// helper between /sbin and /usr/sbin, from its unpacking until dpkg's triggers
// have run (packaging/deb/diversion.sh).
const movingName = RealName + ".usr-is-merged"

// realHelpers are where the real helper may be. The first that is there is it:
// the new name, then the usual one for hosts on which nothing was put in place of
// it.
func realHelpers() (paths []string) {
	for _, name := range []string{RealName, movingName, "mount.nfs"} {
		paths = append(paths, "/usr/sbin/"+name, "/sbin/"+name)
	}
	return paths
}

var errNoHelper = errors.New("the NFS mount helper is missing")

// findReal returns the first of the paths that is a program and not this one.
// Starting ourselves again would never end.
func findReal(paths []string) (string, error) {
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || os.SameFile(info, self) {
			continue
		}
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: none of %s", errNoHelper, strings.Join(paths, ", "))
}

// become runs the real helper in place of this process, with the arguments as
// they are: the helper decides by the name that it is called by.
func become(real string, argv []string) error {
	return fmt.Errorf("execute %s: %w", real, unix.Exec(real, argv, os.Environ()))
}

// asHelper returns argv[0] for the real helper: what we were called by if it
// knows that name.
func asHelper(argv0 string) string {
	switch base := filepath.Base(argv0); base {
	case "mount.nfs", "mount.nfs4", "umount.nfs", "umount.nfs4":
		return argv0
	default:
		name := "mount.nfs"
		if strings.HasPrefix(base, "umount") {
			name = "umount.nfs"
		}
		if strings.Contains(argv0, "/") {
			return filepath.Join(filepath.Dir(argv0), name)
		}
		return name
	}
}
