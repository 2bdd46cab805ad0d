// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"rpctls/integration/internal/protocol"
)

// NodeOptions say what a node is.
type NodeOptions struct {
	Name    string // in errors, the log and the names of files
	Kernel  string // a key of the matrix
	Payload map[string]Source
	// Unmask names units that the image has masked, so that nothing starts by
	// itself in guests of Run, and that start here as their packages say.
	Unmask []string

	MemoryMiB int // 0 is 1024
	CPUs      int // 0 is 1

	Network *Network // may be nil
	// Address is the network card's, and what tells the nodes of a network
	// apart.
	Address [6]byte

	ExtraAppend  string // more for the kernel's command line
	AllowConsole []*regexp.Regexp

	// Results is the host directory for copies of the console, one for each
	// boot; empty is nowhere.
	Results string
	Log     Logf
}

// A Node is a guest that stays: it boots as an installed machine does, with
// systemd to its default target, keeps its disk over a reboot, and runs
// whatever it is told meanwhile.
type Node struct {
	NodeOptions

	ctx    context.Context // its end is QEMU's
	dir    string
	remove func() // dir
	images *Images
	kernel Kernel
	accel  acceleration

	mu    sync.Mutex
	boots int
	life  *life // nil while it is off
}

const (
	defaultNodeMemory = 1024
	// nodeBootLimit and nodeStopLimit are for a machine that other guests
	// keep busy.
	nodeBootLimit = 6 * time.Minute
	nodeStopLimit = 3 * time.Minute
)

// StartNode boots a node with a fresh copy of the root disk, and returns when
// it takes commands; services may still be starting then. It lives until Close,
// or until ctx ends.
func StartNode(ctx context.Context, o NodeOptions) (*Node, error) {
	if !slices.Contains(Kernels(), o.Kernel) {
		return nil, fmt.Errorf("vm: no kernel %q, only %s", o.Kernel, strings.Join(Kernels(), ", "))
	}
	images, err := Prepare(ctx, o.Log)
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
	n := &Node{
		NodeOptions: o, ctx: ctx, dir: dir, remove: remove,
		images: images, kernel: images.Kernels[o.Kernel], accel: accel,
	}
	if o.Results != "" {
		err = os.MkdirAll(o.Results, 0o755)
	}
	if err == nil {
		err = copyDisk(n.file("root"), images.Root)
	}
	if err == nil {
		err = writeInitrd(ctx, n.file("initrd"), n.kernel)
	}
	if err != nil {
		remove()
		return nil, fmt.Errorf("vm: %w", err)
	}
	if err := n.Boot(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) file(name string) string { return filepath.Join(n.dir, name) }

// Boot turns a node on that is off, and returns when it takes commands.
func (n *Node) Boot() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.life != nil {
		return fmt.Errorf("vm: %s is on", n.Name)
	}
	n.boots++
	began := time.Now()
	l, err := n.start()
	if err != nil {
		return fmt.Errorf("vm: %s: %w", n.Name, err)
	}
	n.life = l
	hello := make(chan error, 1)
	r := bufio.NewReader(l.conn)
	go func() {
		var first protocol.Reply
		hello <- protocol.ReadMessage(r, &first)
	}()
	limit := time.NewTimer(nodeBootLimit)
	defer limit.Stop()
	select {
	case err = <-hello:
		if err == nil {
			n.Log.printf("%s: boot %d took %.1fs", n.Name, n.boots, time.Since(began).Seconds())
			go l.receive(r)
			return nil
		}
	case <-limit.C:
		err = fmt.Errorf("took no commands within %v", nodeBootLimit)
	}
	return errors.Join(n.finish(fmt.Sprintf("boot %d: %v", n.boots, err)), n.keepConsole())
}

