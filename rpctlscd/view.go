// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"crypto/tls"
	"slices"

	"rpctls/certs"
)

// A View is how the daemon would talk to one server, for tools that do the same
// without the kernel.
type View struct {
	Identity *certs.Identity // nil: none is configured
	Trust    *certs.Trust
	// Verify judges the server as the daemon does.
	Verify func(tls.ConnectionState) error
}

// View returns how to talk to the server that a mount calls name, at one of the
// addresses.
func (l *Loaded) View(name string, addresses ...string) View {
	s := l.find(append([]string{name}, addresses...)...)
	return View{s.identity, s.trust, s.plan(name, false, l.alpn).TLS.VerifyConnection}
}

// Named returns an identity that a mount can name.
func (l *Loaded) Named(name string) (*certs.Identity, error) { return l.byName(name) }

// Identities are all that the configuration names, for whichever server.
func (l *Loaded) Identities() (list []*certs.Identity) {
	for _, s := range l.all() {
		if s.identity != nil && !slices.Contains(list, s.identity) {
			list = append(list, s.identity)
		}
	}
	return list
}

// Trusts are all that the configuration names, for whichever server.
func (l *Loaded) Trusts() (list []*certs.Trust) {
	for _, s := range l.all() {
		if !slices.Contains(list, s.trust) {
			list = append(list, s.trust)
		}
	}
	return list
}
