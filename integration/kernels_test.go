// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package integration_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"rpctls/integration/packages"
	"rpctls/integration/vm"
)

// A suite is a package whose tests run in a guest, or some of its tests, and what
// they need there.
type suite struct {
	Name      string
	Package   string
	Tests     string   // of the package's tests those; empty is all that no other suite has
	Elsewhere string   // of those, the ones for which other kernels than the newest matter; empty is all
	Beside    string   // the pattern of those of the package's tests that run on the kernels beside the matrix, too
	Skip      string   // a pattern of what is not run in guests; not with suites that share a package
	Commands  []string // packages of programs that the guest finds in its PATH
	Faulty    []string // of those, the ones it also finds as NAME-faulty, built with the tag "faults"
	MemoryMiB int      // 0 is the usual
	CPUs      int
	Systemd   bool     // systemd is PID 1
	Files     []string // of the repository, which the guest finds below /payload
	Timeout   time.Duration
}

// suites run on every kernel, each in a fresh guest, the longest first. Their
// timeouts are for translated guests on machines that are busy otherwise, too.
var suites = []suite{
	scenarios("scenario", "", "", 40*time.Minute),
	scenarios("tools", "TestKeyLog|TestNamespaces|TestPolicy|TestSessions|TestStatus|TestWhy", "TestKeyLog|TestNamespaces|TestSessions", 28*time.Minute),
	scenarios("mount", "TestMountHelper", "", 15*time.Minute),
	{
		Name:     "service",
		Package:  "rpctls/integration/service",
		Commands: []string{"rpctls/cmd/rpctlscd", "rpctls/cmd/rpctlssd", "rpctls/cmd/rpctlsctl"},
		// A place in the kernel's queue for each of nfsd's eight threads.
		MemoryMiB: 4096,
		CPUs:      1,
		Systemd:   true,
		Files:     []string{"packaging/systemd"},
		Timeout:   20 * time.Minute,
	},
	{
		Name:     "ktls",
		Package:  "rpctls/integration/ktls",
		Commands: []string{"rpctls/examples/https/httpsclient", "rpctls/examples/https/httpsserver"},
		// That half of the table is about no kernel: "make unit" has it.
		Skip:      "^TestCases$/^user$",
		Elsewhere: "TestCases|TestExample|TestModule|TestTools",
		// Half of the rest: half a minute.
		Beside:  "^TestCases$/^kernel$/^tls1.3$/^client$|^TestCases$/^kernel$/^tls1.2$/^server$",
		CPUs:    1,
		Timeout: 20 * time.Minute,
	},
	{Name: "uring", Package: "rpctls/examples/https/internal/ringconn", CPUs: 1, Timeout: 5 * time.Minute},
	// What the package's own tests show in user space and on a kernel made of Go,
	// on a real one. The others are not about the kernel.
	{Name: "connection", Package: "rpctls/ktls", Tests: "TestConn.*|TestLoaded.*|TestProbe.*", CPUs: 1, Timeout: 8 * time.Minute},
	{Name: "guest", Package: "rpctls/integration/guest", CPUs: 1, Timeout: 5 * time.Minute},
}

// scenarios is a suite of the package scenario: one world in one guest takes all
// the longer the more there is in it.
func scenarios(name, tests, elsewhere string, timeout time.Duration) suite {
	return suite{
		Name: name, Tests: tests, Elsewhere: elsewhere, Timeout: timeout,
		Package:  "rpctls/integration/scenario",
		Commands: []string{"rpctls/cmd/rpctlscd", "rpctls/cmd/rpctlssd", "rpctls/cmd/rpctlsctl", "rpctls/cmd/mount.nfstls"},
		Faulty:   []string{"rpctls/cmd/rpctlscd", "rpctls/cmd/rpctlssd"},
		// The kernel's queue of handshakes is as long as its memory is large.
		MemoryMiB: 4096,
		// So that two can run at once on a small machine.
		CPUs: 1,
	}
}

// kernels returns where the suite runs, the newest of the matrix first.
func (s suite) kernels() []string {
	keys := vm.Kernels()
	slices.Reverse(keys)
	if s.Beside != "" {
		others := vm.OtherKernels()
		slices.Reverse(others)
		keys = append(keys, others...)
	}
	return keys
}

// chosen returns the arguments that choose the suite's tests for a kernel, and false
// if it has none of those that -guest.run asks for: the suite without a list has
// them all.
func (s suite) chosen(kernel string) (args []string, ok bool) {
	args, ok = s.pattern(kernel)
	if s.Skip != "" {
		args = append(args, "-test.skip="+s.Skip)
	}
	return args, ok
}

