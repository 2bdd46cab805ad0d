// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/internal/clientask"
	"rpctls/internal/config"
	"rpctls/internal/control"
	"rpctls/internal/daemon"
	"rpctls/internal/history"
	"rpctls/internal/nfsd"
	"rpctls/internal/probe"
	"rpctls/internal/rivals"
	"rpctls/internal/version"
	"rpctls/ktls"
	"rpctls/rpctlscd"
	"rpctls/rpctlssd"
	"rpctls/upcall"
)

// A System is what the checks look at. [This] is the real one.
type System interface {
	Hostname() string
	Names() []string // and addresses of this host
	Now() time.Time
	Built() time.Time // before which no clock can be

	Exists(path string) bool
	// Read returns a file, of which there is at most 1 MiB.
	Read(path string) ([]byte, error)
	Release() string // of the kernel

	KernelTLS() error                 // nil: it can be used
	Group() (uint32, error)           // of the kernel's handshake requests
	Members(uint32) ([]uint32, error) // inodes of the sockets in it
	Program(inode uint32) string      // that has the socket, "" if unknown
	Recorded(path string) (inodes []uint32)
	Threads() (int, error) // of nfsd
	// Namespaces are the other network namespaces; an error comes with what
	// could be seen.
	Namespaces(group uint32) ([]Namespace, error)

	// Client and Server load what a daemon would, with the rights of user.
	Client(path, user string) (*Client, error)
	Server(path, user string) (*Server, error)
	// Dial connects to a running daemon; nil without an error if none runs.
	Dial(ctx context.Context, directory, daemon string) (Talk, error)

	Probe(context.Context, probe.Options) *probe.Result
}

// A Talk is a connection to a daemon.
type Talk interface {
	Call(op string, args, result any) error
	Close() error
}

// A Client is what the client's files hold.
type Client struct {
	Config rpctlscd.Config
	Loaded *rpctlscd.Loaded
}

// A Server is what the server's files hold.
type Server struct {
	Config rpctlssd.Config
	Loaded *rpctlssd.Loaded
}

// This is the host that this process runs on.
func This() System { return this{} }

type this struct{}

func (this) Hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "this host"
	}
	return name
}

func (h this) Names() []string {
	names := []string{h.Hostname()}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
			names = append(names, p.Addr().String())
		}
	}
	return names
}

func (this) Now() time.Time   { return time.Now() }
func (this) Built() time.Time { return version.Built() }

func (this) Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

const maxFile = 1 << 20

func (this) Read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFile))
}

func (this) Release() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func (this) KernelTLS() error {
	caps, err := ktls.Probe()
	if err != nil {
		return nil // it could not be tried: that is not about TLS
	}
	if caps.ULP != nil {
		return caps.ULP
	}
	var none error
	for _, c := range ktls.Ciphers() {
		err := caps.Usable(c)
		if err == nil {
			return nil
		}
		none = err
	}
	return none
}

func (this) Group() (uint32, error) { return upcall.Group() }

func (this) Members(group uint32) (inodes []uint32, err error) {
	members, err := rivals.Members(group)
	for _, m := range members {
		inodes = append(inodes, m.Inode)
	}
	return inodes, err
}

// Program looks through the descriptors of all processes, as far as this one may.
func (this) Program(inode uint32) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	fds, _ := filepath.Glob("/proc/[0-9]*/fd/*") // the pattern is well-formed
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err != nil || target != want {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		if pid == "1" || pid == strconv.Itoa(os.Getpid()) {
			continue // systemd keeps sockets for others
		}
		comm, err := os.ReadFile("/proc/" + pid + "/comm")
		if err != nil {
			continue
		}
		return certs.Printable(strings.TrimSpace(string(comm))) + " (process " + pid + ")"
	}
	return ""
}

func (this) Recorded(path string) []uint32 { return rivals.Recorded(path) }
func (this) Threads() (int, error)         { return nfsd.Threads() }

func (this) Client(path, user string) (c *Client, err error) {
	aserr := daemon.As(user, func() {
		var cfg rpctlscd.Config
		if cfg, err = rpctlscd.Load(path); err != nil {
			return
		}
		var loaded *rpctlscd.Loaded
		if loaded, err = rpctlscd.Program().Build(cfg, new(certs.Files)); err == nil {
			c = &Client{cfg, loaded}
		}
	})
	return c, errors.Join(aserr, err)
}

func (this) Server(path, user string) (s *Server, err error) {
	aserr := daemon.As(user, func() {
		var cfg rpctlssd.Config
		if cfg, err = rpctlssd.Load(path); err != nil {
			return
		}
		var loaded *rpctlssd.Loaded
		if loaded, err = rpctlssd.Program().Build(cfg, new(certs.Files)); err == nil {
			s = &Server{cfg, loaded}
		}
	})
	return s, errors.Join(aserr, err)
}

func (this) Dial(ctx context.Context, directory, name string) (Talk, error) {
	c, err := control.Dial(ctx, directory, name)
	if errors.Is(err, control.ErrNotRunning) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (this) Probe(ctx context.Context, o probe.Options) *probe.Result { return probe.Run(ctx, o) }

// Names of the daemons, which those of their files are made of.
const (
	clientDaemon = clientask.Daemon
	serverDaemon = "rpctlssd"
)

// runtimeDirectory is where a daemon's socket is, even if the rest of its files is
// wrong.
func runtimeDirectory(path string) string {
	dir, _ := config.RuntimeDirectory(path) // with an error it is the default
	return dir
}

// latest asks a daemon for the last handshakes with a peer.
func latest(t Talk, peer string) ([]history.Event, error) {
	var a history.Answer
	err := t.Call(clientask.OpHistory, history.Query{Peer: peer, Limit: 20}, &a)
	return a.Events, err
}
