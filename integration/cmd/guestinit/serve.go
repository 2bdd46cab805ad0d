// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/internal/protocol"
)

// serve runs the host's commands until there is no host any more.
func serve() error {
	p, err := openPort(protocol.ShellPort, unix.O_RDWR)
	if err != nil {
		return err
	}
	s := &server{port: p, running: make(map[int]int)}
	s.reply(protocol.Reply{Exit: &protocol.Exit{Boot: uptime()}})
	for r := bufio.NewReader(p); ; {
		var request protocol.Request
		if err := protocol.ReadMessage(r, &request); err != nil {
			return err
		}
		switch {
		case request.Kill:
			s.kill(request.ID)
		default:
			go s.run(request)
		}
	}
}

// Read blocks its thread, as Write does.
func (p port) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(p), b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// A server runs commands.
type server struct {
	mu      sync.Mutex // held while a reply is written
	port    port
	running map[int]int // process groups by command
}

func (s *server) reply(r protocol.Reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := protocol.WriteMessage(s.port, r); err != nil {
		say("reply: %v", err)
	}
}

func (s *server) kill(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if group := s.running[id]; group != 0 {
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
}

// run runs a command as root's shell would after a login.
func (s *server) run(request protocol.Request) {
	exit := &protocol.Exit{}
	cmd := exec.Command("/bin/bash", "-c", request.Script)
	cmd.Dir = "/root"
	cmd.Env = []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "TERM=dumb", "USER=root", "LOGNAME=root", "SHELL=/bin/bash",
	}
	cmd.Stdin = bytes.NewReader(request.Stdin)
	cmd.Stdout = writerFunc(func(b []byte) { s.reply(protocol.Reply{ID: request.ID, Stdout: b}) })
	cmd.Stderr = writerFunc(func(b []byte) { s.reply(protocol.Reply{ID: request.ID, Stderr: b}) })
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// What the command left behind may hold the pipes open.
	cmd.WaitDelay = time.Second
	begin := time.Now()
	defer func() {
		exit.Command = time.Since(begin).Seconds()
		s.reply(protocol.Reply{ID: request.ID, Exit: exit})
	}()
	if err := cmd.Start(); err != nil {
		exit.Code, exit.Error = 127, err.Error()
		return
	}
	s.mu.Lock()
	s.running[request.ID] = cmd.Process.Pid
	s.mu.Unlock()
	limit := time.AfterFunc(time.Duration(request.TimeoutSeconds*float64(time.Second)), func() {
		s.mu.Lock()
		exit.TimedOut = true
		s.mu.Unlock()
		logBlockedTasks()
		s.kill(request.ID)
	})
	err := cmd.Wait()
	limit.Stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, request.ID)
	if state := cmd.ProcessState; state == nil {
		exit.Code, exit.Error = 125, err.Error()
	} else {
		exit.Code = state.ExitCode()
		if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			exit.Code = 128 + int(status.Signal())
		}
	}
}

// A writerFunc is called with what is written.
type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }
