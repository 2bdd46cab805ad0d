// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"rpctls/integration/internal/protocol"
)

// Options say what to boot and what to run in it.
type Options struct {
	Kernel  string            // a key of [Kernels] or [OtherKernels], such as "7.2"
	Command []string          // looked for in /payload/bin and the usual places
	Env     []string          // "KEY=value", in addition to the guest's own
	Dir     string            // working directory, relative ones are below /payload
	Payload map[string]Source // by guest path; relative ones are below /payload

	MemoryMiB int  // 0 is 2048
	CPUs      int  // 0 is 2
	Systemd   bool // systemd is PID 1, and a service of it runs the command

	ExtraAppend string // more for the kernel's command line
	CPUModel    string // as QEMU's -cpu, such as "max,-aes"

	// Timeout limits the command; 0 is 10 minutes. When it is over, the
	// command gets SIGQUIT and soon after SIGKILL, and what it left in
	// /results still comes back. A guest that does not even do that is
	// killed.
	Timeout time.Duration

	Stdout  io.Writer // gets the command's stdout and stderr as they come
	Results string    // host directory for what the command left in /results, and the console

	// AllowConsole exempts lines of the console that would be an error.
	AllowConsole []*regexp.Regexp

	Log Logf // progress of building images and booting
}

// A Result is how a guest's command ended.
type Result struct {
	ExitCode int // as in a shell: 128 + number of the signal that killed it
	TimedOut bool
	Release  string // of the kernel
	KVM      bool
	Console  string

	Boot    time.Duration // from power-on to the command's start, by the guest's clock
	Command time.Duration // how long the command ran
	Total   time.Duration // how long QEMU ran
}

const (
	defaultMemory  = 2048
	defaultCPUs    = 2
	defaultTimeout = 10 * time.Minute

	// bootAllowance is for booting, ending a command that is late, and
	// bringing back results: on a busy machine without KVM.
	bootAllowance = 90 * time.Second
	// systemdAllowance comes on top.
	systemdAllowance = 2 * time.Minute
)

// ConsoleFile is the name of the console's copy in Options.Results.
const ConsoleFile = "console.log"

// Run boots a guest, runs the command and waits for the guest's end. The
// result is not nil if the command ended, even if there is an error besides.
func Run(ctx context.Context, o Options) (*Result, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("vm: no command")
	}
	images, kernel, modules, err := chosenKernel(ctx, o.Kernel, o.Log)
	if err != nil {
		return nil, err
	}
	accel, err := chooseAcceleration(ctx, images, o.Log)
	if err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	dir, remove, err := scratchDir()
	if err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	defer remove()
	o.Payload = with(o.Payload, modules)
	g := guest{Options: o, dir: dir, images: images, kernel: kernel, accel: accel}
	return g.run(ctx)
}

// scratchDir returns a directory for one run. It is locked as long as this
// process lives, and those that nobody has locked are the rest of processes
// that were killed: they are removed first.
func scratchDir() (dir string, remove func(), err error) {
	const prefix, lockName = "rpctls-vm-", "lock"
	old, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"*"))
	if err != nil {
		return "", nil, err
	}
	for _, d := range old {
		// Without a lock file it is being made, or not ours.
		f, err := os.Open(filepath.Join(d, lockName))
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = os.RemoveAll(d)
		}
		f.Close()
	}
	dir, err = os.MkdirTemp("", prefix)
	if err != nil {
		return "", nil, err
	}
	// Locked before it gets the name that others look for.
	f, err := os.Create(filepath.Join(dir, lockName+".new"))
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, lockName))
	}
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, func() { _ = os.RemoveAll(dir); f.Close() }, nil
}

// A guest is one run of Run.
type guest struct {
	Options
	dir    string // temporary files
	images *Images
	kernel Kernel
	accel  acceleration
}

func (g *guest) file(name string) string { return filepath.Join(g.dir, name) }

func (g *guest) run(ctx context.Context) (*Result, error) {
	g.MemoryMiB = cmp.Or(g.MemoryMiB, defaultMemory)
	g.CPUs = cmp.Or(g.CPUs, defaultCPUs)
	g.Timeout = cmp.Or(g.Timeout, defaultTimeout)
	if g.Stdout == nil {
		g.Stdout = io.Discard
	}
	if g.Results != "" {
		if err := os.MkdirAll(g.Results, 0o755); err != nil {
			return nil, fmt.Errorf("vm: %w", err)
		}
	}
	if err := g.writeInput(ctx); err != nil {
		return nil, fmt.Errorf("vm: %w", err)
	}
	start := time.Now()
	stopped := g.boot(ctx)
	result, err := g.collect(stopped)
	if result != nil {
		result.Total = time.Since(start)
	}
	return result, err
}

// writeInput writes what the guest is given.
func (g *guest) writeInput(ctx context.Context) error {
	if err := writeInitrd(ctx, g.file("initrd"), g.kernel); err != nil {
		return err
	}
	payload, err := os.Create(g.file("payload"))
	if err != nil {
		return err
	}
	defer payload.Close()
	dir := g.Dir
	if dir == "" {
		dir = protocol.PayloadDir
	}
	err = writePayload(payload, protocol.Manifest{
		Kernel:         g.Kernel,
		Command:        g.Command,
		Env:            g.Env,
		Dir:            guestPath(dir),
		Systemd:        g.Systemd,
		TimeoutSeconds: g.Timeout.Seconds(),
	}, g.Payload)
	if err != nil {
		return err
	}
	return payload.Close()
}

