// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"errors"
	"log/slog"
	"net/netip"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/clientask"
	"rpctls/internal/config"
	"rpctls/internal/daemon"
	"rpctls/internal/keyring"
	"rpctls/internal/netns"
	"rpctls/internal/reason"
	"rpctls/upcall"
)

// Program is the daemon.
func Program() daemon.Program[Config, Loaded] {
	return daemon.Program[Config, Loaded]{
		Name:      "rpctlscd",
		About:     "answers the kernel's TLS handshakes for the NFS client",
		Load:      Load,
		Settings:  func(c Config) config.Settings { return c.Settings },
		Build:     rebuild(),
		Warnings:  (*Loaded).Warnings,
		Inventory: (*Loaded).Inventory,
		Role: func(c Config, live *certs.Live[Loaded], log *slog.Logger) (agent.Role, error) {
			chosen, err := loadChoices(string(c.RuntimeDirectory), func(s clientask.Server) (bool, error) {
				return mountedWith(mutual, s.Name, s.Addresses)
			})
			if err != nil {
				return nil, err
			}
			return &Role{live: live, log: log, pace: newPace(), mounted: mounted, chosen: chosen, readKey: keyring.Read}, nil
		},
	}
}

// Role is the client's [agent.Role].
type Role struct {
	live    *certs.Live[Loaded]
	log     *slog.Logger
	pace    *pace
	mounted func(name string, addr netip.Addr) (bool, error)
	chosen  *choices
	readKey func(serial int32) ([]byte, error)
	spaces  *netns.Set // nil: none but our own
}

// UseNamespaces implements daemon.Namespaced.
func (r *Role) UseNamespaces(s *netns.Set) { r.spaces = s }

// Role implements [agent.Role].
func (*Role) Role() upcall.Role { return upcall.Client }

// errNoName: the kernel's NFS client always names the server.
var errNoName = errors.New("the kernel did not name the server")

// Plan implements [agent.Role].
func (r *Role) Plan(req *upcall.Request) (agent.Plan, error) {
	if req.PeerName == "" {
		return agent.Plan{}, errNoName
	}
	paths, err := r.spaces.Paths(req.Namespace)
	if err != nil {
		return agent.Plan{}, err // never with the identity of another
	}
	loaded := r.live.Get()
	s := find(loaded.in(paths), req.PeerName, addrText(req.Peer.Addr()))
	mutual := req.AuthMode == upcall.X509
	if mutual {
		if s.identity, err = r.identity(loaded, s, req); err != nil {
			return agent.Plan{}, err
		}
	}
	return s.plan(req.PeerName, mutual, loaded.alpn), nil
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// identity decides which certificate a server gets: the one that the mount
// names, else the one that was chosen for the server, else the one that the
// configuration says. Presenting another one than the mount asks for would be
// worse than failing.
func (r *Role) identity(loaded *Loaded, s server, req *upcall.Request) (*certs.Identity, error) {
	if len(req.KeyPairs) > 0 {
		return loaded.byKeys(req.KeyPairs, r.readKey)
	}
	if name, ok := r.chosen.of(req.PeerName, req.Peer.Addr()); ok && name != "" {
		return loaded.byName(name)
	}
	if s.identity == nil {
		return nil, reason.ErrNoIdentity
	}
	return s.identity, nil
}

// Judge implements [agent.Role]: EACCES only where trying again cannot help
// and nobody's data is at stake.
func (r *Role) Judge(req *upcall.Request, res agent.Result) agent.Verdict {
	addr := req.Peer.Addr()
	if res.Err == nil {
		r.pace.reset(req.PeerName)
		return agent.Verdict{}
	}
	if res.Reason == reason.Unsupported || res.Reason.Definite() && !r.isReconnect(req.Namespace, req.PeerName, addr) {
		return agent.Verdict{Status: unix.EACCES}
	}
	return agent.Verdict{Status: unix.ETIMEDOUT, Delay: r.pace.next(req.PeerName)}
}

// isReconnect reports whether data of a mount of that server may be at stake.
// When that cannot be found out it is assumed: a mount that hangs can be
// mended, a lost write cannot.
func (r *Role) isReconnect(namespace uint64, name string, addr netip.Addr) bool {
	if r.live.Get().reconnect == ReconnectFail {
		return false
	}
	var yes bool
	err := r.spaces.Do(namespace, func() (err error) { yes, err = r.mounted(name, addr); return err })
	if err != nil {
		r.log.Warn("cannot tell whether this server is mounted; assuming it is", "server", name, "error", err)
		return true
	}
	return yes
}
