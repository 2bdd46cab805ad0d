// SPDX-License-Identifier: BSD-3-Clause

package rpctls_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files calls f for every file of the repository's own.
func files(t *testing.T, f func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", ".tools", "bin", "dist"}, path) {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f(path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

const spdx = "SPDX-License-Identifier: BSD-3-Clause"

func TestEveryFileNamesItsLicence(t *testing.T) {
	files(t, func(path string, text []byte) {
		switch filepath.Ext(path) {
		case ".go", ".sh":
			head, _, _ := bytes.Cut(text, []byte("\n\n"))
			if !bytes.Contains(head, []byte(spdx)) {
				t.Errorf("%s: no %q at the top", path, spdx)
			}
		}
	})
}

// A package says what it is for once, in doc.go (commands: in main.go).
func TestEveryPackageIsDocumented(t *testing.T) {
	comments := make(map[string][]string)
	packages := make(map[string]bool)
	files(t, func(path string, text []byte) {
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return
		}
		dir := filepath.Dir(path)
		packages[dir] = true
		f, err := parser.ParseFile(token.NewFileSet(), path, text, parser.ParseComments|parser.PackageClauseOnly)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		if f.Doc != nil {
			comments[dir] = append(comments[dir], path)
			if strings.Contains(f.Doc.Text(), "SPDX") {
				t.Errorf("%s: the licence line is the package comment", path)
			}
		}
	})
	for dir := range packages {
		if n := len(comments[dir]); n != 1 {
			t.Errorf("%s has %d package comments, want 1: %v", dir, n, comments[dir])
		}
	}
}

