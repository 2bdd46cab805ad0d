// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"rpctls/certs"
	"rpctls/internal/reason"
)

// A named identity is one that a mount can ask for by name. One that could not
// be loaded is remembered with the reason: the mounts that name it hear of it,
// and nobody else is the worse for it.
type named struct {
	identity *certs.Identity
	err      error
}

// Where an identity's files are, within its directory (package certs/store).
const (
	identityCert = "current/cert.pem"
	identityKey  = "current/key.pem"
)

// loadNamed loads the identities that have names, now and not when a mount names
// them: nothing is read on the way of a handshake. What was loaded before stays in
// use where it cannot be read now: a mount that lives does not lose its certificate
// over a file that is bad for a moment.
func (l *Loaded) loadNamed(c Config, f *certs.Files, before map[string]named) {
	l.named = make(map[string]named)
	for _, ic := range c.Identities {
		l.addNamed(f, ic.Name, string(ic.Certificate), string(ic.PrivateKey), before[ic.Name])
	}
	dir := string(c.IdentityDirectory)
	names, err := f.Directories(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil && len(names)+len(c.Identities) > maxIdentities {
		err = fmt.Errorf("%s: more than %d identities", dir, maxIdentities)
	}
	if err != nil {
		for name, old := range before {
			if _, ok := l.named[name]; !ok && old.isFrom(filesIn(dir, name)) {
				l.named[name] = old
			}
		}
		l.trouble = append(l.trouble, fmt.Sprintf("identity_directory: %v; of its identities, mounts can name those that were loaded before", err))
		return
	}
	for _, name := range names {
		if _, ok := l.named[name]; ok || certs.CheckName(name) != nil {
			continue // the configuration goes first; what rpctlsctl did not make is not for us
		}
		cert, key := filesIn(dir, name)
		l.addNamed(f, name, cert, key, before[name])
	}
}

func filesIn(dir, name string) (cert, key string) {
	return filepath.Join(dir, name, identityCert), filepath.Join(dir, name, identityKey)
}

// isFrom reports whether there is an identity that was read from those files.
func (n named) isFrom(cert, key string) bool {
	return n.identity != nil && n.identity.CertificatePath() == cert && n.identity.KeyPath() == key
}

func (l *Loaded) addNamed(f *certs.Files, name, cert, key string, before named) {
	id, err := certs.LoadIdentity(f, cert, key)
	if err != nil {
		what := "mounts that name it are refused"
		if before.isFrom(cert, key) && !gone(cert, key) {
			what = "what was loaded before stays in use"
			id = before.identity
		}
		l.trouble = append(l.trouble, fmt.Sprintf("identity %s: %v; %s", name, err, what))
		if id != nil {
			err = nil
		}
	}
	l.named[name] = named{id, err}
}

// gone reports whether none of the files is there: somebody has taken an identity
// away and wants it to be of no more use.
func gone(paths ...string) bool {
	return !slices.ContainsFunc(paths, func(path string) bool {
		_, err := os.Lstat(path)
		return !errors.Is(err, fs.ErrNotExist)
	})
}

// byName returns the identity of that name.
func (l *Loaded) byName(name string) (*certs.Identity, error) {
	n, ok := l.named[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: there is none called %q", reason.ErrNamedIdentity, certs.Printable(name))
	case n.err != nil:
		return nil, fmt.Errorf("%w: %s: %w", reason.ErrNamedIdentity, name, n.err)
	}
	return n.identity, nil
}

// namedWarnings says what is or will soon be wrong with identities that have
// names, except for those of which the configuration itself makes use: they are
// the same certificates by another path.
func (l *Loaded) namedWarnings(now time.Time) (w []string) {
	for name, n := range l.named {
		if n.identity == nil || slices.ContainsFunc(l.all(), func(s server) bool {
			return s.identity != nil && s.identity.Fingerprint() == n.identity.Fingerprint()
		}) {
			continue
		}
		for _, line := range n.identity.Warnings(now) {
			w = append(w, fmt.Sprintf("identity %s: %s", name, line))
		}
	}
	return append(w, l.trouble...)
}
