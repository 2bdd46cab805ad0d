// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// command returns a command that dies with this process and whose whole
// process group is killed when ctx ends.
//
// Pdeathsig is about the thread that forked, so run must be used to start it.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

// run starts the command and waits for it on one thread: should the thread
// end early, the kernel would take that for our death and kill the command.
// The function started, if any, is called in between.
func run(cmd *exec.Cmd, started func()) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return err
	}
	if started != nil {
		started()
	}
	return cmd.Wait()
}

// output runs a command and returns its standard output. The error has the
// end of everything the command said.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := command(ctx, name, args...)
	cmd.Dir = dir
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := run(cmd, nil); err != nil {
		return "", commandError(ctx, cmd, err, stdout.String()+stderr.String())
	}
	return stdout.String(), nil
}

func commandError(ctx context.Context, cmd *exec.Cmd, err error, said string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", cmd.Args[0], context.Cause(ctx))
	}
	if said = strings.TrimSpace(said); said == "" {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, tail(said, 20))
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}
