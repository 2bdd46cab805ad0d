// SPDX-License-Identifier: BSD-3-Clause

// Package packaging_test judges what packaging/ makes, on the machine that
// builds: what needs a booted system is in integration/.
package packaging_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"rpctls/packaging/assembly"
	"rpctls/packaging/manifest"
)

const root = ".."

// dist is where the packages are, once a test has asked for them.
var dist string

func TestMain(m *testing.M) {
	var err error
	if dist, err = os.MkdirTemp("", "rpctls-dist-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dist)
	os.Exit(code)
}

var build = sync.OnceValues(func() (*assembly.Build, error) {
	ctx := context.Background()
	version, at, err := assembly.Stamp(ctx, root, "")
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	b := &assembly.Build{Root: dir, Out: dist, Version: version, Time: at, Arches: assembly.Arches, Log: os.Stderr}
	return b, b.Run(ctx)
})

// built returns the build that all tests look at.
func built(t *testing.T) *assembly.Build {
	t.Helper()
	b, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func deb(b *assembly.Build, p manifest.Package, arch string) string {
	return filepath.Join(b.Out, "deb", arch, p.File+"_"+b.Version+"_"+arch+".deb")
}

func rpm(b *assembly.Build, p manifest.Package, arch string) string {
	arch = assembly.RPMArch(arch)
	return filepath.Join(b.Out, "rpm", arch, p.Name+"-"+b.Version+"-1."+arch+".rpm")
}

func archive(b *assembly.Build, arch string) string {
	return filepath.Join(b.Out, "tar", "rpctls-"+b.Version+"-linux-"+arch+".tar.gz")
}

// output runs a program that must succeed.
func output(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return out
}

// TestTwoBuildsAreEqual: at another time, in another place, with another umask
// and time zone, the same bytes. One architecture is enough: what differs between
// them is the compiler's work.
func TestTwoBuildsAreEqual(t *testing.T) {
	b := built(t)
	t.Parallel()
	if b.Time.After(time.Now()) {
		t.Error("the packages are from the future")
	}
	out := t.TempDir()
	cmd := exec.Command("sh", "-c", `umask 077 && exec go run ./packaging/build -out "$1" -version "$2" -arch "$3"`, "sh", out, b.Version, runtime.GOARCH)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "TZ=Pacific/Chatham", "LC_ALL=C", "HOSTNAME=elsewhere", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.Time.Unix()))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	n := 0
	for _, pattern := range []string{
		"deb/" + runtime.GOARCH + "/*.deb", "rpm/" + assembly.RPMArch(runtime.GOARCH) + "/*.rpm",
		"tar/*-" + runtime.GOARCH + ".tar.gz", "bin/" + runtime.GOARCH + "/*",
	} {
		files, err := filepath.Glob(filepath.Join(b.Out, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			n++
			first, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(b.Out, file)
			if err != nil {
				t.Fatal(err)
			}
			second, err := os.ReadFile(filepath.Join(out, name))
			if err != nil {
				t.Error(err)
			} else if !bytes.Equal(first, second) {
				t.Errorf("%s differs from build to build", name)
			}
		}
	}
	if want := 2 + 2 + 1 + len(manifest.Programs); n != want {
		t.Errorf("%d files were compared, want %d", n, want)
	}
}
