// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/integration/internal/protocol"
)

// InVM reports whether this process runs in a guest of package vm.
func InVM() bool { return KernelKey() != "" }

// KernelKey returns which kernel of the matrix the host asked for, such as
// "6.12", and "" outside a guest.
func KernelKey() string {
	text, err := os.ReadFile(protocol.MarkerFile)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// RequireVM fails the test outside a guest: it would change the machine.
func RequireVM(t testing.TB) {
	t.Helper()
	if !InVM() {
		t.Fatal("this test must run in a guest: go test -tags vm ./integration, or see vmrun -help")
	}
}

// A Version is a kernel's, without what distributions add.
type Version struct{ Major, Minor int }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }

// AtLeast reports whether v is w or later.
func (v Version) AtLeast(w Version) bool {
	return v.Major > w.Major || v.Major == w.Major && v.Minor >= w.Minor
}

var versionText = regexp.MustCompile(`^(\d+)\.(\d+)(?:[^\d].*)?$`)

// ParseVersion reads what uname -r says, or just "6.12".
func ParseVersion(s string) (Version, error) {
	m := versionText.FindStringSubmatch(s)
	if m == nil {
		return Version{}, fmt.Errorf("kernel version %q: want MAJOR.MINOR", s)
	}
	var v Version
	var err error
	if v.Major, err = strconv.Atoi(m[1]); err == nil {
		v.Minor, err = strconv.Atoi(m[2])
	}
	if err != nil {
		return Version{}, fmt.Errorf("kernel version %q: %w", s, err)
	}
	return v, nil
}

// Release returns what uname -r says.
func Release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// KernelVersion returns the running kernel's version.
func KernelVersion(t testing.TB) Version {
	t.Helper()
	v, err := ParseVersion(Release())
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// A Feature is something that not every kernel of the matrix can.
type Feature struct {
	Name  string
	Since string       // the first kernel that promises it, such as "6.12"
	Probe func() error // tries it; nil means that it is there
}

// Require skips the test if the kernel does not have the feature and is older
// than the one that promises it. A kernel that promises it and does not have
// it fails the test: otherwise a broken probe would skip for ever.
func Require(t testing.TB, f Feature) {
	t.Helper()
	since, err := ParseVersion(f.Since)
	if err != nil {
		t.Fatalf("feature %s: %v", f.Name, err)
	}
	verdict, why := judge(KernelVersion(t), since, f.Probe())
	switch verdict {
	case featureMissing:
		t.Fatalf("feature %s: %s", f.Name, why)
	case featureAbsent:
		t.Skipf("feature %s: %s", f.Name, why)
	}
}

type verdict int

const (
	featurePresent verdict = iota
	featureAbsent          // and nobody promised it
	featureMissing         // but it was promised
)

func judge(running, since Version, probe error) (verdict, string) {
	switch {
	case probe == nil:
		return featurePresent, ""
	case running.AtLeast(since):
		return featureMissing, fmt.Sprintf("kernel %v must have it (since %v), but: %v", running, since, probe)
	default:
		return featureAbsent, fmt.Sprintf("kernel %v lacks it (since %v): %v", running, since, probe)
	}
}

// ResultsDir returns a directory of this test below /results, whose files
// reach the host.
func ResultsDir(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(protocol.ResultsDir, fileName(t.Name()))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var unsafeName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

// fileName makes a file name of any text.
func fileName(s string) string { return unsafeName.ReplaceAllString(s, "_") }

// LoadModule loads a kernel module.
func LoadModule(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		mustRun(t, nil, "modprobe", name)
	}
}
