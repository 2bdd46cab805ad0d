// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxSaid bounds what is kept of the helper's errors, in bytes.
const maxSaid = 64 << 10

// said keeps the beginning of what is written to it.
type said struct {
	mu sync.Mutex
	b  []byte
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(s.b, p[:min(len(p), maxSaid-len(s.b))]...)
	return len(p), nil
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b)
}

// An outcome is how the real helper ended.
type outcome struct {
	code        int
	said        string // on its standard error
	interrupted bool   // it, or we, got a signal
	// alive is at its end when the helper and the process that it has left in
	// the background (-o bg) have ended. The caller closes it.
	alive *os.File
}

// A starter calls start, which starts the helper, where the helper shall be: in
// another UTS namespace, say.
type starter func(start func() error) error

// runHelper runs the real helper and waits for it. What it says on standard
// error is kept: which of it is worth showing depends on what rpctlscd knows.
func runHelper(real string, argv []string, in starter) (outcome, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return outcome{}, err
	}
	defer w.Close()
	var text said
	cmd := &exec.Cmd{
		Path: real, Args: argv, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: &text,
		// Its messages are compared with what they are known to be.
		Env: append(os.Environ(), "LC_ALL=C"),
		// Inherited by the process that it leaves in the background, which
		// closes what is below 3 only.
		ExtraFiles: []*os.File{w},
		WaitDelay:  time.Second,
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer signal.Stop(signals)
	if err := in(cmd.Start); err != nil {
		r.Close()
		return outcome{}, err
	}
	ended := make(chan struct{})
	interrupted := make(chan bool)
	go func() {
		got := false
		for {
			select {
			case s := <-signals:
				got = true
				cmd.Process.Signal(s)
			case <-ended:
				interrupted <- got
				return
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	o := outcome{said: text.String(), interrupted: <-interrupted, alive: r, code: cmd.ProcessState.ExitCode()}
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok && !errors.Is(err, exec.ErrWaitDelay) {
		r.Close()
		return outcome{}, err
	}
	if o.code < 0 { // by a signal
		o.code, o.interrupted = exitFail, true
	}
	return o, nil
}