func (s suite) pattern(kernel string) (args []string, ok bool) {
	newest := vm.Kernels()[len(vm.Kernels())-1]
	switch {
	case *only == "" && !slices.Contains(vm.Kernels(), kernel):
		return []string{"-test.run=" + s.Beside}, true
	case *only != "":
		return []string{"-test.run=" + *only}, s.Tests == ""
	case s.Elsewhere != "" && kernel != newest && !*whole:
		return []string{"-test.run=^(" + s.Elsewhere + ")$"}, true
	case s.Tests != "":
		return []string{"-test.run=^(" + s.Tests + ")$"}, true
	}
	var others []string
	for _, o := range suites {
		if o.Package == s.Package && o.Tests != "" {
			others = append(others, o.Tests)
		}
	}
	if others == nil {
		return nil, true
	}
	return []string{"-test.skip=^(" + strings.Join(others, "|") + ")$"}, true
}

var (
	only     = flag.String("guest.run", "", "run only those tests in the guests that match this `pattern`")
	whole    = flag.Bool("whole", false, "run every test, and tell the packages' whole story, on every kernel")
	parallel = flag.Bool("guest.parallel", false, "boot all kernels at once, even if that overloads this machine")
)

// TestKernels runs every suite on every kernel of the matrix:
//
//	go test -tags vm -v -timeout 80m -run TestKernels ./integration
//	go test -tags vm -v -run TestKernels/7.2 ./integration -guest.run TestNFS
//
// Those that say so run on the kernels beside the matrix as well, or some of their
// tests.
//
// With -artifacts, what the guests left in /results is kept.
func TestKernels(t *testing.T) {
	ctx := untilDeadline(t)
	if _, err := vm.Prepare(ctx, t.Logf); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	builds := make(map[string]func() error)
	perGuest := 0
	for _, s := range suites {
		if builds[s.Package] == nil {
			builds[s.Package] = sync.OnceValue(func() error { return s.build(ctx, dir) })
		}
		perGuest = max(perGuest, s.CPUs)
	}
	atOnce := runtime.NumCPU() / perGuest
	if *parallel {
		atOnce = len(vm.Kernels())
	}
	places := make(chan struct{}, min(max(atOnce, 1), len(vm.Kernels())))
	// A suite without tests, or whose tests all skip, passes in the guest: that
	// must not look like a success. A pattern may leave one of them without, but
	// not all.
	var ran atomic.Bool
	t.Cleanup(func() {
		if *only != "" && !ran.Load() {
			t.Errorf("no test ran to its end; -guest.run is %q", *only)
		}
	})
	for _, s := range suites {
		for _, kernel := range s.kernels() {
			t.Run(kernel+"/"+s.Name, func(t *testing.T) {
				args, ok := s.chosen(kernel)
				if !ok {
					return
				}
				t.Parallel()
				places <- struct{}{}
				defer func() { <-places }()
				if err := builds[s.Package](); err != nil {
					t.Fatal(err)
				}
				switch n := s.run(t, kernel, dir, args); {
				case n > 0:
					ran.Store(true)
				case *only == "":
					t.Error("no test ran to its end")
				}
			})
		}
	}
}

// untilDeadline returns a context that ends a little before the go command
// would kill this test, so that there is time to say what the guest did.
func untilDeadline(t *testing.T) context.Context {
	t.Helper()
	deadline, ok := t.Deadline()
	if !ok {
		return t.Context()
	}
	ctx, cancel := context.WithDeadlineCause(t.Context(), deadline.Add(-15*time.Second),
		errors.New("the time that go test has is nearly over (-timeout)"))
	t.Cleanup(cancel)
	return ctx
}

// build builds the suite and its programs, as they will run: without cgo, so
// that the guest needs no libraries.
func (s suite) build(ctx context.Context, dir string) error {
	if err := goTool(ctx, "test", "-c", "-tags", "guest", "-o", s.binary(dir), s.Package); err != nil {
		return err
	}
	for _, c := range s.Commands {
		if err := goTool(ctx, "build", "-o", filepath.Join(dir, path.Base(c)), c); err != nil {
			return err
		}
	}
	for _, c := range s.Faulty {
		if err := goTool(ctx, "build", "-tags", "faults", "-o", filepath.Join(dir, path.Base(c)+faulty), c); err != nil {
			return err
		}
	}
	return nil
}

func goTool(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}

// buildDebs makes the packages twice, of two versions.
func buildDebs(ctx context.Context, dir string) (builds [2]packages.Debs, err error) {
	for i, version := range []string{"0.0.1~first", "0.0.1~second"} {
		if builds[i], err = packages.Build(ctx, "..", filepath.Join(dir, version), version); err != nil {
			break
		}
	}
	return builds, err
}