// What the rooms may not import, and why. Tests may.
func TestRooms(t *testing.T) {
	rules := []struct {
		room, forbidden, why string
	}{
		{"upcall", "rpctls", "the kernel's side knows nothing of what is to its right"},
		{"ktls", "rpctls", "a library of its own"},
		{"examples/https/httpsclient", "rpctls/internal", "an example has what any program would have"},
		{"examples/https/httpsserver", "rpctls/internal", "an example has what any program would have"},
		{"examples/https/httpsclient", "rpctls/integration", "an example has what any program would have"},
		{"examples/https/httpsserver", "rpctls/integration", "an example has what any program would have"},
		{"examples/https/internal/uring", "rpctls", "the kernel's rings, and nothing else"},
		{"certs", "rpctls", "a library of its own"},
		{"rpc", "rpctls", "a library of its own"},
		{"rpc", "golang.org/x", "the standard library is enough"},
		{"internal/agent", "rpctls/rpctlscd", "an agent does not know its roles"},
		{"internal/agent", "rpctls/rpctlssd", "an agent does not know its roles"},
		{"rpctlscd", "rpctls/rpctlssd", "the roles are apart"},
		{"rpctlssd", "rpctls/rpctlscd", "the roles are apart"},
		{"cmd/rpctlscd", "net/http", "nothing privileged serves HTTP"},
		{"cmd/rpctlssd", "net/http", "nothing privileged serves HTTP"},
		{"cmd/rpctlscd", "os/exec", "nothing privileged starts programs"},
		{"cmd/rpctlssd", "os/exec", "nothing privileged starts programs"},
		{"certs/store", "rpctls/certs/ca", "an identity does not know its CA"},
		{"cmd/rpctlscd", "rpctls/certs/ca", "a daemon never holds the key of a CA"},
		{"cmd/rpctlssd", "rpctls/certs/ca", "a daemon never holds the key of a CA"},
		{"cmd/rpctlscd", "filippo.io/age", "a daemon has nobody to ask for a passphrase"},
		{"cmd/rpctlssd", "filippo.io/age", "a daemon has nobody to ask for a passphrase"},
		{"cmd/rpctlscd", "github.com/spf13", "the daemons' flags are the standard library's"},
		{"cmd/rpctlssd", "github.com/spf13", "the daemons' flags are the standard library's"},
		{"cmd/rpctlscd", "github.com/prometheus", "a daemon counts, and rpctlsctl exporter speaks of it"},
		{"cmd/rpctlssd", "github.com/prometheus", "a daemon counts, and rpctlsctl exporter speaks of it"},
		{"cmd/mount.nfstls", "github.com/prometheus", "a mount counts nothing"},
		{"internal/metrics", "rpctls/internal/agent", "numbers, whatever makes them"},
		{"internal/status", "rpctls/internal/agent", "an answer, whoever gives it"},
		{"rpctlsctl/exportercmd", "rpctls/internal/daemon", "an exporter has no rights, and nothing of a daemon"},
		{"rpctlsctl/statuscmd", "rpctls/internal/daemon", "a tool asks the daemons, and has none of them inside"},
		{"internal/tlsstat", "rpctls", "the kernel's file, and nothing else"},
		{"internal/keylog", "rpctls/ktls", "lines, whatever makes them"},
		{"rpctlsctl/debugcmd", "rpctls/internal/daemon", "a tool asks the daemons, and has none of them inside"},
		{"cmd/mount.nfstls", "net/http", "nothing privileged serves HTTP"},
		{"cmd/mount.nfstls", "rpctls/rpctlscd", "a mount asks the daemon, and has none of it inside"},
		{"cmd/mount.nfstls", "rpctls/certs/ca", "a mount needs no CA"},
		{"cmd/mount.nfstls", "github.com/spf13", "its options are mount(8)'s"},
		{"cmd/mount.nfstls", "testing", "test code is not shipped"},
		{"internal/mountinfo", "rpctls", "the kernel's table, and nothing else"},
		{"internal/netns", "rpctls", "the kernel's namespaces, and nothing else"},
		{"internal/keyring", "rpctls", "the kernel's keys, and nothing else"},
		{"internal/pin", "rpctls", "digests, and nothing else"},
		{"internal/forward", "rpctls", "names and addresses, and nothing else"},
		{"internal/policy", "rpctls/internal/forward", "a decision waits for no name server"},
		{"internal/policy", "os/exec", "a decision starts no program"},
		{"internal/sockdiag", "rpctls", "the kernel's sockets, and nothing else"},
		{"internal/sessions", "rpctls/internal/agent", "what was set up, not how"},
		{"cmd/mount.nfstls", "rpctls/internal/nfsclient", "a mount looks no further than its own failure"},
		{"cmd/rpctlscd", "rpctls/internal/probe", "a daemon asks nobody"},
		{"cmd/rpctlssd", "rpctls/internal/probe", "a daemon asks nobody"},
		{"internal/probe", "rpctls/rpctlscd", "a probe is told how to judge"},
		{"internal/nfsclient", "rpctls/internal", "over rpc, and nothing else"},
		{"internal/control", "rpctls", "it carries questions and does not know them"},
		{"cmd/rpctlsctl", "testing", "test code is not shipped"},
		{"cmd/rpctlscd", "testing", "test code is not shipped"},
		{"cmd/rpctlssd", "testing", "test code is not shipped"},
	}
	deps := make(map[string][]string)
	for _, r := range rules {
		if deps[r.room] == nil {
			out, err := exec.Command("go", "list", "-deps", "./"+r.room).Output()
			if err != nil {
				t.Fatalf("go list %s: %v", r.room, err)
			}
			deps[r.room] = strings.Fields(string(out))
		}
		for _, d := range deps[r.room] {
			if d != "rpctls/"+r.room && (d == r.forbidden || strings.HasPrefix(d, r.forbidden+"/")) {
				t.Errorf("%s imports %s: %s", r.room, d, r.why)
			}
		}
	}
}

// Raw system calls and memory layouts stay where they are explained.
func TestUnsafeIsRare(t *testing.T) {
	allowed := []string{"examples/https/internal/uring/op.go", "examples/https/internal/uring/queue.go", "examples/https/internal/uring/ring.go", "internal/netns/right.go", "ktls/install.go", "upcall/sched.go"}
	files(t, func(path string, text []byte) {
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "integration/") {
			return
		}
		if bytes.Contains(text, []byte("\n\t\"unsafe\"\n")) != slices.Contains(allowed, path) {
			t.Errorf("%s: unsafe, or its absence, is news", path)
		}
	})
}

// The programs are static: no cgo in what is shipped.
func TestNoCgo(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-f", "{{if .CgoFiles}}{{.ImportPath}}{{end}}", "./cmd/rpctlscd", "./cmd/rpctlssd", "./cmd/rpctlsctl", "./cmd/mount.nfstls")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if s := strings.TrimSpace(string(out)); s != "" {
		t.Errorf("cgo in %s", s)
	}
}

// Every direct dependency has its line in docs/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	text, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "list", "-m", "-f", "{{if not .Main}}{{if not .Indirect}}{{.Path}}{{end}}{{end}}", "all").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if !bytes.Contains(text, []byte("`"+path+"`")) {
			t.Errorf("%s is not in docs/dependencies.md", path)
		}
	}
}
