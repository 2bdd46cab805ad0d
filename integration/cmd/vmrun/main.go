// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"rpctls/integration/vm"
)

const usage = `usage: vmrun [flags] [--] COMMAND [argument ...]
       vmrun [flags] -prepare

Runs COMMAND in a virtual machine with a kernel of the matrix (%s), or
one beside it (%s), and exits with its status, or with 125 if the machine
failed.

If COMMAND is a file of this machine and not below /usr, /bin, /sbin or /opt,
it is taken along, as /payload/bin/NAME; a test binary (NAME.test) also gets
the directory testdata beside it. Files that the command leaves in /results
are brought back with -results. In the machine RPCTLS_VM is the kernel's key.

The first run builds the images, which takes root and a few minutes.

examples:
  go run ./integration/cmd/vmrun -kernel 7.2 -- uname -a
  go run ./integration/cmd/vmrun -kernel 6.12 -file bin/x=./x -- x -v
  go run ./integration/cmd/vmrun -kernel 7.2 -systemd -- systemctl list-units
  go build -o /tmp/vmrun ./integration/cmd/vmrun
  CGO_ENABLED=0 go test -tags guest -exec '/tmp/vmrun -kernel 7.2' ./integration/guest

flags:
`

const harnessFailed = 125

// quiet hides that the images are there, but not that they are being built.
func logf(format string, args ...any) { fmt.Fprintf(os.Stderr, "vmrun: "+format+"\n", args...) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code, err := vmrun(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		logf("%v", err)
	}
	os.Exit(code)
}

func vmrun(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	o := vm.Options{Stdout: stdout, Log: logf, Payload: make(map[string]vm.Source)}
	flags := flag.NewFlagSet("vmrun", flag.ContinueOnError)
	flags.SetOutput(stderr)
	keys := vm.Kernels()
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), usage, strings.Join(keys, ", "), strings.Join(vm.OtherKernels(), ", "))
		flags.PrintDefaults()
	}
	prepare := flags.Bool("prepare", false, "only build the images")
	verbose := flags.Bool("v", false, "say how long it took")
	flags.StringVar(&o.Kernel, "kernel", keys[len(keys)-1], "`key` of the kernel to boot")
	flags.IntVar(&o.MemoryMiB, "mem", 2048, "memory in `MiB`")
	flags.IntVar(&o.CPUs, "cpus", 2, "number of processors")
	flags.StringVar(&o.CPUModel, "cpu", "", "processor `model` as QEMU names it, such as max,-aes")
	flags.StringVar(&o.ExtraAppend, "append", "", "more `arguments` for the kernel")
	flags.BoolVar(&o.Systemd, "systemd", false, "boot systemd and run COMMAND as its service")
	flags.DurationVar(&o.Timeout, "timeout", 10*time.Minute, "`limit` for COMMAND; a test binary's -test.timeout plus 30s, if that is longer")
	flags.StringVar(&o.Results, "results", "", "put the files of /results and the console into this `directory`")
	flags.Func("file", "take `guest=host` along, a file or directory; relative guest paths are below /payload (repeatable)", func(s string) error {
		guest, host, ok := strings.Cut(s, "=")
		if !ok || guest == "" || host == "" {
			return errors.New("want guest=host")
		}
		o.Payload[guest] = vm.Source{Path: host}
		return nil
	})
	flags.Func("env", "set `KEY=value` in COMMAND's environment (repeatable)", func(s string) error {
		o.Env = append(o.Env, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0, nil
		}
		return harnessFailed, nil // it was printed, with the usage
	}
	if *prepare {
		images, err := vm.Prepare(ctx, logf)
		if err != nil {
			return harnessFailed, err
		}
		for _, key := range keys {
			logf("kernel %s: %s", key, images.Kernels[key].Package)
		}
		logf("images are in %s", images.Dir)
		return 0, nil
	}
	if flags.NArg() == 0 {
		return harnessFailed, errors.New("no command; see vmrun -help")
	}
	if err := takeAlong(&o, flags.Args()); err != nil {
		return harnessFailed, err
	}
	result, err := vm.Run(ctx, o)
	if err != nil {
		return harnessFailed, err
	}
	if *verbose {
		logf("kernel %s, kvm %t: boot %.1fs, command %.1fs, all %.1fs", result.Release, result.KVM,
			result.Boot.Seconds(), result.Command.Seconds(), result.Total.Seconds())
	}
	return result.ExitCode, nil
}

// takeAlong sets the command, and the payload if it is a file of the host's.
func takeAlong(o *vm.Options, command []string) error {
	o.Command = command
	file := command[0]
	if !ofHost(file) {
		return nil
	}
	guest := "bin/" + filepath.Base(file)
	o.Payload[guest] = vm.Source{Path: file}
	o.Command = []string{"/payload/" + guest}
	if !strings.HasSuffix(file, ".test") {
		o.Command = append(o.Command, command[1:]...)
		return nil
	}
	o.Dir = "work"
	if info, err := os.Stat("testdata"); err == nil && info.IsDir() {
		o.Payload["work/testdata"] = vm.Source{Path: "testdata"}
	}
	for _, arg := range command[1:] {
		name, value, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch name {
		case "test.testlogfile":
			continue // the go command's, about files of the host
		case "test.timeout":
			d, err := time.ParseDuration(value)
			if err != nil {
				return fmt.Errorf("%s: %w", arg, err)
			}
			// Let the test's own limit come first: it says more.
			o.Timeout = max(o.Timeout, d+30*time.Second)
		}
		o.Command = append(o.Command, arg)
	}
	return nil
}

// ofHost reports whether a command is a file that the guest cannot have.
func ofHost(file string) bool {
	if !strings.Contains(file, "/") {
		return false
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return false
	}
	for _, system := range []string{"/usr/", "/bin/", "/sbin/", "/opt/", "/lib/", "/payload/"} {
		if strings.HasPrefix(abs, system) {
			return false
		}
	}
	info, err := os.Stat(abs)
	return err == nil && info.Mode().IsRegular()
}
