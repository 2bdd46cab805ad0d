// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/internal/clientask"
	"rpctls/internal/config"
	"rpctls/internal/control"
	"rpctls/internal/history"
	"rpctls/internal/keyring"
	"rpctls/internal/mountinfo"
	"rpctls/internal/names"
)

// configVariable names another configuration of rpctlscd than the usual one:
// where its socket is follows from it.
const configVariable = "RPCTLSCD_CONFIG"

const usualConfig = "/etc/rpctls/rpctlscd.toml"

// resolvePatience bounds the look-up of a server's addresses, which is for
// finding more, and not for the mount.
const resolvePatience = 5 * time.Second

// An agent is rpctlscd, as far as it can be asked. A mount can do without: another
// daemon may answer the kernel.
type agent struct {
	config string          // path of its configuration
	dir    string          // its runtime directory
	client *control.Client // nil: err says why
	err    error
	server clientask.Server
	begin  history.Answer // up to where the history was read
	seen   []history.Event
	last   time.Time // when something was seen
}

// ask connects to rpctlscd for a mount of spec.
func ask(ctx context.Context, spec string) *agent {
	a := &agent{server: clientask.Server{Name: mountinfo.HostOf(spec)}}
	path := usualConfig
	if other := os.Getenv(configVariable); other != "" && os.Getuid() == os.Geteuid() {
		path = other
	}
	a.config = path
	a.dir, _ = config.RuntimeDirectory(path) // with an error it is the default
	if a.client, a.err = control.Dial(ctx, a.dir, clientask.Daemon); errors.Is(a.err, control.ErrNotRunning) {
		return a
	}
	a.server.Addresses = resolve(ctx, a.server.Name)
	a.server = a.server.Limit()
	a.call(clientask.OpHistory, history.Query{}, &a.begin) // the error is a's
	return a
}

// resolve looks up the addresses of a server. There are none if that does not
// work.
func resolve(ctx context.Context, host string) (addrs []netip.Addr) {
	if addr, ok := names.Addr(host); ok {
		return []netip.Addr{addr}
	}
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil
	}
	for _, addr := range found {
		addrs = append(addrs, addr.Unmap().WithZone(""))
	}
	return addrs
}

func (a *agent) close() {
	if a.client != nil {
		a.client.Close()
		a.client = nil
	}
}

// call asks, if there is somebody to ask. An answer that is an error is the
// caller's. Without an answer it is asked once more: the daemon may just have been
// restarted.
func (a *agent) call(op string, args, result any) error {
	for again := false; ; again = true {
		if a.client == nil {
			if errors.Is(a.err, control.ErrNotRunning) {
				return a.err
			}
			if a.client, a.err = control.Dial(context.Background(), a.dir, clientask.Daemon); a.err != nil {
				return a.err
			}
		}
		err := a.client.Call(op, args, result)
		if err == nil {
			return nil
		}
		if _, ok := errors.AsType[*control.Error](err); ok {
			return err
		}
		a.err = err
		a.close()
		if again {
			return err
		}
	}
}

// identities asks what there is for the server.
func (a *agent) identities() (clientask.Identities, error) {
	var found clientask.Identities
	err := a.call(clientask.OpIdentity, clientask.Identity{Server: a.server}, &found)
	return found, err
}

// events returns the handshakes with the server since ask, or since the last
// call, as far as they were of that kind: another mount of the same server may be
// in progress.
func (a *agent) events(mutual bool) []history.Event {
	a.read()
	found := slices.DeleteFunc(a.seen, func(e history.Event) bool { return e.Role != "client" || e.Mutual != mutual })
	a.seen, a.last = nil, time.Time{}
	return found
}

// hopeless reports whether a mount waits for nothing: the last handshake has
// failed for good, and none has followed for a while. The kernel sometimes misses
// the refusal and waits for three minutes (seen on 6.12).
func (a *agent) hopeless(mutual bool) bool {
	a.read()
	if len(a.seen) == 0 || time.Since(a.last) < hopelessAfter {
		return false
	}
	e := a.seen[len(a.seen)-1]
	return e.Role == "client" && e.Mutual == mutual && e.Errno == "EACCES"
}

// hopelessAfter is longer than any pause in between: a daemon's, or that of a
// connection to another address of the server. A variable for tests.
var hopelessAfter = 20 * time.Second

// read takes over what is new in the history. A daemon that was restarted
// meanwhile knows what has happened since then.
func (a *agent) read() {
	q := history.Query{After: a.begin.Last, Instance: a.begin.Instance, Peer: a.server.Name, Limit: history.MaxEvents}
	var got history.Answer
	if a.call(clientask.OpHistory, q, &got) != nil {
		return
	}
	a.begin.Instance, a.begin.Last = got.Instance, got.Last
	if len(got.Events) > 0 {
		a.seen = append(a.seen, got.Events...)
		a.seen = a.seen[max(0, len(a.seen)-history.MaxEvents):]
		a.last = time.Now()
	}
}

// present makes sure that the kernel, or rpctlscd, presents an identity: "" is the
// one of the configuration. The serial is that of the key for the mount's options,
// 0 for none.
func (a *agent) present(identity string) (serial int32, err error) {
	loadNFS()
	keyed := keyring.Supported()
	switch {
	case keyed && identity == "":
		return 0, nil
	case a.client == nil && errors.Is(a.err, control.ErrNotRunning):
		if identity == "" {
			return 0, nil // another daemon answers the kernel, and makes no choices
		}
		return 0, a.err
	case keyed && a.client == nil:
		return 0, a.err
	case keyed:
		_, gid := a.client.Daemon()
		return keyring.Add(identity, gid)
	case identity != "" && len(a.server.Addresses) == 0:
		return 0, &control.Error{
			Text: fmt.Sprintf("the addresses of %s are not known, and with this kernel a server has one identity, whatever it is called", a.server.Name),
			Hint: fmt.Sprintf("does `getent hosts %s` find it? Try again then", a.server.Name),
		}
	}
	return 0, a.call(clientask.OpChoose, clientask.Choose{Server: a.server, Identity: identity}, new(clientask.Chosen))
}

// loadNFS has the kernel load its NFS module, as mount(2) would, so that its
// keyring is there.
func loadNFS() {
	if fd, err := unix.Fsopen("nfs", unix.FSOPEN_CLOEXEC); err == nil {
		unix.Close(fd)
	}
}
