// SPDX-License-Identifier: BSD-3-Clause

package configcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"rpctls/internal/durable"
	"rpctls/internal/tlshdconf"
	"rpctls/rpctlsctl/cli"
)

// tlshdFiles are the places of tlshd's configuration, the present one first.
var tlshdFiles = []string{"/etc/tlshd/config", "/etc/tlshd.conf"}

// New returns the command.
func New() *cobra.Command {
	return cli.Group("config", "work with configuration files", convertCmd())
}

func convertCmd() *cobra.Command {
	var dir string
	var force, dryRun bool
	cmd := &cobra.Command{
		Use:   "convert [FILE]",
		Short: "translate the configuration of tlshd",
		Long: `Translate tlshd's configuration (default: /etc/tlshd/config, else /etc/tlshd.conf)
into rpctlscd.toml and rpctlssd.toml, on standard output or in a directory. What has
no counterpart, or behaves otherwise, is told on standard error.`,
		Example: "  rpctlsctl config convert /etc/tlshd/config --output /etc/rpctls",
		Args:    cli.Args(0, 1, "at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := source(args)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			file, err := tlshdconf.Parse(data)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			c := conversion{cmd, path, tlshdconf.Convert(file, os.Stat)}
			for _, line := range c.Notes {
				fmt.Fprintf(cmd.ErrOrStderr(), "note: %s\n", line)
			}
			c.noteTags()
			if dir == "" {
				return c.print()
			}
			return c.write(dir, force, dryRun)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "output", "", "write the files into this `directory`")
	f.BoolVar(&force, "force", false, "replace files that are there")
	f.BoolVar(&dryRun, "dry-run", false, "say what would be written, and change nothing")
	return cmd
}

func source(args []string) (string, error) {
	if len(args) == 1 {
		return args[0], nil
	}
	for _, path := range tlshdFiles {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", cli.Hint(fmt.Errorf("neither %s nor %s is there", tlshdFiles[0], tlshdFiles[1]), "name the file")
}

type conversion struct {
	cmd  *cobra.Command
	path string
	tlshdconf.Result
}

// noteTags speaks of tlshd's session tags, which are in files beside its
// configuration.
func (c conversion) noteTags() {
	dir := filepath.Join(filepath.Dir(c.path), "tags.d")
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		fmt.Fprintf(c.cmd.ErrOrStderr(), "note: %s: session tags have no counterpart\n", dir)
	}
}

// files are those to write, without the one that would be empty.
func (c conversion) files() (files [][2]string) {
	files = append(files, [2]string{"rpctlscd.toml", c.head() + c.Client})
	if c.Server != "" {
		files = append(files, [2]string{"rpctlssd.toml", c.head() + c.Server})
	}
	return files
}

func (c conversion) head() string { return "# From " + filepath.Base(c.path) + " of tlshd.\n" }

func (c conversion) print() error {
	for i, f := range c.files() {
		if i > 0 {
			fmt.Fprintln(c.cmd.OutOrStdout())
		}
		if _, err := fmt.Fprintf(c.cmd.OutOrStdout(), "# %s\n%s", f[0], f[1]); err != nil {
			return err
		}
	}
	return nil
}

func (c conversion) write(dir string, force, dryRun bool) error {
	verb := "wrote"
	if dryRun {
		verb = "would write"
	}
	d := &durable.Disk{DryRun: dryRun, Report: func(ch durable.Change) {
		if ch.Verb == "write" {
			fmt.Fprintf(c.cmd.OutOrStdout(), "%s %s\n", verb, ch.Path)
		}
	}}
	for _, f := range c.files() {
		path := filepath.Join(dir, f[0])
		if _, err := os.Lstat(path); err == nil && !force {
			return cli.Hint(fmt.Errorf("%s exists", path), "--force replaces it; without --output the result is printed")
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := d.Mkdir(dir, 0o755); err != nil {
		return err
	}
	// Both are complete on disk before either is in place.
	var staged []*durable.Staged
	for _, f := range c.files() {
		s, err := d.Stage(filepath.Join(dir, f[0]), []byte(f[1]), durable.Attr{Mode: 0o644})
		if err != nil {
			return err
		}
		defer s.Discard()
		staged = append(staged, s)
	}
	for _, s := range staged {
		if err := s.Publish(); err != nil {
			return err
		}
	}
	return nil
}
