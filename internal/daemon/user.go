// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// User is whom the units let the daemons be.
const User = "rpctls"

// become makes root the user of that name for the rest of the process, so that
// whatever is read from then on is what that user may read: root can read a key
// that its daemon cannot, and is not in the group to which the key is given.
// Anybody else stays who he is, and so does root where the units' user does not
// exist, as in a container. The result says for messages who this is now.
func become(name string) (as string, err error) {
	who, err := lookup(name)
	if err != nil {
		return "", fmt.Errorf("check as user %s: %w", name, err)
	}
	if who == nil {
		return "", nil
	}
	// The groups first: afterwards there is no right to do so. Each is for all
	// threads.
	if err := syscall.Setgroups(who.groups); err != nil {
		return "", os.NewSyscallError("setgroups", err)
	}
	if err := syscall.Setresgid(who.gid, who.gid, who.gid); err != nil {
		return "", os.NewSyscallError("setresgid", err)
	}
	if err := syscall.Setresuid(who.uid, who.uid, who.uid); err != nil {
		return "", os.NewSyscallError("setresuid", err)
	}
	return "as user " + name + ": ", nil
}

// A someone is a user by numbers.
type someone struct {
	uid, gid int
	groups   []int
}

// lookup finds the user that root becomes by that name; nobody where root, or
// whoever this is, stays who he is.
func lookup(name string) (*someone, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(name)
	// An image of the programs alone has no /etc/passwd either.
	unknown := user.UnknownUserError("")
	if name == User && (errors.As(err, &unknown) || errors.Is(err, os.ErrNotExist)) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var who someone
	if who.uid, err = strconv.Atoi(u.Uid); err != nil {
		return nil, fmt.Errorf("uid %q", u.Uid)
	}
	if who.gid, err = strconv.Atoi(u.Gid); err != nil {
		return nil, fmt.Errorf("gid %q", u.Gid)
	}
	if who.uid == 0 {
		return nil, nil
	}
	if who.groups, err = groupsOf(u); err != nil {
		return nil, err
	}
	return &who, nil
}

func groupsOf(u *user.User) ([]int, error) {
	ids, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	var groups []int
	for _, id := range ids {
		gid, err := strconv.Atoi(id)
		if err != nil {
			return nil, fmt.Errorf("gid %q", id)
		}
		groups = append(groups, gid)
	}
	return groups, nil
}
