// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rpctls/internal/clientask"
	"rpctls/internal/names"
	"rpctls/internal/reason"
	"rpctls/internal/rivals"
	"rpctls/internal/why"
	"rpctls/ktls"
	"rpctls/rpc"
	"rpctls/upcall"
)

// Limits of what is asked when a mount has failed already.
const (
	checkPatience = 5 * time.Second
	probePatience = 3 * time.Second
	maxCheck      = 4 << 10 // bytes of what -check says
)

// checker returns the program that knows whether rpctlscd could start: the one
// beside this, which is as trustworthy. A variable for tests.
var checker = func() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(self); err == nil {
		self = real
	}
	return filepath.Join(filepath.Dir(self), clientask.Daemon)
}

// whyNotRunning finds out whether rpctlscd, which does not run, could.
func whyNotRunning(config string) why.Cause {
	if !kernelTLS() {
		return why.KernelTLS
	}
	if text := refusal(config); text != "" {
		return why.CannotStart(text)
	}
	return why.NotRunning
}

// kernelTLS reports whether the kernel has TLS, as far as that can be tried. A
// variable for tests.
var kernelTLS = func() bool {
	caps, err := ktls.Probe()
	return err != nil || caps.ULP == nil
}

// withoutHandshake finds out why rpctlscd has not seen a handshake.
func withoutHandshake(a *agent) (why.Cause, bool) {
	if !kernelTLS() {
		return why.KernelTLS, true
	}
	if c, ok := offered(a.server); ok {
		return c, true
	}
	if a.err == nil && a.rivals() {
		return why.Rival, true
	}
	return why.Cause{}, false
}

// refusal is what rpctlscd -check says is wrong; empty if nothing is, or if that
// cannot be found out.
func refusal(config string) string {
	ctx, cancel := context.WithTimeout(context.Background(), checkPatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, checker(), "-check", "-config", config)
	said := new(strings.Builder)
	cmd.Stderr = &limited{said, maxCheck}
	cmd.WaitDelay = time.Second
	exit, ok := errors.AsType[*exec.ExitError](cmd.Run())
	if !ok || exit.ExitCode() != 1 {
		return ""
	}
	for line := range strings.Lines(said.String()) {
		text, ours := strings.CutPrefix(strings.TrimSpace(line), clientask.Daemon+": ")
		if ours && !strings.HasPrefix(text, "warning: ") {
			return oneLine(text)
		}
	}
	return ""
}

// A limited writer forgets what is too much.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	_, _ = l.w.Write(b[:n])
	return len(b), nil
}

// rivals reports whether somebody beside the daemons answers the kernel: then a
// handshake may have been none of rpctlscd's.
func (a *agent) rivals() bool {
	group, err := upcall.Group()
	if err != nil {
		return false
	}
	members, err := rivals.Members(group)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(members, func(m rivals.Socket) bool {
		for _, daemon := range []string{clientask.Daemon, "rpctlssd"} {
			if slices.Contains(rivals.Recorded(filepath.Join(a.dir, daemon+".lock")), m.Inode) {
				return false
			}
		}
		return true
	})
}

// nfsPort is where a server is asked. A variable for tests.
var nfsPort uint16 = 2049

// offered asks a server for TLS, to tell one without TLS from one without this
// version of NFS: the kernel's error is the same.
func offered(s clientask.Server) (why.Cause, bool) {
	host := s.Name
	if len(s.Addresses) > 0 {
		host = s.Addresses[0].String()
	}
	addr, ok := names.Addr(host)
	if !ok {
		return why.Cause{}, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), probePatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(addr, nfsPort).String())
	if err != nil {
		return why.Cause{}, false
	}
	defer conn.Close()
	switch f := reason.FaultOf(rpc.Probe(ctx, conn, rpc.ProgramNFS, rpc.NFSVersion4)); f {
	case reason.FaultNoTLS, reason.FaultNoNFS:
		return why.Fault(f, s.Name, nfsPort), true
	}
	return why.Cause{}, false
}
