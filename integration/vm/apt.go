// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// A mirror is where this machine gets Debian from.
type mirror struct {
	main     string
	security string // may be unknown
	proxy    string // apt's, for tools that are not apt
}

// An aptTarget is one line of "apt-get indextargets".
type aptTarget struct{ site, label, release string }

// aptTargetFormat is what parseTargets reads.
const aptTargetFormat = "$(SITE) $(RELEASE) $(LABEL)"

func parseTargets(text string) []aptTarget {
	var targets []aptTarget
	for line := range strings.Lines(text) {
		// The label is last because it may be empty.
		if f := strings.SplitN(strings.TrimSpace(line), " ", 3); len(f) >= 2 {
			t := aptTarget{site: f[0], release: f[1]}
			if len(f) == 3 {
				t.label = f[2]
			}
			targets = append(targets, t)
		}
	}
	return targets
}

// chooseMirror finds Debian's main and security archives among the sources.
// The label is known only once the lists were fetched, but no other archive
// can have one of Debian's then; without one the suite's name must do.
func chooseMirror(targets []aptTarget) (mirror, error) {
	var m mirror
	for _, t := range targets {
		security := strings.HasSuffix(t.release, "-security") || strings.HasSuffix(t.release, "/updates")
		switch {
		case t.label == "Debian-Security" || t.label == "" && security:
			if m.security == "" {
				m.security = t.site
			}
		case t.label == "Debian" || t.label == "" && debianSuite.MatchString(t.release):
			if m.main == "" {
				m.main = t.site
			}
		}
	}
	if m.main == "" {
		return m, errors.New("apt's sources on this machine name no Debian archive")
	}
	return m, nil
}

var debianSuite = regexp.MustCompile(`^(bookworm|trixie|forky|sid|stable|testing|unstable)(-updates|-backports)?$`)

func findMirror(ctx context.Context) (mirror, error) {
	text, err := output(ctx, "", "apt-get", "indextargets", "--format", aptTargetFormat, "Created-By: Packages")
	if err != nil {
		return mirror{}, err
	}
	m, err := chooseMirror(parseTargets(text))
	if err != nil {
		return mirror{}, err
	}
	if text, err = output(ctx, "", "apt-config", "shell", "P", "Acquire::http::Proxy"); err == nil {
		m.proxy = strings.Trim(strings.TrimPrefix(strings.TrimSpace(text), "P="), "'")
	}
	return m, nil
}

// An aptTree is a private apt with one suite in it.
type aptTree struct {
	suite   string
	dir     string
	options []string
}

func newAptTree(ctx context.Context, m mirror, dir, suite string) (*aptTree, error) {
	site := m.main
	if strings.HasSuffix(suite, "-security") {
		if site = m.security; site == "" {
			return nil, errors.New("apt's sources on this machine name no Debian security archive")
		}
	}
	t := &aptTree{suite: suite, dir: dir}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	sources := filepath.Join(dir, "sources.list")
	line := fmt.Sprintf("deb [signed-by=%s arch=amd64] %s %s main\n", keyring, site, suite)
	if err := os.WriteFile(sources, []byte(line), 0o644); err != nil {
		return nil, err
	}
	status := filepath.Join(dir, "status") // nothing is installed
	if err := os.WriteFile(status, nil, 0o644); err != nil {
		return nil, err
	}
	for _, o := range []string{
		"Dir::Etc::sourcelist=" + sources,
		"Dir::Etc::sourceparts=/dev/null",
		"Dir::Etc::preferences=/dev/null",
		"Dir::Etc::preferencesparts=/dev/null",
		"Dir::State::lists=" + filepath.Join(dir, "lists"),
		"Dir::State::status=" + status,
		"Dir::Cache=" + filepath.Join(dir, "cache"),
		"APT::Architecture=amd64",
		"APT::Architectures=amd64",
		"APT::Default-Release=",
		"APT::Sandbox::User=root",
		"Acquire::Languages=none",
		"Acquire::Retries=3",
		"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false",
	} {
		t.options = append(t.options, "-o", o)
	}
	if _, err := t.apt(ctx, "apt-get", "-q", "update"); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *aptTree) apt(ctx context.Context, tool string, args ...string) (string, error) {
	return output(ctx, t.dir, tool, slices.Concat(t.options, args)...)
}

// names returns the names of packages that begin with prefix.
func (t *aptTree) names(ctx context.Context, prefix string) ([]string, error) {
	text, err := t.apt(ctx, "apt-cache", "pkgnames", prefix)
	return strings.Fields(text), err
}

// show returns all versions of the named packages.
func (t *aptTree) show(ctx context.Context, names ...string) ([]debPackage, error) {
	if len(names) == 0 {
		return nil, nil
	}
	text, err := t.apt(ctx, "apt-cache", append([]string{"show"}, names...)...)
	if err != nil {
		return nil, err
	}
	packages := parsePackages(text)
	for i := range packages {
		packages[i].Suite = t.suite
	}
	return packages, nil
}

// download fetches packages, and unpacks them all into dir.
func (t *aptTree) download(ctx context.Context, dir string, names ...string) error {
	debs := dir + ".debs"
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	args := slices.Concat(t.options, []string{"-q", "download"}, names)
	if _, err := output(ctx, debs, "apt-get", args...); err != nil {
		return err
	}
	n, err := unpack(ctx, debs, dir)
	if err != nil {
		return err
	}
	if n != len(names) {
		return fmt.Errorf("apt-get download: %d files for %d packages in %s", n, len(names), debs)
	}
	return os.RemoveAll(debs)
}

// downloadAll fetches a package and all that it depends on, down to the C
// library, and unpacks them into dir.
func (t *aptTree) downloadAll(ctx context.Context, dir, name string) error {
	debs := filepath.Join(t.dir, "cache", "archives")
	if _, err := t.apt(ctx, "apt-get", "-q", "-y", "-o", "APT::Install-Recommends=false", "-o", "Debug::NoLocking=true",
		"install", "--download-only", name); err != nil {
		return err
	}
	_, err := unpack(ctx, debs, dir)
	return err
}

// unpack unpacks every package file of a directory into dir, and returns how
// many there were.
func unpack(ctx context.Context, debs, dir string) (int, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return 0, err
	}
	for _, f := range files {
		if _, err := output(ctx, "", "dpkg-deb", "-x", f, dir); err != nil {
			return 0, err
		}
	}
	return len(files), nil
}
