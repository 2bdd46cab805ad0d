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

// lookEvery is how often it is asked whether there is hope. A variable for tests.
var lookEvery = 2 * time.Second

// An outcome is how the real helper ended.
type outcome struct {
	code        int
	said        string // on its standard error
	interrupted bool   // it, or we, got a signal
	givenUp     bool   // it was ended because it waited for nothing
	// alive is at its end when the helper and the process that it has left in
	// the background (-o bg) have ended. The caller closes it.
	alive *os.File
}

// A starter calls start, which starts the helper, where the helper shall be: in
// another UTS namespace, say.
type starter func(start func() error) error

// runHelper runs the real helper and waits for it. What it says on standard
// error is kept: which of it is worth showing depends on what rpctlscd knows.
//
// From time to time it asks whether what the helper waits for is hopeless, which
// it may do while it is the only one to use what hopeless uses.
func runHelper(real string, argv []string, in starter, hopeless func() bool) (outcome, error) {
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
	for _, s := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(s) { // by nohup, say: then the helper shall ignore it, too
			signal.Notify(signals, s)
		}
	}
	defer signal.Stop(signals)
	if err := in(cmd.Start); err != nil {
		r.Close()
		return outcome{}, err
	}
	ended := make(chan struct{})
	looked := make(chan outcome)
	go func() {
		var o outcome
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case s := <-signals:
				o.interrupted = true
				cmd.Process.Signal(s)
			case <-tick.C:
				switch {
				case o.givenUp:
					cmd.Process.Kill() // it has had its chance
				case hopeless():
					o.givenUp = true
					cmd.Process.Signal(unix.SIGTERM)
				}
			case <-ended:
				looked <- o
				return
			}
		}
	}()
	err = cmd.Wait()
	close(ended)
	o := <-looked
	o.said, o.alive, o.code = text.String(), r, cmd.ProcessState.ExitCode()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok && !errors.Is(err, exec.ErrWaitDelay) {
		r.Close()
		return outcome{}, err
	}
	if o.code < 0 { // by a signal
		o.code, o.interrupted = exitFail, o.interrupted || !o.givenUp
	}
	return o, nil
}
