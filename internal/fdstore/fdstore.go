// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package fdstore

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Take returns the descriptors that the service manager has kept, by name, and
// closes those with a name that occurred before. They are the caller's. It
// returns something the first time only.
func Take() map[string]int {
	kept := make(map[string]int)
	for _, f := range activation.Files(true) {
		// Of its own, since f closes its one when it is collected. Above the
		// standard streams it cannot be by accident.
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		name := f.Name()
		f.Close()
		if err != nil {
			continue
		}
		if _, twice := kept[name]; twice {
			unix.Close(fd)
			continue
		}
		kept[name] = fd
	}
	return kept
}

// ErrNoStore: there is no service manager to keep descriptors.
var ErrNoStore = errors.New("no service manager")

// Keep asks the service manager to keep a copy of fd under name, which must be
// unique, for the next instance of this service. fd stays the caller's.
func Keep(name string, fd int) error {
	// FDPOLL: a netlink socket that has lost a message has an error set, and
	// the manager would throw it out.
	return send("FDSTORE=1\nFDPOLL=0\nFDNAME="+name, unix.UnixRights(fd))
}

// Forget asks the service manager to close what it keeps under name.
func Forget(name string) error { return send("FDSTOREREMOVE=1\nFDNAME="+name, nil) }

func send(state string, oob []byte) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return ErrNoStore
	}
	if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "@") {
		return fmt.Errorf("descriptor store: NOTIFY_SOCKET is %q", path)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("descriptor store: %w", os.NewSyscallError("socket", err))
	}
	defer unix.Close(fd)
	if err := unix.Sendmsg(fd, []byte(state), oob, &unix.SockaddrUnix{Name: path}, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("descriptor store: %w", os.NewSyscallError("sendmsg", err))
	}
	return nil
}
