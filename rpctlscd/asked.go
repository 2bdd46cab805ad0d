// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"context"
	"maps"
	"slices"

	"rpctls/internal/clientask"
	"rpctls/internal/control"
)

// Control implements daemon.Controller: what mounts ask.
func (r *Role) Control() map[string]control.Handler {
	return map[string]control.Handler{
		clientask.OpIdentity: control.Typed(r.askIdentity),
		clientask.OpChoose:   control.Typed(r.askChoose),
	}
}

func (r *Role) askIdentity(_ context.Context, _ *control.Call, a clientask.Identity) (clientask.Identities, error) {
	if err := a.Server.Check(); err != nil {
		return clientask.Identities{}, err
	}
	loaded := r.live.Get()
	hosts := []string{a.Server.Name}
	for _, addr := range a.Server.Addresses {
		hosts = append(hosts, addrText(addr))
	}
	found := clientask.Identities{Default: loaded.find(hosts...).identity != nil}
	for _, name := range slices.Sorted(maps.Keys(loaded.named)) {
		n := loaded.named[name]
		entry := clientask.Named{Name: name}
		if n.err != nil {
			entry.Error = n.err.Error()
		} else {
			entry.Subject, entry.NotAfter = n.identity.Subject(), n.identity.NotAfter()
		}
		found.Named = append(found.Named, entry)
	}
	return found, nil
}

func (r *Role) askChoose(_ context.Context, call *control.Call, a clientask.Choose) (clientask.Chosen, error) {
	if err := a.Server.Check(); err != nil {
		return clientask.Chosen{}, err
	}
	if a.Identity != "" {
		if _, err := r.live.Get().byName(a.Identity); err != nil {
			return clientask.Chosen{}, err
		}
	}
	// With room for it first: a choice that nobody holds would be in force all the
	// same.
	err := call.Hold(func() (func(), error) { return r.chosen.choose(a.Server, a.Identity) })
	if err != nil {
		return clientask.Chosen{}, err
	}
	r.log.Info("identity chosen", "server", a.Server.Name, "identity", called(a.Identity), "pid", call.Peer.Pid)
	return clientask.Chosen{}, nil
}
