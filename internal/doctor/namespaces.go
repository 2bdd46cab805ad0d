// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"rpctls/internal/config"
	"rpctls/internal/mountinfo"
	"rpctls/internal/netns"
	"rpctls/internal/nfsd"
	"rpctls/internal/rivals"
	"rpctls/internal/why"
)

// A Namespace is a network namespace other than this process's.
type Namespace struct {
	Name    string // path; empty if only processes are in it
	Process string // number of one of those; empty if there is none
	Threads int    // nfsd's
	Mounts  []string
	Members int // sockets in the group of the kernel's handshake requests
}

// called is how a person finds it.
func (n Namespace) called() string {
	if n.Name != "" {
		return n.Name
	}
	return "that of process " + n.Process
}

// Bounds of what is looked at.
const (
	maxProcesses = 4096
	maxOfOne     = 16 // processes of one namespace whose mounts are looked at
	maxFound     = 8  // namespaces that are named in findings
)

// namespaces looks for NFS in other network namespaces where nobody answers the
// kernel. What it cannot see is not a fault: it says so.
func namespaces(_ context.Context, x *exam) string {
	list, err := x.sys.Namespaces(x.group)
	note := ""
	if err != nil {
		note = oneLine(err.Error())
	}
	found := 0
	for _, n := range list {
		if n.Members > 0 || n.Threads == 0 && len(n.Mounts) == 0 {
			continue
		}
		if found++; found > maxFound {
			return fmt.Sprintf("there are more than %d", maxFound)
		}
		if len(n.Mounts) > 0 {
			x.found(fmt.Sprintf("%s: %s", n.called(), strings.Join(n.Mounts[:min(len(n.Mounts), 4)], ", ")),
				why.Cause{What: "nobody answers the kernel for mounts with TLS in another network namespace: they hang when their connection breaks", Command: x.serve(n, clientDaemon)})
		} else {
			x.warn(fmt.Sprintf("%s: nfsd has %d threads", n.called(), n.Threads),
				why.Cause{What: "nobody answers the kernel for the NFS server of another network namespace: its clients get no TLS", Command: x.serve(n, serverDaemon)})
		}
	}
	if note == "" && len(list) > 0 {
		note = fmt.Sprintf("%d others", len(list))
	}
	return note
}

// serve is the command after which a daemon serves a namespace.
func (x *exam) serve(n Namespace, daemon string) string {
	if n.Name == "" {
		return "ip netns attach NAME " + n.Process // without a name nobody finds it
	}
	file := x.ServerConfig
	var settings config.Settings
	if daemon == clientDaemon {
		file = x.ClientConfig
		if x.client != nil {
			settings = x.client.Config.Settings
		}
	} else if x.server != nil {
		settings = x.server.Config.Settings
	}
	unit := "/etc/systemd/system/" + daemon + ".service.d/namespaces.conf"
	var steps []string
	if !x.sys.Exists(unit) {
		steps = append(steps, "install -D -m 0644 "+shared("namespaces.conf")+" "+unit, "systemctl daemon-reload")
	}
	if !netns.MatchAny(settings.Namespaces, []string{n.Name}) {
		patterns := []string{`"host"`}
		for _, p := range settings.Namespaces {
			if !p.IsHost() {
				patterns = append(patterns, fmt.Sprintf("%q", p))
			}
		}
		steps = append(steps, fmt.Sprintf(`echo 'namespaces = [%s, "%s"]' > %s`, strings.Join(patterns, ", "), path.Join(path.Dir(n.Name), "*"),
			filepath.Join(strings.TrimSuffix(file, ".toml")+".d", "90-namespaces.toml")))
	}
	return strings.Join(append(steps, "systemctl restart "+daemon), " && ")
}

// Namespaces looks into every namespace that has a name in /run/netns or a process,
// as far as this process may.
func (this) Namespaces(group uint32) (list []Namespace, err error) {
	if err := netns.CanEnter(); err != nil {
		return nil, err
	}
	var patterns []netns.Pattern
	texts := []string{"/run/netns/*"}
	pids, err := filepath.Glob("/proc/[0-9]*") // the pattern is well-formed
	for _, dir := range pids[:min(len(pids), maxProcesses)] {
		texts = append(texts, dir+"/ns/net")
	}
	for _, text := range texts {
		p, perr := netns.ParsePattern(text)
		err = errors.Join(err, perr)
		patterns = append(patterns, p)
	}
	found, lerr := netns.List(patterns)
	err = errors.Join(err, lerr)
	own, merr := mountinfo.Self() // mounts of a namespace that has only a name
	err = errors.Join(err, merr)
	for _, f := range found {
		n, gone := look(f, group, own)
		if !gone {
			list = append(list, n)
		}
	}
	return list, err
}

// look looks into a namespace; what it cannot see there counts as not there.
func look(f netns.Found, group uint32, own []mountinfo.Mount) (n Namespace, gone bool) {
	var processes []string
	for _, p := range f.Paths {
		if pid, ok := strings.CutPrefix(path.Dir(path.Dir(p)), "/proc/"); ok {
			processes = append(processes, pid)
		} else if n.Name == "" {
			n.Name = p
		}
	}
	if len(processes) > 0 {
		n.Process = processes[0]
	}
	space, err := netns.Open(f)
	if err != nil {
		return n, true
	}
	defer space.Close()
	var volumes map[string]bool
	err = space.Do(func() error {
		n.Threads, _ = nfsd.Threads()
		members, err := rivals.Members(group)
		n.Members = len(members)
		// The kernel's list of what is mounted from this namespace, by device.
		text, _ := os.ReadFile("/proc/thread-self/net/nfsfs/volumes")
		volumes = devices(string(text))
		return err
	})
	if err != nil {
		return n, true
	}
	mounts := own
	if len(volumes) > 0 {
		for _, pid := range processes[:min(len(processes), maxOfOne)] {
			more, _ := mountinfo.File("/proc/" + pid + "/mountinfo")
			mounts = append(slices.Clip(mounts), more...)
		}
	}
	for _, m := range mounts {
		if m.TLS() && volumes[m.Device] && !slices.Contains(n.Mounts, m.Source) {
			n.Mounts = append(n.Mounts, m.Source)
		}
	}
	return n, false
}

// devices are the fourth fields of nfsfs/volumes, after version, address and port:
// "0:50".
func devices(text string) map[string]bool {
	list := make(map[string]bool)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 4 && strings.Contains(f[3], ":") {
			list[f[3]] = true
		}
	}
	return list
}

// shared is where a file of ours is that is no program: beside this one's
// directory, wherever the archive was installed, or where the packages have it.
func shared(name string) string {
	prefix := "/usr"
	if exe, err := os.Executable(); err == nil && filepath.Base(filepath.Dir(exe)) == "sbin" {
		prefix = filepath.Dir(filepath.Dir(exe))
	}
	return filepath.Join(prefix, "share", "rpctls", name)
}