// TestPackages tells the packages' story, one kernel after the other and when the
// suites are over: it takes three machines, beside which nothing that is about time
// would be fair. It is told whole on the oldest kernel, and on the others those
// chapters in which the kernel matters, unless -whole asks for all of them.
//
//	go test -tags vm -v -timeout 80m -run TestPackages/7.2 ./integration -whole
func TestPackages(t *testing.T) {
	ctx := untilDeadline(t)
	if _, err := vm.Prepare(ctx, t.Logf); err != nil {
		t.Fatal(err)
	}
	builds, err := buildDebs(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, kernel := range vm.Kernels() {
		t.Run(kernel, func(t *testing.T) {
			packages.Tell(untilDeadline(t), t, packages.Options{
				Kernel: kernel, Old: builds[0], New: builds[1], Short: i > 0 && !*whole,
				Results: filepath.Join(t.ArtifactDir(), "packages"), Log: t.Logf,
			})
		})
	}
}

// binary is named after all of the package: there are two called ktls.
func (s suite) binary(dir string) string {
	return filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(s.Package, "rpctls/"), "/", "-")+".test")
}

// run runs the suite's tests and returns how many came to an end.
func (s suite) run(t *testing.T, kernel, dir string, args []string) int {
	name := filepath.Base(s.binary(dir))
	payload := map[string]vm.Source{"bin/" + name: {Path: s.binary(dir)}}
	for _, c := range s.Commands {
		payload["bin/"+path.Base(c)] = vm.Source{Path: filepath.Join(dir, path.Base(c))}
	}
	for _, c := range s.Faulty {
		payload["bin/"+path.Base(c)+faulty] = vm.Source{Path: filepath.Join(dir, path.Base(c)+faulty)}
	}
	if source := filepath.Join(sourceDir(t, s.Package), "testdata"); isDir(source) {
		payload["work/testdata"] = vm.Source{Path: source}
	}
	for _, f := range s.Files {
		payload[f] = vm.Source{Path: filepath.Join("..", f)}
	}
	timeout := s.Timeout + soak(t) + bulk(t)
	command := append([]string{name, "-test.v", "-test.timeout=" + timeout.String()}, args...)
	var said bytes.Buffer
	result, err := vm.Run(untilDeadline(t), vm.Options{
		Kernel:    kernel,
		Command:   command,
		Dir:       "work",
		Payload:   payload,
		MemoryMiB: s.MemoryMiB,
		CPUs:      s.CPUs,
		Systemd:   s.Systemd,
		Env:       passedOn(),
		Timeout:   timeout + 30*time.Second, // the tests' own comes first: it says more
		Stdout:    io.MultiWriter(&said, t.Output()),
		Results:   t.ArtifactDir(),
		Log:       t.Logf,
	})
	if result != nil {
		t.Logf("%s: boot %.1fs, tests %.1fs, all %.1fs", result.Release,
			result.Boot.Seconds(), result.Command.Seconds(), result.Total.Seconds())
	}
	if err != nil {
		t.Error(err)
	}
	if result != nil && result.ExitCode != 0 {
		t.Errorf("%s: exit status %d", name, result.ExitCode)
	}
	return len(finished.FindAll(said.Bytes(), -1))
}

// faulty ends the names of programs that can be made to fail.
const faulty = "-faulty"

// passedOn returns what of the environment the tests in the guests look at.
func passedOn() (env []string) {
	for _, name := range []string{"RPCTLS_SOAK", "RPCTLS_SEED", bulkEnv} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// soak is how much longer than usual the tests take.
func soak(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv("RPCTLS_SOAK")
	if s == "" {
		return 0
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatalf("RPCTLS_SOAK: %v", err)
	}
	return d
}

// bulkEnv is how many MiB go each way in the suite ktls's cases about bulk.
const bulkEnv = "RPCTLS_KTLS_BULK"

// bulk is how much longer than usual that takes, for all of its cases.
func bulk(t *testing.T) time.Duration {
	t.Helper()
	s := os.Getenv(bulkEnv)
	if s == "" {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("%s: %q is no number of MiB", bulkEnv, s)
	}
	return time.Duration(n) * 5 * time.Minute
}

var finished = regexp.MustCompile(`(?m)^--- (PASS|FAIL): `)

func sourceDir(t *testing.T, pkg string) string {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.Dir}}", pkg).Output()
	if err != nil {
		t.Fatalf("go list %s: %v", pkg, err)
	}
	return strings.TrimSpace(string(text))
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
