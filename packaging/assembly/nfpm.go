// SPDX-License-Identifier: BSD-3-Clause

package assembly

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rpctls/packaging/manifest"
)

const nfpmTool = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.44.0"

// A recipe is nfpm's configuration of one package. It is written as JSON, which
// nfpm, reading YAML, understands.
type recipe struct {
	Name          string            `json:"name"`
	Arch          string            `json:"arch"`
	Platform      string            `json:"platform"`
	Version       string            `json:"version"`
	VersionSchema string            `json:"version_schema"`
	Release       string            `json:"release,omitempty"`
	Section       string            `json:"section,omitempty"`
	Priority      string            `json:"priority,omitempty"`
	Maintainer    string            `json:"maintainer"`
	Description   string            `json:"description"`
	License       string            `json:"license,omitempty"` // Debian's is in the file copyright
	MTime         time.Time         `json:"mtime"`
	Depends       []string          `json:"depends,omitempty"`
	Recommends    []string          `json:"recommends,omitempty"`
	Suggests      []string          `json:"suggests,omitempty"`
	NoGlobs       bool              `json:"disable_globbing"`
	Contents      []entry           `json:"contents"`
	Scripts       map[string]string `json:"scripts,omitempty"`
	Deb           *debPart          `json:"deb,omitempty"`
	RPM           *rpmPart          `json:"rpm,omitempty"`
}

type entry struct {
	Source      string    `json:"src,omitempty"`
	Destination string    `json:"dst"`
	Type        string    `json:"type,omitempty"`
	Info        entryInfo `json:"file_info"`
}

type entryInfo struct {
	Mode  fs.FileMode `json:"mode,omitempty"`
	Owner string      `json:"owner"`
	Group string      `json:"group"`
	MTime time.Time   `json:"mtime"`
}

type debPart struct {
	Compression string       `json:"compression"`
	Triggers    *debTriggers `json:"triggers,omitempty"`
}

type debTriggers struct {
	Interest []string `json:"interest_noawait"`
}

type rpmPart struct {
	Summary     string            `json:"summary"`
	Compression string            `json:"compression"`
	BuildHost   string            `json:"buildhost"` // else this machine's name
	Scripts     map[string]string `json:"scripts,omitempty"`
}

// nfpm makes one deb or rpm.
func (b *Build) nfpm(ctx context.Context, p manifest.Package, format manifest.Format, arch string) error {
	r := recipe{
		Name: p.Name, Arch: arch, Platform: "linux",
		Version: b.Version, VersionSchema: "none",
		Maintainer: Maintainer, MTime: b.Time, NoGlobs: true,
		Depends:    b.relations(p.Relations[format].Depends),
		Recommends: b.relations(p.Relations[format].Recommends),
		Suggests:   b.relations(p.Relations[format].Suggests),
	}
	var out string
	switch format {
	case manifest.Deb:
		r.Section, r.Priority = p.Section, "optional"
		r.Description = p.Summary + "\n" + p.Description
		r.Deb = &debPart{Compression: "xz"}
		if len(p.Interest) > 0 {
			r.Deb.Triggers = &debTriggers{p.Interest}
		}
		out = filepath.Join(b.Out, "deb", arch, fmt.Sprintf("%s_%s_%s.deb", p.File, b.Version, arch))
	case manifest.RPM:
		r.Release, r.License = "1", "BSD-3-Clause"
		r.Description = strings.ReplaceAll(p.Description, "\n.\n", "\n\n")
		r.RPM = &rpmPart{Summary: p.Summary, Compression: "zstd", BuildHost: "reproducible"}
		out = filepath.Join(b.Out, "rpm", RPMArch(arch), fmt.Sprintf("%s-%s-1.%s.rpm", p.Name, b.Version, RPMArch(arch)))
	}
	dir := filepath.Join(string(format), arch, p.Name)
	if err := b.scripts(&r, p.Scripts[format], dir); err != nil {
		return err
	}
	for _, f := range b.files(p, format) {
		e, err := b.entry(p, f, arch, filepath.Join(dir, "root"))
		if err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
		r.Contents = append(r.Contents, e)
	}
	text, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	config, err := b.put(filepath.Join(dir, "nfpm.yaml"), text, 0o644)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return b.command(ctx, []string{"GOFLAGS=", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.Time.Unix())}, nil,
		"go", "run", nfpmTool, "package", "-f", config, "-p", string(format), "-t", out)
}

func (b *Build) relations(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ReplaceAll(s, manifest.Version, b.Version)
	}
	return out
}

func (b *Build) entry(p manifest.Package, f manifest.File, arch, dir string) (entry, error) {
	e := entry{Destination: f.Path, Info: entryInfo{Mode: f.Mode.Perm(), Owner: "root", Group: "root", MTime: b.Time}}
	switch f.Mode.Type() {
	case fs.ModeDir:
		e.Type = "dir"
		return e, nil
	case fs.ModeSymlink:
		e.Type, e.Source, e.Info.Mode = "symlink", f.Target, 0
		return e, nil
	}
	if f.Config {
		e.Type = "config|noreplace"
	}
	text, err := b.content(p, f, arch)
	if err != nil {
		return e, err
	}
	e.Source, err = b.put(filepath.Join(dir, f.Path), text, f.Mode.Perm())
	return e, err
}

// include is a line of a maintainer script that is replaced by a file beside it,
// as debhelper's token is.
const include = "#INCLUDE "

// scripts puts the maintainer scripts where nfpm finds them.
func (b *Build) scripts(r *recipe, s manifest.Scripts, dir string) error {
	r.Scripts = make(map[string]string)
	for name, from := range map[string]string{"postinstall": s.PostInstall, "preremove": s.PreRemove, "postremove": s.PostRemove, "posttrans": s.PostTransaction} {
		if from == "" {
			continue
		}
		text, err := Script(b.Root, from)
		if err != nil {
			return err
		}
		path, err := b.put(filepath.Join(dir, name), text, 0o755)
		if err != nil {
			return err
		}
		if name == "posttrans" {
			r.RPM.Scripts = map[string]string{name: path}
			continue
		}
		r.Scripts[name] = path
	}
	return nil
}

// Script returns a maintainer script of the repository, with what it includes.
func Script(root, from string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, from))
	if err != nil {
		return nil, err
	}
	var out []byte
	for line := range strings.Lines(string(text)) {
		name, ok := strings.CutPrefix(line, include)
		if !ok {
			out = append(out, line...)
			continue
		}
		part, err := os.ReadFile(filepath.Join(root, filepath.Dir(from), strings.TrimSpace(name)))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		out = append(out, part...)
	}
	return out, nil
}
