// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"errors"
	"fmt"
	"log/syslog"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/internal/mountinfo"
)

// With -o bg the real helper goes on in a process of its own when the server
// does not answer, and its parent ends well. Somebody has to look at what that
// process mounts in the end: a process of ours, which ends with it.

// watcherName is argv[0] of the process that watches.
const watcherName = "mount.nfstls: watching a mount in the background"

// What the watcher inherits.
const (
	watcherAlive = 3 // see outcome
	watcherHold  = 4 // the connection to rpctlscd, whose choice of an identity ends with it
)

func isWatcher(argv []string) bool { return argv[0] == watcherName && len(argv) >= 4 }

// background returns the exit code for a helper that has ended well without a
// mount: it has gone into the background, unless nothing of it lives.
func (p *program) background(c commandLine, a attempt, where *place, daemon *agent, o outcome) int {
	if ended(o.alive, 0) {
		// It may have been faster than us.
		if mounted, err := where.verify(a.xprtsec); err != nil {
			return p.fail(exitFail, err, hintWeak)
		} else if mounted {
			return exitOK
		}
		return p.fail(exitFail, fmt.Errorf("%s: the helper says that all went well, but nothing new of that server is mounted on %s", c.spec, where.dir), "")
	}
	err := startWatcher(c, a, where, daemon, o)
	if err == nil {
		return exitOK
	}
	// Somebody has to look.
	p.note(c, fmt.Sprintf("cannot watch the mount in the background (%v): waiting for it here", err))
	switch mounted, err := watchMount(where, a.xprtsec, o.alive); {
	case err != nil:
		return p.fail(exitFail, err, hintWeak)
	case mounted:
		return exitOK
	}
	return p.fail(exitFail, fmt.Errorf("%s: the helper has given up in the background", c.spec), "")
}

// watcherPath is this program. A variable for tests.
var watcherPath = "/proc/self/exe"

func startWatcher(c commandLine, a attempt, where *place, daemon *agent, o outcome) error {
	argv := []string{watcherName, where.dir, a.xprtsec, c.spec}
	for id := range where.before {
		argv = append(argv, strconv.Itoa(id))
	}
	cmd := &exec.Cmd{
		Path: watcherPath, Args: argv, Dir: "/", Env: os.Environ(),
		ExtraFiles:  []*os.File{o.alive},
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if daemon.client != nil {
		f, err := daemon.client.File()
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	return cmd.Start()
}

// ended waits until the pipe is at its end, or for so long.
func ended(f *os.File, wait time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(wait/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n > 0
	}
}

// watch is the process that watches.
func (p *program) watch() int {
	want, spec := p.argv[2], p.argv[3]
	where := &place{dir: p.argv[1], host: mountinfo.HostOf(spec), before: make(map[int]bool)}
	for _, s := range p.argv[4:] {
		if id, err := strconv.Atoi(s); err == nil {
			where.before[id] = true
		}
	}
	alive := os.NewFile(watcherAlive, "alive")
	_, err := watchMount(where, want, alive)
	if err == nil {
		return exitOK
	}
	if log, lerr := syslog.New(syslog.LOG_DAEMON|syslog.LOG_CRIT, "mount.nfstls"); lerr == nil {
		log.Crit(fmt.Sprintf("%s: %v", spec, err))
	}
	return exitFail
}

// watchMount looks at the mount when it appears, or when whoever makes it has
// ended, possibly without one.
func watchMount(where *place, want string, alive *os.File) (mounted bool, err error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return false, err
	}
	defer table.Close()
	fds := []unix.PollFd{
		{Fd: int32(alive.Fd()), Events: unix.POLLIN},
		{Fd: int32(table.Fd()), Events: unix.POLLPRI}, // proc_pid_mounts(5): a change
	}
	for {
		over := ended(alive, 0)
		if mounted, err := where.verify(want); mounted || err != nil || over {
			return mounted, err
		}
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return false, err
		}
	}
}
