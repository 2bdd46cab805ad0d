// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/mdlayher/genetlink"
	"golang.org/x/sys/unix"
)

// A PacketCapture is a running tcpdump.
type PacketCapture struct {
	File string // in pcap format, reaches the host as /results/TEST/...

	host  *Host
	iface string
	proc  *Proc
}

// markerProto is for local experiments (IEEE 802): nothing else sends it.
const markerProto = 0x88b5

// Capture records what passes an interface of a host, all of it or what a
// tcpdump filter selects. Everything that is sent after it returns is seen.
func Capture(t testing.TB, h *Host, iface string, filter ...string) *PacketCapture {
	t.Helper()
	f, err := createNew(filepath.Join(ResultsDir(t), fileName(h.Name+"-"+iface)), ".pcap")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	argv := []string{"tcpdump", "-i", iface, "-U", "-s", "0", "-B", "16384", "--immediate-mode", "-n", "-Z", "root", "-w", f.Name()}
	if len(filter) > 0 {
		argv = append(argv, fmt.Sprintf("(%s) or ether proto %#x", strings.Join(filter, " "), markerProto))
	}
	c := &PacketCapture{File: f.Name(), host: h, iface: iface}
	c.proc = Start(t, h, h.Name+"-"+iface+"-tcpdump", argv)
	c.proc.WaitLine(t, regexp.MustCompile(`listening on `), CommandLimit)
	return c
}

// Stop ends the capture. What was sent before is in the file: a frame of our
// own is sent last and waited for.
func (c *PacketCapture) Stop(t testing.TB) {
	t.Helper()
	marker := fmt.Appendf(nil, "end of capture %s %d", c.File, time.Now().UnixNano())
	var err error
	if e := c.host.Do(func() { err = sendFrame(c.iface, marker) }); e != nil {
		t.Fatal(e)
	}
	if err != nil {
		t.Fatalf("mark the end of a capture: %v", err)
	}
	Poll(t, CommandLimit, "end of capture "+c.File, func() error {
		if !c.Contains(t, marker) {
			return errors.New("tcpdump has not written our last frame")
		}
		return nil
	})
	c.proc.Signal(t, syscall.SIGINT)
	if err := c.proc.Wait(t, CommandLimit); err != nil {
		t.Fatalf("tcpdump: %v", err)
	}
}

func sendFrame(iface string, payload []byte) error {
	// This thread is in the host's network, and so must be the look-up.
	i, err := net.InterfaceByName(iface)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	frame := slices.Concat(bytes.Repeat([]byte{0xff}, 6), make([]byte, 6))
	frame = binary.BigEndian.AppendUint16(frame, markerProto)
	frame = append(frame, payload...)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6})
}

// Contains reports whether the bytes were seen, within one packet.
func (c *PacketCapture) Contains(t testing.TB, b []byte) bool {
	t.Helper()
	return bytes.Contains(c.Bytes(t), b)
}

// Bytes returns the file as it is now.
func (c *PacketCapture) Bytes(t testing.TB) []byte {
	t.Helper()
	text, err := os.ReadFile(c.File)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

const tracing = "/sys/kernel/tracing"

// A Tracing collects trace events of the kernel.
type Tracing struct{ dir string }

// Trace collects events until the test ends. They are named as the kernel's
// set_event file has them, such as "handshake:*" or "sunrpc:svc_tls_*"; the
// module that has them must be loaded. The lines reach the host as
// /results/TEST/trace.log.
func Trace(t testing.TB, events ...string) *Tracing {
	t.Helper()
	dir, err := os.MkdirTemp(tracing+"/instances", "rpctls")
	if err != nil {
		t.Fatal(err)
	}
	tr := &Tracing{dir: dir}
	t.Cleanup(func() {
		f, err := createNew(filepath.Join(ResultsDir(t), "trace"), ".log")
		if err == nil {
			_, err = f.WriteString(strings.Join(tr.Lines(t), "\n") + "\n")
			err = errors.Join(err, f.Close())
		}
		if err = errors.Join(err, os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	for _, e := range events {
		if err := appendFile(filepath.Join(dir, "set_event"), e); err != nil {
			t.Fatalf("trace %s: %v", e, err)
		}
	}
	return tr
}

func appendFile(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Lines returns the events until now, in order.
func (tr *Tracing) Lines(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(tr.dir, "trace"))
	if err != nil {
		t.Error(err)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			lines = append(lines, line)
		}
	}
	return lines
}

// Stop ends the collection; Lines still works.
func (tr *Tracing) Stop(t testing.TB) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(tr.dir, "tracing_on"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
}

// HasGenetlink returns nil if the kernel has a generic netlink family with
// that multicast group.
func HasGenetlink(family, group string) error {
	c, err := genetlink.Dial(nil)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(CommandLimit)); err != nil {
		return err
	}
	f, err := c.GetFamily(family)
	if err != nil {
		return fmt.Errorf("family %s: %w", family, err)
	}
	for _, g := range f.Groups {
		if g.Name == group {
			return nil
		}
	}
	return fmt.Errorf("family %s has no group %s", family, group)
}

// KernelLog returns what the kernel logged since the guest started.
func KernelLog(t testing.TB) string {
	t.Helper()
	text, err := runCommand((*Host)(nil).Command(context.Background(), "dmesg"), CommandLimit)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
