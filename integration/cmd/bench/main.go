// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/bench"
	"rpctls/integration/vm"
)

// options are the flags.
type options struct {
	kernels []string
	args    []string // of the test in the guest
	output  string   // file
	results string   // directory
	partial bool     // not all that belongs into the document is measured
	verbose bool
}

func main() {
	var o options
	kernel := flag.String("kernel", strings.Join(vm.Kernels(), ","), "`kernels` to boot, with commas")
	only := flag.String("only", "", "measure only the figures that match this `pattern`, such as rate, storm, queue, stall, restart, memory, nfs or ktls")
	systems := flag.String("systems", "", "measure only these `systems`, with commas: limit, rpctls, tlshd; of ktls: crypto/tls, ktls, sendfile")
	rounds := flag.Int("rounds", 3, "measure every figure this many `times`")
	quick := flag.Bool("quick", false, "less of everything, in one round: to see that it works")
	flag.StringVar(&o.output, "o", "docs/benchmarks.md", "write the document to this `file`")
	flag.StringVar(&o.results, "results", "", "keep what the guests leave in this `directory`")
	flag.BoolVar(&o.verbose, "v", false, "show every measurement")
	flag.Parse()
	if *quick {
		*rounds = 1
	}
	o.kernels = strings.Split(*kernel, ",")
	o.args = []string{
		"-bench.only=" + *only, "-bench.systems=" + *systems,
		fmt.Sprintf("-bench.rounds=%d", *rounds), fmt.Sprintf("-bench.quick=%t", *quick),
	}
	o.partial = *only != "" || *systems != "" || *quick || len(o.kernels) != len(vm.Kernels())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
}

// limit is for the measuring in one guest.
const limit = 20 * time.Minute

func (o *options) run(ctx context.Context) error {
	began := time.Now()
	progress := func(format string, args ...any) {
		fmt.Printf("[%4.0fs] %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := os.MkdirTemp("", "rpctls-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.results == "" {
		o.results = filepath.Join(dir, "results")
	}
	progress("building")
	payload, err := build(ctx, dir)
	if err != nil {
		return err
	}
	images, err := vm.Prepare(ctx, progress)
	if err != nil {
		return err
	}
	m, err := machine(ctx, images.Emulator)
	if err != nil {
		return err
	}
	var reports []*bench.Report
	for _, kernel := range o.kernels {
		progress("booting Linux %s in a VM", kernel)
		results := filepath.Join(o.results, kernel)
		var said bytes.Buffer
		result, err := vm.Run(ctx, vm.Options{
			Kernel: kernel, Payload: payload, Systemd: true, CPUs: 2, MemoryMiB: 2048,
			Command: append([]string{testBinary, "-test.v", "-test.run=^TestBench$", "-test.timeout=" + limit.String()}, o.args...),
			Timeout: limit + 30*time.Second, Results: results, Stdout: io.MultiWriter(&said, o.stdout(progress)), Log: progress,
		})
		if err != nil {
			return err
		}
		if result.ExitCode != 0 {
			return fmt.Errorf("kernel %s: measuring failed, with exit status %d:\n%s", kernel, result.ExitCode, said.String())
		}
		m.Acceleration = "TCG (translation)"
		if result.KVM {
			m.Acceleration = "KVM"
		}
		report, err := read(filepath.Join(results, bench.ReportFile))
		if err != nil {
			return fmt.Errorf("kernel %s: %w", kernel, err)
		}
		reports = append(reports, report)
		fmt.Printf("\nLinux %s\n\n", report.Release)
		for _, table := range []*bench.Table{report.Table(), report.KTLS()} {
			if table != nil && len(table.Rows) > 0 {
				fmt.Println(table.Markdown())
			}
		}
	}
	if o.partial {
		progress("%s is left as it is: not everything was measured", o.output)
		return nil
	}
	text, err := bench.Document(m, reports)
	if err != nil {
		return err
	}
	if err := os.WriteFile(o.output, []byte(text), 0o644); err != nil {
		return err
	}
	progress("wrote %s", o.output)
	return nil
}

// stdout returns where the guest's words go: each measurement is a line of
// the test's log, and so is the end of each figure.
func (o *options) stdout(progress func(string, ...any)) io.Writer {
	if o.verbose {
		return os.Stdout
	}
	return &lineWriter{line: func(line string) {
		_, message, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if ok && strings.Contains(message, " took ") {
			progress("%s", strings.TrimSpace(message))
		}
	}}
}

// A lineWriter calls a function for each line.
type lineWriter struct {
	line func(string)
	rest []byte
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.rest = append(w.rest, p...)
	for {
		i := bytes.IndexByte(w.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		w.line(string(w.rest[:i+1]))
		w.rest = w.rest[i+1:]
	}
}

// programs that the guest finds in its PATH, and the test that uses them.
var programs = []string{
	"rpctls/cmd/rpctlscd", "rpctls/cmd/rpctlssd", "rpctls/integration/cmd/benchload", "rpctls/integration/cmd/benchlimit",
	"rpctls/integration/cmd/benchktls",
}

const (
	testPackage = "rpctls/integration/bench"
	testBinary  = "bench.test"
	unitDir     = "packaging/systemd" // here and there
)

// build makes what the guest needs, as it is shipped: without cgo.
func build(ctx context.Context, dir string) (map[string]vm.Source, error) {
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		append([]string{"build", "-trimpath", "-buildvcs=auto", "-o", bin + "/"}, programs...),
		{"test", "-c", "-tags", "guest", "-o", filepath.Join(bin, testBinary), testPackage},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	payload := map[string]vm.Source{"bin/" + testBinary: {Path: filepath.Join(bin, testBinary)}}
	for _, p := range programs {
		payload["bin/"+path.Base(p)] = vm.Source{Path: filepath.Join(bin, path.Base(p))}
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, fmt.Errorf("go list -m: %w", err)
	}
	payload[unitDir] = vm.Source{Path: filepath.Join(strings.TrimSpace(string(root)), unitDir)}
	return payload, nil
}

func read(name string) (*bench.Report, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	report := new(bench.Report)
	return report, json.Unmarshal(text, report)
}

// machine describes this one, without its name.
func machine(ctx context.Context, emulator string) (bench.Machine, error) {
	m := bench.Machine{CPUs: runtime.NumCPU(), Go: runtime.Version(), Date: time.Now().UTC().Format(time.DateOnly)}
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return m, err
	}
	meminfo, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return m, err
	}
	m.CPU, m.MemoryMiB = bench.CPUModel(string(cpuinfo)), bench.MemTotal(string(meminfo))
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return m, err
	}
	m.Kernel = unix.ByteSliceToString(u.Release[:])
	// The emulator has its own libraries, and the loader that belongs to them.
	lib := filepath.Join(emulator, "usr/lib/x86_64-linux-gnu")
	qemu, err := exec.CommandContext(ctx, filepath.Join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib,
		filepath.Join(emulator, "usr/bin/qemu-system-x86_64"), "--version").Output()
	if err != nil {
		return m, err
	}
	m.QEMU = bench.QEMUVersion(string(qemu))
	m.Commit = commit(ctx)
	return m, nil
}

// commit names what is measured; without git nobody knows.
func commit(ctx context.Context) string {
	head, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	name := strings.TrimSpace(string(head))
	// What is not built does not count.
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--", "*.go", "go.mod", "packaging").Output()
	if err != nil || len(changed) > 0 {
		name += " and changes"
	}
	return name
}
