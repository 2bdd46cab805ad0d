// SPDX-License-Identifier: BSD-3-Clause

package assembly

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"rpctls/packaging/manifest"
)

// Arches are the architectures, as Go and Debian call them.
var Arches = []string{"amd64", "arm64"}

// RPMArch is what rpm calls an architecture.
func RPMArch(arch string) string {
	return map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[arch]
}

// A Build is one build of all packages.
type Build struct {
	Root    string // the repository
	Out     string // deb/ARCH, rpm/ARCH, tar and bin/ARCH are made in here
	Version string
	Time    time.Time // of everything in the packages
	Arches  []string
	// Incomplete: leave out what is not there yet, instead of failing.
	Incomplete bool
	Log        io.Writer

	work        string
	completions map[string][]byte
}

// Run makes the packages. What an earlier build left in Out is removed.
func (b *Build) Run(ctx context.Context) error {
	if err := b.complete(); err != nil {
		return err
	}
	for _, part := range []string{"deb", "rpm", "tar", "bin"} {
		if err := os.RemoveAll(filepath.Join(b.Out, part)); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(b.Out, 0o755); err != nil {
		return err
	}
	var err error
	if b.work, err = os.MkdirTemp("", "rpctls-packages-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	for _, arch := range b.Arches {
		if err := b.compile(ctx, arch, filepath.Join(b.Out, "bin", arch)); err != nil {
			return err
		}
	}
	if err := b.complement(ctx); err != nil {
		return err
	}
	return b.pack(ctx)
}

// pack makes the packages, as many at once as there are processors.
func (b *Build) pack(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.NumCPU())
	for _, arch := range b.Arches {
		for _, p := range manifest.Packages {
			for _, format := range []manifest.Format{manifest.Deb, manifest.RPM} {
				group.Go(func() error {
					if err := b.nfpm(ctx, p, format, arch); err != nil {
						return fmt.Errorf("%s of %s for %s: %w", format, p.Name, arch, err)
					}
					return nil
				})
			}
		}
		group.Go(func() error {
			if err := b.tar(manifest.Packages[0], arch); err != nil {
				return fmt.Errorf("tar for %s: %w", arch, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// complete checks that the repository has all that the manifest names, before
// anything is built.
func (b *Build) complete() error {
	var missing []string
	for _, p := range manifest.Packages {
		for _, f := range p.Files {
			if f.From == "" || f.Source == manifest.Completion {
				continue
			}
			if !b.exists(f) {
				missing = append(missing, b.source(f))
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if !b.Incomplete {
		return fmt.Errorf("missing: %s", list)
	}
	fmt.Fprintf(b.Log, "warning: left out: %s\n", list)
	return nil
}

// source is where a file's content comes from, in the repository.
func (b *Build) source(f manifest.File) string {
	if f.Source == manifest.Program {
		return "cmd/" + f.From
	}
	return f.From
}

// exists reports whether what a file is made from is there.
func (b *Build) exists(f manifest.File) bool {
	if f.From == "" || f.Source == manifest.Completion {
		return true
	}
	_, err := os.Stat(filepath.Join(b.Root, b.source(f)))
	return err == nil
}

// Files are the files of a package that are there, in one format.
func (b *Build) files(p manifest.Package, format manifest.Format) []manifest.File {
	var list []manifest.File
	for _, f := range p.Files {
		if f.In(format) && b.exists(f) {
			list = append(list, f)
		}
	}
	return list
}

// compile makes the programs for an architecture: static, without the paths of
// this machine, and without the tables that only a debugger needs.
func (b *Build) compile(ctx context.Context, arch, dir string) error {
	args := []string{"build", "-trimpath", "-buildvcs=auto", "-ldflags=-s -w", "-o", dir + "/"}
	for _, name := range manifest.Programs {
		if b.exists(manifest.File{Source: manifest.Program, From: name}) {
			args = append(args, "./cmd/"+name)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return b.command(ctx, []string{
		"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOFLAGS=", "GOEXPERIMENT=", "GOAMD64=v1", "GOARM64=v8.0",
	}, nil, "go", args...)
}

// complement has rpctlsctl print what completes its commands.
func (b *Build) complement(ctx context.Context) error {
	dir := filepath.Join(b.Out, "bin", runtime.GOARCH)
	if !slices.Contains(b.Arches, runtime.GOARCH) {
		dir = filepath.Join(b.work, "bin")
		if err := b.compile(ctx, runtime.GOARCH, dir); err != nil {
			return err
		}
	}
	b.completions = make(map[string][]byte)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		var out bytes.Buffer
		if err := b.command(ctx, nil, &out, filepath.Join(dir, "rpctlsctl"), "completion", shell); err != nil {
			return err
		}
		b.completions[shell] = out.Bytes()
	}
	return nil
}

// command runs a program in the repository.
func (b *Build) command(ctx context.Context, env []string, stdout io.Writer, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = b.Root
	cmd.Env = append(os.Environ(), env...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if stdout != nil {
		cmd.Stdout = stdout
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", filepath.Base(name), strings.Join(args, " "), err, &log)
	}
	return nil
}

// content returns a regular file's content.
func (b *Build) content(p manifest.Package, f manifest.File, arch string) ([]byte, error) {
	from := filepath.Join(b.Root, f.From)
	switch f.Source {
	case manifest.Program:
		return os.ReadFile(filepath.Join(b.Out, "bin", arch, f.From))
	case manifest.Tree:
		return os.ReadFile(from)
	case manifest.Manual:
		return compressed(os.ReadFile(from))
	case manifest.Completion:
		return b.completions[f.From], nil
	case manifest.News:
		return compressed(os.ReadFile(filepath.Join(b.Root, "CHANGELOG.md")))
	case manifest.Changelog:
		return compressed(b.changelog(p), nil)
	case manifest.Copyright:
		return b.copyright()
	}
	return nil, errors.New("a file without content")
}

// put writes content where nfpm finds it.
func (b *Build) put(name string, text []byte, mode fs.FileMode) (string, error) {
	name = filepath.Join(b.work, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return "", err
	}
	return name, os.WriteFile(name, text, mode)
}
