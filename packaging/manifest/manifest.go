// SPDX-License-Identifier: BSD-3-Clause

package manifest

import "io/fs"

// A Format is a kind of package.
type Format string

// The formats.
const (
	Deb Format = "deb"
	RPM Format = "rpm"
	Tar Format = "tar"
)

// A Source is where the content of a file comes from.
type Source int

// The sources.
const (
	Tree       Source = iota // a file of the repository
	Manual                   // a manual page of the repository, compressed
	Program                  // a Go program of cmd/
	Completion               // what rpctlsctl prints for a shell
	Changelog                // what the package manager shows as its changelog
	News                     // CHANGELOG.md, compressed
	Copyright                // a machine-readable copyright file
	None                     // a directory or a link
)

// A File is one entry of a package.
type File struct {
	Path   string      // where it is installed
	Mode   fs.FileMode // with fs.ModeDir or fs.ModeSymlink
	Source Source
	From   string // path in the repository, name of the program or of the shell
	Target string // of a symbolic link

	// Config: an administrator edits it, and an upgrade keeps that.
	Config bool
	// Only: the format that has it; empty: all have.
	Only Format
}

// In reports whether the file is in packages of that format.
func (f File) In(format Format) bool { return f.Only == "" || f.Only == format }

// Relations are what a package says about others.
type Relations struct {
	Depends, Recommends, Suggests []string
}

// Scripts are the paths, in the repository, of what the package manager runs.
type Scripts struct {
	PostInstall, PreRemove, PostRemove, PostTransaction string
}

// A Package is one package, in all formats.
type Package struct {
	Name        string
	File        string // the deb's name in its file name
	Summary     string
	Description string
	Section     string
	Files       []File
	Relations   map[Format]Relations
	Scripts     map[Format]Scripts
	// Interest names the files whose arrival dpkg tells the package of.
	Interest []string
}

// Version stands, in a relation, for the version that is built.
const Version = "${VERSION}"
