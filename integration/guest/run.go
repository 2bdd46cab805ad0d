// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// CommandLimit is how long a helper lets a program run. It is ample even for
// a translated guest on a busy machine.
const CommandLimit = 60 * time.Second

// Poll calls the condition until it returns nil, and fails the test with its
// last error after limit. The condition itself must not block.
func Poll(t testing.TB, limit time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		time.Sleep(wait)
	}
}

// Within fails the test if f does not return in time; f is then left behind.
// For what may hang in the kernel, such as a file on an NFS mount.
func Within(t testing.TB, limit time.Duration, what string, f func() error) {
	t.Helper()
	if err := within(limit, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func within(limit time.Duration, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%w %v", errHung, limit)
	}
}

var errHung = errors.New("did not end within")

// runCommand runs a command, with all its children, for at most limit and
// returns what it said on both outputs. A program that is stuck in the kernel
// is left behind.
func runCommand(cmd *exec.Cmd, limit time.Duration) (string, error) {
	var said syncBuffer
	if cmd.Stdout == nil {
		cmd.Stdout = &said
	}
	if cmd.Stderr == nil {
		cmd.Stderr = &said
	}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	// A daemon that the program left behind may hold the pipe open.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", err
	}
	err := within(limit, cmd.Wait)
	if errors.Is(err, errHung) {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, indent(said.String()))
	}
	return said.String(), err
}

// mustRun runs a program, in a host unless that is nil.
func mustRun(t testing.TB, h *Host, name string, args ...string) string {
	t.Helper()
	text, err := runCommand(h.Command(context.Background(), name, args...), CommandLimit)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func indent(text string) string {
	return "\t" + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n\t")
}

// lastLines returns the end of a text.
func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = append([]string{fmt.Sprintf("... (%d lines before)", len(lines)-n)}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "\n")
}
