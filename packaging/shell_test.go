// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"rpctls/packaging/assembly"
	"rpctls/packaging/manifest"
)

// TestShell: shellcheck finds nothing in any script of the repository, and what
// is installed is POSIX sh.
func TestShell(t *testing.T) {
	dir := t.TempDir()
	var files, bash []string
	for name := range strings.SplitSeq(string(output(t, "git", "-C", root, "ls-files", "-z", "-co", "--exclude-standard")), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			continue // a directory, a link, or removed and not committed
		}
		first, _, _ := bytes.Cut(text, []byte("\n"))
		switch {
		case bytes.HasPrefix(first, []byte("#!")) && bytes.Contains(first, []byte("bash")):
			if strings.HasPrefix(name, "packaging/") {
				t.Errorf("%s wants bash", name)
			}
			bash = append(bash, filepath.Join(root, name))
		case bytes.Equal(first, []byte("#!/bin/sh")), filepath.Ext(name) == ".sh":
			files = append(files, filepath.Join(root, name))
		}
	}
	// As they are installed: with what they include, and rpm's scriptlets.
	for _, p := range manifest.Packages {
		for format, s := range p.Scripts {
			for _, from := range []string{s.PostInstall, s.PreRemove, s.PostRemove, s.PostTransaction} {
				if from == "" {
					continue
				}
				text, err := assembly.Script(root, from)
				if err != nil {
					t.Fatal(err)
				}
				if format == manifest.Deb && !bytes.HasPrefix(text, []byte("#!/bin/sh\n")) {
					t.Errorf("%s does not say that it is sh", from)
				}
				if bytes.Contains(text, []byte("#INCLUDE")) {
					t.Errorf("%s includes nothing", from)
				}
				file := filepath.Join(dir, filepath.Base(from))
				if err := os.WriteFile(file, text, 0o644); err != nil {
					t.Fatal(err)
				}
				files = append(files, file)
			}
		}
	}
	if len(files) < 15 {
		t.Errorf("only %d files: %v", len(files), files)
	}
	for _, run := range []struct {
		shell, severity string
		files           []string
	}{
		{"sh", "style", files},
		{"bash", "warning", bash},
	} {
		cmd := exec.Command("shellcheck", append([]string{"--shell=" + run.shell, "--severity=" + run.severity, "--external-sources", "--source-path=" + mustAbs(t, root)}, run.files...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("shellcheck: %v\n%s", err, out)
		}
	}
}
