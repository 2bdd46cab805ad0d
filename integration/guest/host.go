// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// A Host is a network namespace that plays a machine of its own.
type Host struct {
	Name string // and NAME.test, once it is joined to others

	addresses []netip.Prefix
	links     []string
	nfsd      bool
}

const (
	netnsDir = "/run/netns"
	// stateDir holds the mount namespaces of servers. It must not be below
	// anything that the daemons under test use.
	stateDir = "/run/rpctls-guest"
)

// NewHost makes a host that ends with the test.
func NewHost(t testing.TB, name string) *Host {
	t.Helper()
	RequireVM(t)
	h := &Host{Name: name}
	mustRun(t, nil, "ip", "netns", "add", name)
	t.Cleanup(func() { h.remove(t) })
	mustRun(t, h, "ip", "link", "set", "lo", "up")
	// Two clients with the same name are one client to the server, and the
	// kernel makes the name of the machine's, which all hosts share. The file
	// shows the identifier of the namespace that mounted sysfs, hence "ip
	// netns exec", which mounts it anew.
	LoadModule(t, "nfs")
	const file = "/sys/fs/nfs/net/nfs_client/identifier"
	mustRun(t, nil, "ip", "netns", "exec", name, "sh", "-c", "echo "+name+" > "+file)
	return h
}

// remove takes down what is left in the namespace, and then it.
func (h *Host) remove(t testing.TB) {
	t.Helper()
	forgetNames(t, h)
	cmd := exec.Command("ip", "netns", "delete", h.Name)
	if _, err := runCommand(cmd, CommandLimit); err != nil {
		t.Error(err)
	}
}

// Command returns a command that runs in the host's network and in the mount
// namespace of the test. A nil host is the machine itself.
func (h *Host) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	if h == nil {
		return exec.CommandContext(ctx, name, args...)
	}
	args = slices.Concat([]string{"--net=" + filepath.Join(netnsDir, h.Name), "--", name}, args)
	return exec.CommandContext(ctx, "nsenter", args...)
}

// ServerCommand returns a command that runs where the host's NFS server has
// its files. There is such a place once StartNFSD was called.
func (h *Host) ServerCommand(ctx context.Context, name string, args ...string) *exec.Cmd {
	args = slices.Concat([]string{"--net=" + filepath.Join(netnsDir, h.Name), "--mount=" + h.mountNamespace(), "--", name}, args)
	return exec.CommandContext(ctx, "nsenter", args...)
}

func (h *Host) mountNamespace() string { return filepath.Join(stateDir, h.Name, "mnt") }

// Run runs a program in the host and returns what it said. The test fails if
// the program does.
func (h *Host) Run(t testing.TB, name string, args ...string) string {
	t.Helper()
	return mustRun(t, h, name, args...)
}

