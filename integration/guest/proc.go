// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Proc is a program that runs beside the test, such as a daemon. What it
// says is kept, and reaches the host as /results/TEST/NAME.log. It is killed
// with all its children when the test ends, and the end of its log is shown if
// the test failed.
type Proc struct {
	Name string

	cmd  *exec.Cmd
	said *syncBuffer
	done chan struct{} // closed when it has ended
	err  error         // how, once done is closed
}

// Start starts a program in a host; env is added to the test's own.
func Start(t testing.TB, h *Host, name string, argv []string, env ...string) *Proc {
	t.Helper()
	cmd := h.Command(context.Background(), argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	return StartCommand(t, name, cmd)
}

// StartCommand is Start for a command that the caller made; its outputs must
// not be set.
func StartCommand(t testing.TB, name string, cmd *exec.Cmd) *Proc {
	t.Helper()
	p := &Proc{Name: name, cmd: cmd, said: new(syncBuffer), done: make(chan struct{})}
	log, err := createNew(filepath.Join(ResultsDir(t), fileName(name)), ".log")
	if err != nil {
		t.Fatal(err)
	}
	out := io.MultiWriter(p.said, log)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		log.Close()
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = cmd.Wait()
		if errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil
		}
		log.Close()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			t.Errorf("%s could not be killed", name)
		}
		if t.Failed() {
			t.Logf("--- %s said (%v) ---\n%s", name, p.state(), indent(lastLines(p.said.String(), 40)))
		}
	})
	return p
}

// createNew creates a file whose name is not taken: a test may start the same
// daemon again.
func createNew(base, suffix string) (*os.File, error) {
	for n := 1; ; n++ {
		name := base + suffix
		if n > 1 {
			name = fmt.Sprintf("%s.%d%s", base, n, suffix)
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if !errors.Is(err, os.ErrExist) {
			return f, err
		}
	}
}

// PID returns the program's process id: nsenter becomes it.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Output returns what it said until now.
func (p *Proc) Output() string { return p.said.String() }

// Done is closed when the program has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

func (p *Proc) state() string {
	switch {
	case !p.ended():
		return "still running"
	case p.err != nil:
		return p.err.Error()
	default:
		return "ended well"
	}
}

// WaitLine waits for a line that matches and returns it. Lines that were said
// before count. The test fails if none comes in time, or the program ends.
func (p *Proc) WaitLine(t testing.TB, re *regexp.Regexp, limit time.Duration) string {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for offset := 0; ; {
		ended := p.ended() // first: then all that it said is there
		text, more := p.said.watch(offset)
		if !ended {
			text = text[:strings.LastIndexByte(text, '\n')+1] // whole lines
		}
		for line := range strings.Lines(text) {
			if line = strings.TrimRight(line, "\r\n"); re.MatchString(line) {
				return line
			}
		}
		offset += len(text)
		if ended {
			t.Fatalf("%s: %s, without a line that matches %v", p.Name, p.state(), re)
		}
		select {
		case <-more:
		case <-p.done:
		case <-timer.C:
			t.Fatalf("%s: no line that matches %v within %v", p.Name, re, limit)
		}
	}
}

func (p *Proc) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Signal sends a signal to the program, not to its children.
func (p *Proc) Signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatalf("signal %v to %s: %v", s, p.Name, err)
	}
}

// Wait waits for the program's end and returns how it ended.
func (p *Proc) Wait(t testing.TB, limit time.Duration) error {
	t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		t.Fatalf("%s did not end within %v", p.Name, limit)
		return nil
	}
}

// Stop asks the program to end (SIGTERM) and returns how it did.
func (p *Proc) Stop(t testing.TB, limit time.Duration) error {
	t.Helper()
	if p.ended() {
		return p.err
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("stop %s: %v", p.Name, err)
	}
	return p.Wait(t, limit)
}

// Kill kills the program and its children and waits for its end.
func (p *Proc) Kill(t testing.TB) {
	t.Helper()
	p.kill()
	_ = p.Wait(t, 10*time.Second)
}

func (p *Proc) kill() {
	// The group lives on while a child does, after the program itself.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
}

// FDs returns how many descriptors a process has open.
func FDs(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// Threads returns how many threads a process has.
func Threads(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(pid), "task"))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// ResidentKiB returns how much memory a process has in use.
func ResidentKiB(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "VmRSS:" {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("process %d has no memory: it has ended", pid)
	return 0
}
