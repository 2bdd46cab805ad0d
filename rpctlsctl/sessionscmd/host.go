// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessionscmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"rpctls/internal/control"
	"rpctls/internal/mountinfo"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
)

// The daemons, and which side of a session each is on.
var daemons = map[string]string{"rpctlscd": "client", "rpctlssd": "server"}

// nfsPort is where an NFS server is unless told otherwise (RFC 7530 section 3.1).
const nfsPort = 2049

// A host is what the commands need of theirs. Tests have others.
type host struct {
	now     func() time.Time
	root    func() bool
	sockets func() ([]sockdiag.Socket, error) // with kernel TLS
	destroy func(sockdiag.ID) error
	// servers and clients are the ports that NFS sessions have on the server's
	// side: of this host's server, and of those that it has mounted.
	servers func() ([]uint16, error)
	clients func() ([]uint16, error)
}

// system is this host.
var system = host{
	now:     time.Now,
	root:    func() bool { return os.Geteuid() == 0 },
	sockets: tlsSockets,
	destroy: destroy,
	servers: serverPorts,
	clients: clientPorts,
}

func tlsSockets() (list []sockdiag.Socket, err error) {
	c, err := sockdiag.Open()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	err = c.Dump(func(s sockdiag.Socket) {
		if s.TLS != nil {
			list = append(list, s)
		}
	})
	return list, err
}

func destroy(id sockdiag.ID) error {
	c, err := sockdiag.Open()
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Destroy(id)
}

// portlist is where the kernel's server says on which ports it listens.
const portlist = "/proc/fs/nfsd/portlist"

func serverPorts() ([]uint16, error) {
	f, err := os.Open(portlist)
	if errors.Is(err, fs.ErrNotExist) { // no server
		return []uint16{nfsPort}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parsePortlist(f)
}

// parsePortlist reads lines such as "tcp 2049" (fs/nfsd, svc_xprt_names).
func parsePortlist(r io.Reader) ([]uint16, error) {
	ports := []uint16{nfsPort}
	s := bufio.NewScanner(io.LimitReader(r, 1<<16))
	for s.Scan() {
		proto, number, ok := strings.Cut(strings.TrimSpace(s.Text()), " ")
		if !ok || proto != "tcp" {
			continue
		}
		if n, err := strconv.ParseUint(number, 10, 16); err == nil && n > 0 && !slices.Contains(ports, uint16(n)) {
			ports = append(ports, uint16(n))
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", portlist, err)
	}
	return ports, nil
}

func clientPorts() ([]uint16, error) {
	ports := []uint16{nfsPort}
	mounts, err := mountinfo.Self()
	for _, m := range mounts {
		if m.Port != 0 && !slices.Contains(ports, m.Port) {
			ports = append(ports, m.Port)
		}
	}
	return ports, err
}

// How long a daemon is waited for that may be restarting: it has left a file, too.
const restarting = 500 * time.Millisecond

// A daemon is one of ours with what it knows.
type daemon struct {
	name    string
	client  *control.Client // nil if it does not run
	known   map[string]sessions.Info
	trouble error // why it may know more than that
}

// ask asks a daemon, or reads its file.
func ask(ctx context.Context, dir, name string) *daemon {
	d := &daemon{name: name, known: make(map[string]sessions.Info)}
	err := d.askRunning(ctx, dir)
	if err == nil {
		return d
	}
	d.close()
	clear(d.known)
	list, ferr := sessions.ReadFile(sessions.Path(dir, name))
	for _, s := range list {
		d.known[s.Name()] = s.Info()
	}
	if errors.Is(err, control.ErrNotRunning) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	d.trouble = errors.Join(err, ferr)
	return d
}

func (d *daemon) askRunning(ctx context.Context, dir string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, restarting)
	defer cancel()
	if d.client, err = control.Dial(ctx, dir, d.name); err != nil {
		return err
	}
	q := sessions.Query{}
	for {
		var p sessions.Page
		if err := d.client.Call(sessions.OpList, q, &p); err != nil {
			return err
		}
		for _, i := range p.Sessions {
			d.known[i.Name] = i
			q.After = i.Name
		}
		if !p.More {
			return nil
		}
		if len(p.Sessions) == 0 {
			return fmt.Errorf("%s says that there is more, and does not tell it", d.name)
		}
	}
}

// end has the daemon end a session, which its log then tells. It returns ErrGone if
// there is none.
func (d *daemon) end(name string) error {
	var e sessions.Ended
	if err := d.client.Call(sessions.OpKill, sessions.Selector{ID: name}, &e); err != nil {
		return err
	}
	if len(e.Sessions) == 0 {
		return sockdiag.ErrGone
	}
	return nil
}

func (d *daemon) close() {
	if d.client != nil {
		d.client.Close()
		d.client = nil
	}
}