// start runs QEMU.
func (n *Node) start() (*life, error) {
	payload, unmask := n.Payload, n.Unmask
	if n.boots > 1 { // they are on the disk, or what became of them
		payload, unmask = nil, nil
	}
	f, err := os.Create(n.file("payload"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := writePayload(f, protocol.Manifest{Kernel: n.Kernel, Serve: true, Unmask: unmask}, payload); err != nil {
		return nil, err
	}
	m := machine{
		accel: n.accel, cpus: cmp.Or(n.CPUs, 1), mem: cmp.Or(n.MemoryMiB, defaultNodeMemory), kernel: n.kernel,
		initrd: n.file("initrd"), console: n.console(),
		append: strings.TrimSpace("systemd.show_status=0 " + n.ExtraAppend),
	}
	shell, conn, err := socketPair()
	if err != nil {
		return nil, err
	}
	files := []*os.File{shell} // from descriptor 3 on
	args := []string{
		// What the guest has flushed need not survive this machine.
		"-drive", "id=root,if=none,format=raw,cache=unsafe,file=" + escape(n.file("root")),
		"-device", "virtio-blk-pci,drive=root,serial=" + protocol.RootDisk,
		"-drive", "id=payload,if=none,format=raw,readonly=on,file=" + escape(n.file("payload")),
		"-device", "virtio-blk-pci,drive=payload,serial=" + protocol.PayloadDisk,
		"-device", "virtio-serial-pci",
		"-chardev", "socket,id=shell,fd=3",
		"-device", "virtserialport,chardev=shell,name=" + protocol.ShellPort,
	}
	if n.Network != nil {
		plug, err := n.Network.plug()
		if err != nil {
			shell.Close()
			conn.Close()
			return nil, err
		}
		files = append(files, plug)
		args = append(args,
			"-netdev", "stream,id=net,server=off,addr.type=fd,addr.str=4",
			"-device", "virtio-net-pci,netdev=net,romfile=,mac="+net.HardwareAddr(n.Address[:]).String())
	}
	ctx, cancel := context.WithCancel(n.ctx)
	cmd := qemu(ctx, n.images, m, args...)
	cmd.ExtraFiles = files
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	closeFiles := sync.OnceFunc(func() {
		for _, f := range files {
			f.Close()
		}
	})
	l := &life{conn: conn, kill: cancel, ended: make(chan struct{}), waiting: make(map[int]*Command)}
	go func() {
		err := run(cmd, closeFiles)
		closeFiles() // also if it was not started
		cancel()
		l.end(n.ctx, err, strings.TrimSpace(said.String()))
	}()
	return l, nil
}

// socketPair returns one end for a child and one for us.
func socketPair() (theirs *os.File, ours net.Conn, err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	theirs = os.NewFile(uintptr(pair[0]), "a child's end")
	f := os.NewFile(uintptr(pair[1]), "our end")
	defer f.Close()
	if ours, err = net.FileConn(f); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return theirs, ours, nil
}

// Reboot restarts the guest in order and returns when it takes commands again.
func (n *Node) Reboot() error {
	if err := n.Shutdown(); err != nil {
		return err
	}
	return n.Boot()
}

// Shutdown turns the guest off in order: services are stopped, file systems
// unmounted.
func (n *Node) Shutdown() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.life
	if l == nil {
		return fmt.Errorf("vm: %s is off", n.Name)
	}
	began := time.Now()
	l.mayEnd()
	// A reset ends QEMU as well as turning it off does. The command's own
	// end may get lost in that of the guest.
	if _, err := l.start(n, "systemctl --no-block reboot", nil, nodeStopLimit); err != nil {
		return errors.Join(err, n.finish("before it was told to shut down"))
	}
	limit := time.NewTimer(nodeStopLimit)
	defer limit.Stop()
	var err error
	select {
	case <-l.ended:
		if err = n.finish(""); err == nil {
			n.Log.printf("%s: shut down in %.1fs", n.Name, time.Since(began).Seconds())
		}
	case <-limit.C:
		err = n.finish(fmt.Sprintf("did not shut down within %v", nodeStopLimit))
	}
	return errors.Join(err, n.keepConsole())
}

// Close ends the guest as cutting its power does, and removes its disk. The
// error is what its kernel complained about, or that it was gone already.
func (n *Node) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.remove()
	if n.life == nil {
		return nil
	}
	n.life.mayEnd()
	return errors.Join(n.finish(""), n.keepConsole())
}

// finish ends QEMU, if it has not ended, and says what was wrong with this
// boot: the reason given, or what is found. n.mu is held.
func (n *Node) finish(reason string) error {
	l := n.life
	n.life = nil
	select {
	case <-l.ended:
	default:
		l.kill()
		<-l.ended
	}
	text, _ := os.ReadFile(n.console()) // without one, it says nothing
	fault := &GuestError{
		Kernel: n.Kernel, Reason: reason, Console: strings.ReplaceAll(string(text), "\r\n", "\n"),
		QEMU: l.said, cause: l.err,
	}
	fault.Findings = scanConsole(fault.Console, n.AllowConsole)
	switch {
	case reason != "":
	case l.err != nil:
		fault.Reason = l.err.Error()
	case len(fault.Findings) > 0:
		fault.Reason = "its kernel complained"
	default:
		return nil
	}
	fault.Reason = n.Name + ": " + fault.Reason
	return fault
}

// console is the file of the current boot's console.
func (n *Node) console() string { return n.file(fmt.Sprintf("console-%d", n.boots)) }

func (n *Node) keepConsole() error {
	if n.Results == "" {
		return nil
	}
	text, err := os.ReadFile(n.console())
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.Results, fmt.Sprintf("%s-%d.log", n.Name, n.boots)), text, 0o644)
}