// Do calls f in the host's network namespace: sockets that it opens belong to
// the host. Goroutines that it starts do not run there. The error is about
// getting there; f has its own ways.
func (h *Host) Do(f func()) error {
	if h == nil {
		f()
		return nil
	}
	result := make(chan error, 1)
	go func() {
		// Not unlocked: the thread ends with the goroutine, and nothing
		// else ever runs in the wrong namespace.
		runtime.LockOSThread()
		fd, err := unix.Open(filepath.Join(netnsDir, h.Name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			result <- fmt.Errorf("host %s: %w", h.Name, err)
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		unix.Close(fd)
		if err != nil {
			result <- fmt.Errorf("enter host %s: %w", h.Name, err)
			return
		}
		defer close(result) // also if f calls t.FailNow
		f()
	}()
	return <-result
}

// IPv4 returns the host's first address of that kind, without which the test
// was written wrongly.
func (h *Host) IPv4() netip.Addr { return h.address(netip.Addr.Is4) }

// IPv6 is like IPv4.
func (h *Host) IPv6() netip.Addr { return h.address(netip.Addr.Is6) }

func (h *Host) address(is func(netip.Addr) bool) netip.Addr {
	for _, a := range h.addresses {
		if is(a.Addr()) {
			return a.Addr()
		}
	}
	panic("guest: host " + h.Name + " has no such address: it was not joined to others")
}

// FQDN returns the host's name with its domain.
func (h *Host) FQDN() string { return h.Name + ".test" }

// Interfaces returns the names of the host's network interfaces, in the order
// in which it was joined.
func (h *Host) Interfaces() []string { return slices.Clone(h.links) }

var networks struct {
	sync.Mutex
	count int
	names map[*Host]bool // hosts that are in /etc/hosts
}

const hostsFile = "/etc/hosts"

// Link joins two hosts by a cable: 10.77.N.1/24 and fd77:N::1/64 for a, .2 and
// ::2 for b. The interface is called eth0, eth1 and so on at each end.
func Link(t testing.TB, a, b *Host) {
	t.Helper()
	n := nextNetwork()
	aName, bName := a.nextInterface(), b.nextInterface()
	mustRun(t, nil, "ip", "link", "add", aName, "netns", a.Name, "type", "veth", "peer", "name", bName, "netns", b.Name)
	a.configure(t, aName, n, 1)
	b.configure(t, bName, n, 2)
	writeNames(t, a, b)
}

// Join joins hosts by a switch: the k-th of them gets 10.77.N.k/24 and
// fd77:N::k/64. The switch is a network namespace called lanN, whose
// interfaces have the hosts' names.
func Join(t testing.TB, hosts ...*Host) {
	t.Helper()
	n := nextNetwork()
	lan := &Host{Name: fmt.Sprintf("lan%d", n)}
	mustRun(t, nil, "ip", "netns", "add", lan.Name)
	t.Cleanup(func() { lan.remove(t) })
	const bridge = "br0"
	lan.Run(t, "ip", "link", "add", bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0", "mcast_snooping", "0")
	lan.Run(t, "ip", "link", "set", "dev", bridge, "up")
	for i, h := range hosts {
		name := h.nextInterface()
		mustRun(t, nil, "ip", "link", "add", name, "netns", h.Name, "type", "veth", "peer", "name", h.Name, "netns", lan.Name)
		lan.Run(t, "ip", "link", "set", "dev", h.Name, "master", bridge, "up")
		h.configure(t, name, n, i+1)
	}
	writeNames(t, hosts...)
}

func nextNetwork() int {
	networks.Lock()
	defer networks.Unlock()
	networks.count++
	return networks.count
}

func (h *Host) nextInterface() string {
	h.links = append(h.links, fmt.Sprintf("eth%d", len(h.links)))
	return h.links[len(h.links)-1]
}

// configure gives the interface its addresses. Without detection of
// duplicates (nodad) they can be used at once.
func (h *Host) configure(t testing.TB, link string, network, host int) {
	t.Helper()
	v4 := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(network), byte(host)}), 24)
	v6 := netip.PrefixFrom(netip.MustParseAddr(fmt.Sprintf("fd77:%x::%x", network, host)), 64)
	h.Run(t, "ip", "addr", "add", v4.String(), "dev", link)
	h.Run(t, "ip", "addr", "add", v6.String(), "dev", link, "nodad")
	h.Run(t, "ip", "link", "set", "dev", link, "up")
	h.addresses = append(h.addresses, v4, v6)
}

// writeNames adds the hosts to the machine's list. One list serves all hosts:
// addresses are unique, and the kernel's look-ups are made outside any of the
// private lists that "ip netns exec" would show.
func writeNames(t testing.TB, hosts ...*Host) {
	t.Helper()
	networks.Lock()
	defer networks.Unlock()
	if networks.names == nil {
		networks.names = make(map[*Host]bool)
	}
	for _, h := range hosts {
		networks.names[h] = true
	}
	writeHostsFile(t)
}

func forgetNames(t testing.TB, h *Host) {
	t.Helper()
	networks.Lock()
	defer networks.Unlock()
	if networks.names[h] {
		delete(networks.names, h)
		writeHostsFile(t)
	}
}

// writeHostsFile replaces the part of the file that is ours.
func writeHostsFile(t testing.TB) {
	t.Helper()
	const mark = "# hosts of the test\n"
	old, err := os.ReadFile(hostsFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
		return
	}
	base, _, _ := strings.Cut(string(old), mark)
	var lines []string
	for h := range networks.names {
		for _, a := range h.addresses {
			lines = append(lines, fmt.Sprintf("%s %s %s\n", a.Addr(), h.FQDN(), h.Name))
		}
	}
	slices.Sort(lines)
	text := base + mark + strings.Join(lines, "")
	// In one step: programs read it at any time.
	if err := os.WriteFile(hostsFile+".new", []byte(text), 0o644); err != nil {
		t.Error(err)
		return
	}
	if err := os.Rename(hostsFile+".new", hostsFile); err != nil {
		t.Error(err)
	}
}
