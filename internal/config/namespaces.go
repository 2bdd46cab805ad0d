// SPDX-License-Identifier: BSD-3-Clause

package config

import (
	"errors"
	"fmt"
	"slices"

	"rpctls/internal/netns"
)

// Bounds of what a configuration says about network namespaces.
const (
	maxPatterns = 64
	maxSpaces   = 64
)

// A FileNamespace is a [[namespace]] block, as decoded.
type FileNamespace struct {
	Match       []netns.Pattern `toml:"match"`
	Certificate PathValue       `toml:"certificate"`
	PrivateKey  PathValue       `toml:"private_key"`
	Trust       TrustValue      `toml:"trust"`
	CRL         *[]PathValue    `toml:"crl"`
}

// A Namespace is what differs for some network namespaces. What it does not set is
// as for all.
type Namespace struct {
	Match       []netns.Pattern
	Certificate Path
	PrivateKey  Path
	Trust       Trust
	CRL         *[]Path // nil: as for all; empty: none
}

func (f FileNamespace) value() Namespace {
	n := Namespace{f.Match, f.Certificate.V, f.PrivateKey.V, f.Trust.V, nil}
	if f.CRL != nil {
		crl := Paths(*f.CRL)
		n.CRL = &crl
	}
	return n
}

// CheckNamespaces refuses what says nothing, or cannot be done.
func (s *Settings) CheckNamespaces() error {
	if s.Namespaces != nil {
		switch {
		case len(s.Namespaces) > maxPatterns:
			return fmt.Errorf("namespaces: more than %d", maxPatterns)
		case !slices.ContainsFunc(s.Namespaces, netns.Pattern.IsHost):
			return errors.New(`namespaces: "host" is missing: the daemon's own network namespace is always served`)
		}
	}
	if len(s.Spaces) > maxSpaces {
		return fmt.Errorf("more than %d namespace blocks", maxSpaces)
	}
	for i, n := range s.Spaces {
		if err := n.check(); err != nil {
			return fmt.Errorf("namespace %d: %w", i+1, err)
		}
	}
	if len(s.Spaces) > 0 && s.Namespaces == nil {
		return errors.New("there is a namespace block, and namespaces is not set")
	}
	return nil
}

func (n Namespace) check() error {
	switch {
	case len(n.Match) == 0:
		return errors.New("match is missing")
	case len(n.Match) > maxPatterns:
		return fmt.Errorf("match: more than %d", maxPatterns)
	case slices.ContainsFunc(n.Match, netns.Pattern.IsHost):
		return errors.New(`match: "host" is what the keys outside of blocks are about`)
	case n.Certificate == "" && n.PrivateKey == "" && n.Trust == "" && n.CRL == nil:
		return errors.New("it sets nothing: certificate, private_key, trust or crl")
	}
	return Pair(n.Certificate, n.PrivateKey)
}

// In returns the settings of the namespaces that a block is about.
func (s Settings) In(n Namespace) Settings {
	s.Namespaces, s.Spaces = nil, nil
	if n.Certificate != "" {
		s.Certificate, s.PrivateKey = n.Certificate, n.PrivateKey
	}
	if n.Trust != "" {
		s.Trust = n.Trust
	}
	if n.CRL != nil {
		s.CRL = *n.CRL
	}
	return s
}