// A stop is how QEMU ended.
type stop struct {
	err    error // nil if it ended by itself and without complaint
	reason string
	said   string
}

// boot runs QEMU to its end. It is killed when ctx ends and when the guest
// has overrun all limits.
func (g *guest) boot(ctx context.Context) stop {
	limit := g.Timeout + bootAllowance
	if g.Systemd {
		limit += systemdAllowance
	}
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()

	// The command's output comes through a pipe that QEMU inherits.
	output, input, err := os.Pipe()
	if err != nil {
		return stop{err: err}
	}
	defer output.Close()
	var once sync.Once
	closeInput := func() { once.Do(func() { input.Close() }) }
	defer closeInput()

	m := machine{
		accel: g.accel, cpu: g.CPUModel, cpus: g.CPUs, mem: g.MemoryMiB, kernel: g.kernel,
		initrd: g.file("initrd"), console: g.file("console"), append: g.ExtraAppend,
	}
	if g.Systemd {
		m.append += " systemd.unit=" + protocol.SystemdUnit + ".target systemd.show_status=0 systemd.log_target=journal"
	}
	cmd := qemu(limited, g.images, m,
		"-drive", "id=root,if=none,format=raw,snapshot=on,cache=unsafe,file="+escape(g.images.Root),
		"-device", "virtio-blk-pci,drive=root,serial="+protocol.RootDisk,
		"-drive", "id=payload,if=none,format=raw,readonly=on,file="+escape(g.file("payload")),
		"-device", "virtio-blk-pci,drive=payload,serial="+protocol.PayloadDisk,
		"-device", "virtio-serial-pci",
		"-chardev", "file,id=output,path=/proc/self/fd/3",
		"-device", "virtserialport,chardev=output,name="+protocol.OutputPort,
		"-chardev", "file,id=results,path="+escape(g.file("results")),
		"-device", "virtserialport,chardev=results,name="+protocol.ResultsPort,
	)
	cmd.ExtraFiles = []*os.File{input}         // descriptor 3
	cmd.Env = append(cmd.Env, "TMPDIR="+g.dir) // for the snapshot
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said

	relayed := make(chan error, 1)
	go func() {
		_, err := io.Copy(g.Stdout, output)
		// Should Stdout be broken, the guest must not block on it.
		_, _ = io.Copy(io.Discard, output)
		relayed <- err
	}()
	err = run(cmd, closeInput)
	closeInput() // also if it was not started
	relayErr := <-relayed

	s := stop{err: err, said: strings.TrimSpace(said.String())}
	switch {
	case ctx.Err() != nil:
		s.err = context.Cause(ctx)
		s.reason = "stopped: " + s.err.Error()
	case limited.Err() != nil:
		s.err = limited.Err()
		s.reason = fmt.Sprintf("killed, it did not end within %v", limit)
	case err != nil:
		s.reason = "qemu: " + err.Error()
	case relayErr != nil:
		s.err = relayErr
		s.reason = "relay its output: " + relayErr.Error()
	}
	return s
}

// escape protects a comma in an option of QEMU's.
func escape(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// collect makes a result of what the guest left, and an error of what was
// wrong with it.
func (g *guest) collect(s stop) (*Result, error) {
	text, _ := os.ReadFile(g.file("console")) // without one, it says nothing
	console := strings.ReplaceAll(string(text), "\r\n", "\n")
	fault := &GuestError{Kernel: g.Kernel, Reason: s.reason, Console: console, QEMU: s.said, cause: s.err}
	fault.Findings = scanConsole(console, g.AllowConsole)
	if g.Results != "" {
		if err := os.WriteFile(filepath.Join(g.Results, ConsoleFile), []byte(console), 0o644); err != nil {
			return nil, fmt.Errorf("vm: %w", err)
		}
	}

	var exit *protocol.Exit
	results, err := os.Open(g.file("results"))
	if err == nil {
		exit, err = readResults(results, g.Results)
		results.Close()
	}
	if err != nil {
		if fault.Reason == "" {
			fault.Reason = err.Error()
		}
		return nil, fault
	}
	result := &Result{
		ExitCode: exit.Code, TimedOut: exit.TimedOut, Release: g.kernel.Release, KVM: g.accel == kvm, Console: console,
		Boot:    time.Duration(exit.Boot * float64(time.Second)),
		Command: time.Duration(exit.Command * float64(time.Second)),
	}
	switch {
	case s.err != nil:
	case exit.Error != "":
		fault.Reason = exit.Error
	case len(fault.Findings) > 0:
		fault.Reason = "its kernel complained"
	case exit.TimedOut:
		fault.Reason = fmt.Sprintf("the command did not end within %v", g.Timeout)
	default:
		return result, nil
	}
	return result, fault
}
