// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"rpctls/packaging/assembly"
	"rpctls/packaging/manifest"
)

var update = flag.Bool("update", false, "rewrite testdata/*.list")

// A member is a file of a package.
type member struct {
	path, target string
	mode         fs.FileMode
	text         []byte // of a regular file; nil: not read
}

func (m member) String() string {
	s := fmt.Sprintf("%v %s", m.mode, m.path)
	if m.target != "" {
		s += " -> " + m.target
	}
	return s
}

// readTar reads an archive of which everything is root's and of the build's
// time, without the directories that are there for others' sake.
func readTar(t *testing.T, b *assembly.Build, r io.Reader) []member {
	t.Helper()
	var list []member
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		m := member{path: path.Join("/", h.Name), target: h.Linkname, mode: h.FileInfo().Mode()}
		if m.mode.IsRegular() {
			if m.text, err = io.ReadAll(tr); err != nil {
				t.Fatal(err)
			}
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "root" || h.Gname != "root" || !h.ModTime.Equal(b.Time) {
			t.Errorf("%s: of %s:%s (%d:%d), %v; want root's, of %v", m.path, h.Uname, h.Gname, h.Uid, h.Gid, h.ModTime.UTC(), b.Time)
		}
		list = append(list, m)
	}
}

func debMembers(t *testing.T, b *assembly.Build, p manifest.Package, arch string) []member {
	t.Helper()
	return readTar(t, b, bytes.NewReader(output(t, "dpkg-deb", "--fsys-tarfile", deb(b, p, arch))))
}

func tarMembers(t *testing.T, b *assembly.Build, arch string) []member {
	t.Helper()
	f, err := os.Open(archive(b, arch))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	list := readTar(t, b, z)
	top := "/rpctls-" + b.Version + "-linux-" + arch
	for i := range list {
		var below bool
		if list[i].path, below = strings.CutPrefix(list[i].path, top); !below {
			t.Errorf("%s is not below %s", list[i].path, top)
		}
		if list[i].path == "" {
			list[i].path = "/"
		}
	}
	return list
}

func rpmMembers(t *testing.T, b *assembly.Build, p manifest.Package, arch string) []member {
	t.Helper()
	const format = `[%{FILENAMES}\t%{FILEMODES}\t%{FILEUSERNAME}:%{FILEGROUPNAME}\t%{FILEMTIMES}\t%{FILELINKTOS}\n]`
	var list []member
	for line := range strings.Lines(string(output(t, "rpm", "-qp", "--qf", format, rpm(b, p, arch)))) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
		bits, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		m := member{path: f[0], mode: fs.FileMode(bits & 0o777), target: f[4]}
		switch bits & 0o170000 {
		case 0o040000:
			m.mode |= fs.ModeDir
		case 0o120000:
			m.mode |= fs.ModeSymlink
		}
		if f[2] != "root:root" || f[3] != strconv.FormatInt(b.Time.Unix(), 10) {
			t.Errorf("%s: of %s, %s", m.path, f[2], f[3])
		}
		list = append(list, m)
	}
	return list
}

// listing describes members, in order, without directories that the rest
// implies.
func listing(list []member) string {
	var lines []string
	for _, m := range list {
		implied := m.mode.IsDir() && slices.ContainsFunc(list, func(o member) bool {
			return strings.HasPrefix(o.path, strings.TrimSuffix(m.path, "/")+"/")
		})
		if !implied {
			if m.mode&fs.ModeSymlink != 0 {
				m.mode |= 0o777 // dpkg and tar do not say
			}
			lines = append(lines, m.String()+"\n")
		}
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(a[11:], b[11:]) })
	return strings.Join(lines, "")
}

// TestContents compares what was made with lists that a reader can judge:
// testdata/*.list, written by -update and then read by somebody.
func TestContents(t *testing.T) {
	b := built(t)
	check := func(name string, got []member) {
		t.Helper()
		text := listing(got)
		file := filepath.Join("testdata", name+".list")
		if *update {
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(text, "\n")); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
	for _, arch := range assembly.Arches {
		for _, p := range manifest.Packages {
			check(p.Name+".deb", debMembers(t, b, p, arch))
			check(p.Name+".rpm", rpmMembers(t, b, p, arch))
		}
		check("rpctls.tar", tarMembers(t, b, arch))
	}
}

// TestPrograms: static, for the right machine, from this commit.
func TestPrograms(t *testing.T) {
	b := built(t)
	head, err := assembly.Head(t.Context(), root)
	if err != nil {
		t.Fatal(err)
	}
	// Go writes no commit into what it builds in a linked worktree.
	st, err := os.Stat(filepath.Join(root, ".git"))
	stamped := err == nil && st.IsDir()
	if !stamped {
		t.Log("a linked worktree: programs do not know their commit")
	}
	machines := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
	for _, arch := range assembly.Arches {
		seen := 0
		for _, m := range debMembers(t, b, manifest.Packages[0], arch) {
			if !bytes.HasPrefix(m.text, []byte(elf.ELFMAG)) {
				continue
			}
			seen++
			name := path.Base(m.path)
			f, err := elf.NewFile(bytes.NewReader(m.text))
			if err != nil {
				t.Fatal(err)
			}
			if f.Machine != machines[arch] {
				t.Errorf("%s is for %v in a package for %s", name, f.Machine, arch)
			}
			for _, p := range f.Progs {
				if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
					t.Errorf("%s is not static: it has %v", name, p.Type)
				}
			}
			for _, dir := range []string{mustAbs(t, root), os.Getenv("HOME")} {
				if bytes.Contains(m.text, []byte(dir+"/")) {
					t.Errorf("%s has this machine's %s in it", name, dir)
				}
			}
			info, err := buildinfo.Read(bytes.NewReader(m.text))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if info.Path != "rpctls/cmd/"+name {
				t.Errorf("%s is %s", name, info.Path)
			}
			settings := make(map[string]string)
			for _, s := range info.Settings {
				settings[s.Key] = s.Value
			}
			wanted := map[string]string{"CGO_ENABLED": "0", "-trimpath": "true"}
			if stamped {
				wanted["vcs.revision"], wanted["vcs.modified"] = head.Hash, strconv.FormatBool(head.Dirty)
			}
			for key, want := range wanted {
				if settings[key] != want {
					t.Errorf("%s: %s is %q, want %q", name, key, settings[key], want)
				}
			}
		}
		if seen != len(manifest.Programs) {
			t.Errorf("%d programs for %s, want %d", seen, arch, len(manifest.Programs))
		}
	}
	for _, name := range []string{"rpctlscd", "rpctlssd", "rpctlsctl"} {
		out := string(output(t, filepath.Join(b.Out, "bin", runtime.GOARCH, name), "-version"))
		if !strings.HasPrefix(out, name+" ") || stamped && !strings.Contains(out, head.Hash[:12]) {
			t.Errorf("%s -version prints %q, want revision %s", name, out, head.Hash[:12])
		}
	}
}

