// SPDX-License-Identifier: BSD-3-Clause

package policy

import (
	"errors"
	"fmt"
	"path/filepath"

	"rpctls/internal/config"
)

// A File is what a configuration file says of the policy: blocks [[allow]] and
// [[deny]], as decoded.
type File struct {
	Allow []FileRule `toml:"allow"`
	Deny  []FileRule `toml:"deny"`

	rules []Rule // in order
}

// A FileRule is one block.
type FileRule struct {
	Name string `toml:"name"`
	Match
}

// Source implements [config.Sourced]: it puts the blocks into the order in which
// they stand in the file, which decoding has lost.
func (f *File) Source(name string, text []byte) error {
	blocks, err := config.Blocks(text, string(Allow), string(Deny))
	if err != nil {
		return err
	}
	if len(blocks) != len(f.Allow)+len(f.Deny) {
		return fmt.Errorf("%d allow and deny blocks, but %d were found: please write each as [[allow]] or [[deny]]", len(f.Allow)+len(f.Deny), len(blocks))
	}
	next := map[Action][]FileRule{Allow: f.Allow, Deny: f.Deny}
	f.rules = nil
	for _, b := range blocks {
		action := Action(b.Name)
		if len(next[action]) == 0 {
			return errors.New("internal error: the order of allow and deny blocks cannot be found")
		}
		r := next[action][0]
		next[action] = next[action][1:]
		f.rules = append(f.rules, Rule{
			Action: action, Name: r.Name, Match: r.Match,
			Place: fmt.Sprintf("%s:%d", filepath.Base(name), b.Line),
		})
	}
	return nil
}

// Rules returns the rules in the order in which they stand in the file.
func (f *File) Rules() []Rule { return f.rules }
