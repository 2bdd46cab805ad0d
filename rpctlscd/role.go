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
	"rpctls/internal/config"
	"rpctls/internal/daemon"
	"rpctls/internal/reason"
	"rpctls/upcall"
)

// Program is the daemon.
func Program() daemon.Program[Config, Loaded] {
	return daemon.Program[Config, Loaded]{
		Name:     "rpctlscd",
		About:    "answers the kernel's TLS handshakes for the NFS client",
		Load:     Load,
		Settings: func(c Config) config.Settings { return c.Settings },
		Build:    Build,
		Warnings: (*Loaded).Warnings,
		Role: func(live *certs.Live[Loaded], log *slog.Logger) agent.Role {
			return &Role{live: live, log: log, pace: newPace(), mounted: mounted}
		},
	}
}

// Role is the client's [agent.Role].
type Role struct {
	live    *certs.Live[Loaded]
	log     *slog.Logger
	pace    *pace
	mounted func(name string, addr netip.Addr) (bool, error)
}

// Role implements [agent.Role].
func (*Role) Role() upcall.Role { return upcall.Client }

// errNoName: the kernel's NFS client always names the server.
var errNoName = errors.New("the kernel did not name the server")

// Plan implements [agent.Role].
func (r *Role) Plan(req *upcall.Request) (agent.Plan, error) {
	if len(req.KeyPairs) > 0 {
		// Presenting another certificate than the mount names would be worse
		// than failing.
		return agent.Plan{}, reason.ErrKeySerials
	}
	if req.PeerName == "" {
		return agent.Plan{}, errNoName
	}
	loaded := r.live.Get()
	var addr string
	if req.Peer.IsValid() {
		addr = req.Peer.Addr().String()
	}
	s := loaded.find(req.PeerName, addr)
	mutual := req.AuthMode == upcall.X509
	if mutual && s.identity == nil {
		return agent.Plan{}, reason.ErrNoIdentity
	}
	return s.plan(req.PeerName, mutual, loaded.alpn), nil
}

// Judge implements [agent.Role]: EACCES only where trying again cannot help
// and nobody's data is at stake.
func (r *Role) Judge(req *upcall.Request, res agent.Result) agent.Verdict {
	addr := req.Peer.Addr()
	if res.Err == nil {
		r.pace.reset(req.PeerName)
		return agent.Verdict{}
	}
	if res.Reason == reason.Unsupported || res.Reason.Definite() && !r.isReconnect(req.PeerName, addr) {
		return agent.Verdict{Status: unix.EACCES}
	}
	return agent.Verdict{Status: unix.ETIMEDOUT, Delay: r.pace.next(req.PeerName)}
}

// isReconnect reports whether data of a mount of that server may be at stake.
// When that cannot be found out it is assumed: a mount that hangs can be
// mended, a lost write cannot.
func (r *Role) isReconnect(name string, addr netip.Addr) bool {
	if r.live.Get().reconnect == ReconnectFail {
		return false
	}
	yes, err := r.mounted(name, addr)
	if err != nil {
		r.log.Warn("cannot tell whether this server is mounted; assuming it is", "server", name, "error", err)
		return true
	}
	return yes
}
