// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rpctls/integration/internal/protocol"
)

// An acceleration is how QEMU runs a guest's processors, in its own words.
type acceleration string

const (
	kvm acceleration = "kvm"
	tcg acceleration = "tcg,thread=multi" // translation
)

// chooseAcceleration decides for this machine.
func chooseAcceleration(ctx context.Context, images *Images, logf Logf) (acceleration, error) {
	ok, err := haveKVM(ctx, images, logf)
	if err != nil {
		return "", fmt.Errorf("probe for KVM: %w", err)
	}
	if ok {
		return kvm, nil
	}
	return tcg, nil
}

// A machine is the part of a QEMU command line that all guests share.
type machine struct {
	accel     acceleration
	cpu       string // model and flags; empty is all that there is
	cpus, mem int
	kernel    Kernel
	initrd    string
	console   string // file
	append    string
}

func (m machine) args() []string {
	cpu := "max"
	// What all guests are told. A warning must reach the console (loglevel),
	// and the kernel must end a guest that it broke.
	kernelArgs := []string{
		"console=ttyS0", "loglevel=5", "panic=-1", "oops=panic", "mitigations=off",
		"random.trust_cpu=on", "net.ifnames=0", "tsc=reliable",
	}
	if m.accel == kvm {
		cpu = "host"
	} else {
		// A busy host stops a translated processor for seconds; that is
		// no bug of the guest's.
		kernelArgs = append(kernelArgs, "nosoftlockup", "rcupdate.rcu_cpu_stall_suppress=1")
	}
	if m.cpu != "" {
		cpu = m.cpu
	}
	if m.append != "" {
		kernelArgs = append(kernelArgs, m.append)
	}
	return []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "pc", "-accel", string(m.accel), "-cpu", cpu,
		"-smp", fmt.Sprint(m.cpus), "-m", fmt.Sprint(m.mem),
		"-kernel", m.kernel.Image, "-initrd", m.initrd, "-append", strings.Join(kernelArgs, " "),
		"-chardev", "file,id=console,path=" + m.console, "-serial", "chardev:console",
	}
}

// qemu returns the command for a machine and what this one has besides.
func qemu(ctx context.Context, images *Images, m machine, args ...string) *exec.Cmd {
	return command(ctx, emulatorLoader(images.Emulator), emulatorArgs(images.Emulator, append(m.args(), args...)...)...)
}

// emulatorLoader is the program loader that belongs to the emulator's C
// library; this machine's may be older.
func emulatorLoader(dir string) string {
	return filepath.Join(dir, "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
}

// emulatorArgs are the loader's arguments.
func emulatorArgs(dir string, args ...string) []string {
	lib := filepath.Join(dir, "usr/lib/x86_64-linux-gnu")
	return append([]string{
		"--library-path", lib, filepath.Join(dir, "usr/bin/qemu-system-x86_64"),
		"-L", filepath.Join(dir, "usr/share/qemu"), "-L", filepath.Join(dir, "usr/share/seabios"),
	}, args...)
}

// probeLimit is ample: with KVM the probe takes about a second.
const probeLimit = 10 * time.Second

// A probeResult holds for one boot of the host.
type probeResult struct {
	BootID string
	KVM    bool
	Reason string
}

// haveKVM reports whether a guest really boots with KVM. That /dev/kvm can be
// opened says little: inside some virtual machines every guest dies at once.
func haveKVM(ctx context.Context, images *Images, logf Logf) (bool, error) {
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false, nil
	}
	f.Close()
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return false, err
	}
	id := strings.TrimSpace(string(bootID))
	file := filepath.Join(filepath.Dir(images.Dir), "kvm.json")
	var known probeResult
	if text, err := os.ReadFile(file); err == nil && json.Unmarshal(text, &known) == nil && known.BootID == id {
		return known.KVM, nil
	}
	reason, err := probeKVM(ctx, images)
	if err != nil {
		return false, err
	}
	result := probeResult{BootID: id, KVM: reason == "", Reason: reason}
	if result.KVM {
		logf.printf("cache: a guest boots with KVM")
	} else {
		logf.printf("cache: no guest boots with KVM (%s), translating instead", reason)
	}
	text, err := json.Marshal(result)
	if err != nil {
		return false, err
	}
	// Not the end of the world if it cannot be kept.
	if tmp, err := os.CreateTemp(filepath.Dir(file), ".kvm-"); err == nil {
		_, err = tmp.Write(text)
		if err := errors.Join(err, tmp.Chmod(0o644), tmp.Close(), os.Rename(tmp.Name(), file)); err != nil {
			os.Remove(tmp.Name())
		}
	}
	return result.KVM, nil
}

// probeKVM boots a guest that only says that it lives, and returns why it did
// not, or nothing.
func probeKVM(ctx context.Context, images *Images) (reason string, err error) {
	dir, err := os.MkdirTemp("", "rpctls-probe-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	kernel := images.Kernels[kernels[0].Key]
	m := machine{
		accel: kvm, cpus: 1, mem: 256, kernel: kernel, append: protocol.ProbeFlag,
		initrd: filepath.Join(dir, "initrd"), console: filepath.Join(dir, "console"),
	}
	if err := writeInitrd(ctx, m.initrd, kernel); err != nil {
		return "", err
	}
	limit, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := qemu(limit, images, m)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	err = run(cmd, nil)
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	console, _ := os.ReadFile(m.console)
	switch {
	case err == nil && bytes.Contains(console, []byte(protocol.ProbeMarker)):
		return "", nil
	case limit.Err() != nil:
		return fmt.Sprintf("the probe was silent for %v", probeLimit), nil
	case said.Len() > 0:
		first, _, _ := strings.Cut(strings.TrimSpace(said.String()), "\n")
		return first, nil
	case err != nil:
		return err.Error(), nil
	default:
		return "the probe ended without a word", nil
	}
}