func mustAbs(t *testing.T, dir string) string {
	t.Helper()
	abs, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// TestControl: what the package managers believe.
func TestControl(t *testing.T) {
	b := built(t)
	for _, arch := range assembly.Arches {
		for _, p := range manifest.Packages {
			field := func(name string) string {
				return strings.TrimSpace(string(output(t, "dpkg-deb", "--field", deb(b, p, arch), name)))
			}
			for name, want := range map[string]string{"Package": p.Name, "Version": b.Version, "Architecture": arch, "Conflicts": "", "Pre-Depends": ""} {
				if got := field(name); got != want {
					t.Errorf("%s %s: %s is %q, want %q", p.Name, arch, name, got, want)
				}
			}
			query := func(q string) string {
				return string(output(t, "rpm", "-qp", "--qf", q, rpm(b, p, arch)))
			}
			for q, want := range map[string]string{
				"%{NAME} %{VERSION}-%{RELEASE} %{ARCH}": fmt.Sprintf("%s %s-1 %s", p.Name, b.Version, assembly.RPMArch(arch)),
				"%{BUILDHOST} %{LICENSE}":               "reproducible BSD-3-Clause",
				"[%{CONFLICTS}\n]":                      "",
			} {
				if got := query(q); got != want {
					t.Errorf("%s: %s is %q, want %q", p.Name, q, got, want)
				}
			}
		}
		mount := manifest.Packages[1]
		if got := string(output(t, "dpkg-deb", "--field", deb(b, mount, arch), "Depends")); !strings.Contains(got, "rpctls (= "+b.Version+")") {
			t.Errorf("rpctls-mount depends on %q", got)
		}
		if got := string(output(t, "rpm", "-qp", "--requires", rpm(b, mount, arch))); !strings.Contains(got, "rpctls = "+b.Version+"-1\n") {
			t.Errorf("rpctls-mount requires %q", got)
		}
	}
	config := "/etc/rpctls/rpctlscd.toml\n/etc/rpctls/rpctlssd.toml\n"
	if got := string(output(t, "dpkg-deb", "--info", deb(b, manifest.Packages[0], "amd64"), "conffiles")); got != config {
		t.Errorf("conffiles are %q", got)
	}
	if got := string(output(t, "rpm", "-qpc", rpm(b, manifest.Packages[0], "amd64"))); got != config {
		t.Errorf("rpm's configuration files are %q", got)
	}
	// noreplace is flag 16.
	flags := string(output(t, "rpm", "-qp", "--qf", `[%{FILENAMES} %{FILEFLAGS}\n]`, rpm(b, manifest.Packages[0], "amd64")))
	for name := range strings.Lines(config) {
		if !strings.Contains(flags, strings.TrimSpace(name)+" 17\n") {
			t.Errorf("%s is not config(noreplace): %q", name, flags)
		}
	}
}

// TestCompletions: each shell that is here takes its script.
func TestCompletions(t *testing.T) {
	b := built(t)
	for _, m := range debMembers(t, b, manifest.Packages[0], "amd64") {
		if m.path != "/usr/share/bash-completion/completions/rpctlsctl" {
			continue
		}
		cmd := exec.Command("bash", "-n")
		cmd.Stdin = bytes.NewReader(m.text)
		if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(m.text, []byte("rpctlsctl __complete")) && !bytes.Contains(m.text, []byte("__complete")) {
			t.Errorf("bash: %v: %s", err, out)
		}
		return
	}
	t.Error("there is no completion for bash")
}

// TestLintian: no errors, and each override fits something.
func TestLintian(t *testing.T) {
	b := built(t)
	t.Parallel()
	args := []string{"--fail-on", "error,warning", "--allow-root", "--tag-display-limit", "0"}
	for _, arch := range assembly.Arches {
		for _, p := range manifest.Packages {
			args = append(args, deb(b, p, arch))
		}
	}
	out, err := exec.Command("lintian", args...).CombinedOutput()
	if err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("unused-override")) {
		t.Errorf("lintian:\n%s", out)
	}
}
