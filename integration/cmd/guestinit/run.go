// SPDX-License-Identifier: BSD-3-Clause

package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/internal/protocol"
)

// runPayload runs the command, sends all there is to know to the host, and
// turns the guest off.
func runPayload() error {
	defer powerOff()
	text, err := os.ReadFile(protocol.ManifestFile)
	if err != nil {
		return err
	}
	var manifest protocol.Manifest
	if err := json.Unmarshal(text, &manifest); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	results, err := openPort(protocol.ResultsPort, unix.O_WRONLY)
	if err != nil {
		return err
	}
	output, err := openPort(protocol.OutputPort, unix.O_WRONLY)
	if err != nil {
		return err
	}
	exit := runCommand(manifest, output)
	return sendResults(results, exit)
}

// A port is a virtio-serial port. It is written to with blocking calls: such a
// write returns when the host has it, so nothing is lost at power-off.
type port int

func (p port) Write(b []byte) (int, error) {
	written := 0
	for written < len(b) {
		n, err := unix.Write(int(p), b[written:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return written, fmt.Errorf("write to the host: %w", err)
		}
		written += n
	}
	return written, nil
}

// openPort waits for the port: the host announces its ports one by one.
func openPort(name string, mode int) (port, error) {
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
		if err != nil {
			return -1, err
		}
		for _, file := range files {
			if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
				device := "/dev/" + filepath.Base(filepath.Dir(file))
				fd, err := unix.Open(device, mode|unix.O_CLOEXEC, 0)
				if err != nil {
					return -1, fmt.Errorf("open port %s: %w", name, err)
				}
				return port(fd), nil
			}
		}
		if time.Now().After(deadline) {
			return -1, fmt.Errorf("no port %s", name)
		}
	}
}

// quitGrace is the time between SIGQUIT and SIGKILL.
const quitGrace = 5 * time.Second

func runCommand(manifest protocol.Manifest, output io.Writer) protocol.Exit {
	var exit protocol.Exit
	env := append(baseEnv(), "RPCTLS_VM="+manifest.Kernel)
	env = append(env, manifest.Env...)
	// The command is looked for in the PATH that it will have.
	for _, e := range env {
		if path, ok := strings.CutPrefix(e, "PATH="); ok {
			os.Setenv("PATH", path)
		}
	}
	if err := os.MkdirAll(manifest.Dir, 0o755); err != nil {
		exit.Code, exit.Error = 125, err.Error()
		return exit
	}
	cmd := exec.Command(manifest.Command[0], manifest.Command[1:]...)
	cmd.Dir, cmd.Env = manifest.Dir, env
	cmd.Stdout, cmd.Stderr = output, output
	// A group of its own, so that all of it can be ended.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// A daemon that it left behind may hold the pipe open.
	cmd.WaitDelay = time.Second
	exit.Boot = uptime()
	start := time.Now()
	if err := cmd.Start(); err != nil {
		exit.Code, exit.Error = 127, err.Error()
		return exit
	}
	waited := make(chan error, 1)
	go func() { waited <- cmd.Wait() }()
	var err error
	limit := time.NewTimer(time.Duration(manifest.TimeoutSeconds * float64(time.Second)))
	select {
	case err = <-waited:
	case <-limit.C:
		exit.TimedOut = true
		say("the command's time is over")
		logBlockedTasks()
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGQUIT)
		select {
		case err = <-waited:
		case <-time.After(quitGrace):
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			select {
			case err = <-waited:
			case <-time.After(quitGrace): // stuck in the kernel
			}
		}
	}
	exit.Command = time.Since(start).Seconds()
	switch state := cmd.ProcessState; {
	case exit.TimedOut:
		exit.Code = 124
	case state == nil:
		exit.Code, exit.Error = 125, fmt.Sprint(err)
	default:
		exit.Code = state.ExitCode()
		if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			exit.Code = 128 + int(status.Signal())
		}
	}
	return exit
}

// logBlockedTasks has the kernel show the stacks of tasks that cannot be
// killed: they are the usual reason for being late.
func logBlockedTasks() {
	if err := os.WriteFile("/proc/sysrq-trigger", []byte("w"), 0); err != nil {
		say("show blocked tasks: %v", err)
	}
}

func uptime() float64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		return 0
	}
	return time.Duration(t.Nano()).Seconds()
}

// sendResults sends what is in the results directory, and the exit last: its
// presence tells the host that all is there.
func sendResults(w io.Writer, exit protocol.Exit) error {
	saveKernelLog()
	t := tar.NewWriter(w)
	err := filepath.WalkDir(protocol.ResultsDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(protocol.ResultsDir, name)
		if err != nil || rel == "." {
			return err
		}
		switch {
		case d.IsDir():
			return t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: rel + "/", Mode: 0o755})
		case !d.Type().IsRegular():
			return nil
		}
		return sendFile(t, rel, name)
	})
	if err != nil {
		say("send results: %v", err)
	}
	text, err := json.Marshal(exit)
	if err != nil {
		return err
	}
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: protocol.ExitEntry, Size: int64(len(text)), Mode: 0o644})
	if err != nil {
		return err
	}
	if _, err := t.Write(text); err != nil {
		return err
	}
	return t.Close()
}

// sendFile sends as much of a file as there was when it was opened: a daemon
// may still be writing to it.
func sendFile(t *tar.Writer, rel, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	err = t.WriteHeader(&tar.Header{
		Typeflag: tar.TypeReg, Name: rel, Size: info.Size(), Mode: 0o644, ModTime: info.ModTime(),
	})
	if err != nil {
		return err
	}
	n, err := io.CopyN(t, f, info.Size())
	if err == io.EOF { // it shrank
		_, err = io.CopyN(t, zeros{}, info.Size()-n)
	}
	return err
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func saveKernelLog() {
	const readAll, size = 3, 1 << 20 // SYSLOG_ACTION_READ_ALL
	log := make([]byte, size)
	n, err := unix.Klogctl(readAll, log)
	if err == nil {
		err = os.WriteFile(filepath.Join(protocol.ResultsDir, "dmesg.log"), log[:n], 0o644)
	}
	if err != nil {
		say("save the kernel's log: %v", err)
	}
}
