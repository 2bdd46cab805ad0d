// SPDX-License-Identifier: BSD-3-Clause

package assembly

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"rpctls/packaging/manifest"
)

// Maintainer is in the packages; there is no public home yet, hence no address
// that is answered.
const Maintainer = "rpctls maintainers <maintainers@rpctls.invalid>"

// compressed is gzip -9n.
func compressed(text []byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// changelog is what Debian's tools read; what changed is in NEWS.md.
func (b *Build) changelog(p manifest.Package) []byte {
	return fmt.Appendf(nil, "%s (%s) unstable; urgency=medium\n\n  * What changed is in CHANGELOG.md.gz, beside this file.\n\n -- %s  %s\n",
		p.Name, b.Version, Maintainer, b.Time.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
}

// copyright is the licence in Debian's form.
func (b *Build) copyright() ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(b.Root, "LICENSE"))
	if err != nil {
		return nil, err
	}
	var out strings.Builder
	out.WriteString("Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: rpctls\n\nFiles: *\nCopyright: rpctls authors\nLicense: BSD-3-Clause\n")
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, " \n")
		if line == "" {
			line = "."
		}
		out.WriteString(" " + line + "\n")
	}
	return []byte(out.String()), nil
}
