// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"rpctls/internal/agent"
	"rpctls/internal/config"
	"rpctls/internal/netns"
)

// namespaces makes what serves the network namespaces that the settings name; nil
// if they name none but our own. The right to enter them is put to rest in all
// threads, whether it is there for this or not.
func namespaces(s config.Settings, log *slog.Logger) (*agent.Namespaces, error) {
	if s.Namespaces == nil {
		return nil, nil
	}
	lacking := netns.CanEnter()
	if lacking == nil {
		if err := netns.Rest(); errors.Is(err, unix.ENOTSUP) {
			log.Warn("a program with cgo cannot put CAP_SYS_ADMIN to rest: every thread has it; build with CGO_ENABLED=0")
		} else if err != nil {
			return nil, fmt.Errorf("put CAP_SYS_ADMIN to rest: %w", err)
		}
	}
	if !others(s.Namespaces) {
		lacking = nil // nothing is missing
	}
	return agent.NewNamespaces(s.Namespaces, lacking)
}

// others reports whether patterns mean more than our own namespace.
func others(patterns []netns.Pattern) bool {
	return slices.ContainsFunc(patterns, func(p netns.Pattern) bool { return !p.IsHost() })
}

// changeNamespaces takes over what a reload says of namespaces.
func changeNamespaces(spaces *agent.Namespaces, s config.Settings, log *slog.Logger) {
	switch {
	case spaces != nil && s.Namespaces != nil:
		spaces.Configure(s.Namespaces)
	case spaces != nil: // the host is served as before
		spaces.Configure([]netns.Pattern{})
	case s.Namespaces != nil:
		log.Warn("namespaces are served from the next start on, since there were none at this one")
	}
}

// Where drop-ins of units are, and what is missing here. Variables for tests.
var (
	unitDirectories = []string{"/etc/systemd/system", "/run/systemd/system"}
	canEnter        = netns.CanEnter
)

// checkNamespaces says what will be missing to enter namespaces, as far as a check
// can tell, which does not have the unit's rights: nothing, if a drop-in gives
// them.
func (p Program[C, S]) checkNamespaces(c C) []string {
	if !others(p.Settings(c).Namespaces) {
		return nil
	}
	err := canEnter()
	if err == nil {
		return nil
	}
	for _, dir := range unitDirectories {
		files, _ := filepath.Glob(filepath.Join(dir, p.Name+".service.d", "*.conf")) // the pattern is well-formed
		for _, path := range files {
			text, err := os.ReadFile(path)
			if err == nil && bytes.Contains(text, []byte("CAP_SYS_ADMIN")) {
				return nil
			}
		}
	}
	return []string{fmt.Sprintf("namespaces: %v; %s", err, agent.Hint)}
}
