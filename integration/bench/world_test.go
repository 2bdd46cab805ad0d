// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
)

// threads of each nfsd.
const threads = 16

// A world is all hosts of the guest. The systems do not share one, so that all
// of them can be ready at the same time.
type world struct {
	client   *guest.Host            // where the load comes from
	stranger *guest.Host            // where attacks from elsewhere come from
	server   map[System]*guest.Host // with nfsd, or benchlimit
	mounter  map[System]*guest.Host // mounts from the server of that system
	services map[System][]*service  // the server's, then the mounter's
	foreign  []string               // the stranger's addresses
	root     *testing.T             // its end is that of all
	ca       *certstest.CA
	hung     map[System]bool // mounts of that system hang
	warm     sync.Once
}

// Exports of both servers.
const (
	exportPlain  = "/srv/plain"
	exportSecret = "/srv/secret"
)

const certDir = "/certs"

func newWorld(t *testing.T) *world {
	w := &world{
		root:     t,
		client:   guest.NewHost(t, "client"),
		stranger: guest.NewHost(t, "stranger"),
		server:   make(map[System]*guest.Host),
		mounter:  make(map[System]*guest.Host),
		services: make(map[System][]*service),
		hung:     make(map[System]bool),
		ca:       certstest.MustCA(t, certstest.CAOptions{CommonName: "bench CA"}),
	}
	hosts := []*guest.Host{w.client, w.stranger}
	for _, s := range Systems() {
		w.server[s] = guest.NewHost(t, string(s))
		hosts = append(hosts, w.server[s])
		if s != Limit {
			w.mounter[s] = guest.NewHost(t, "mounter-"+string(s))
			hosts = append(hosts, w.mounter[s])
		}
	}
	guest.Join(t, hosts...)
	for _, h := range hosts {
		dir := filepath.Join(certDir, h.Name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		w.ca.MustIssue(t, certstest.Options{
			CommonName: h.FQDN(), DNS: []string{h.FQDN()}, IPs: []string{h.IPv4().String(), h.IPv6().String()},
		}).MustWriteFiles(t, dir)
	}
	w.addForeign(t)
	// What is exported lies in memory: the disk of a guest is the host's
	// business.
	for _, dir := range []string{exportPlain, exportSecret} {
		if err := os.MkdirAll(dir, 0o777); err != nil {
			t.Fatal(err)
		}
		(*guest.Host)(nil).Run(t, "mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", dir)
	}
	for _, s := range []System{Rpctls, TLSHD} {
		guest.StartNFSD(t, w.server[s], guest.NFSDConfig{Threads: threads, NoV3: true, Exports: []guest.Export{
			{Path: exportPlain}, {Path: exportSecret, XprtSec: "mtls"},
		}})
	}
	guest.LoadModule(t, "tls")
	// No delegations: a client whose connection is cut while it gives one back
	// may hang for ever, whoever makes its handshakes.
	if err := os.WriteFile("/proc/sys/fs/leases-enable", []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	w.startLimit(t)
	w.startRpctls(t)
	w.startTLSHD(t)
	return w
}

// foreignNetworks is how many /24 the stranger has an address in.
const foreignNetworks = 24

// addForeign gives the stranger addresses 10.88.N.1/24, and the servers a way
// back.
func (w *world) addForeign(t *testing.T) {
	link := w.stranger.Interfaces()[0]
	for n := range foreignNetworks {
		a := netip.AddrFrom4([4]byte{10, 88, byte(n + 1), 1})
		w.stranger.Run(t, "ip", "addr", "add", a.String()+"/24", "dev", link)
		w.foreign = append(w.foreign, a.String())
	}
	for _, h := range w.server {
		h.Run(t, "ip", "route", "add", "10.88.0.0/16", "dev", h.Interfaces()[0])
	}
}

func pem(h *guest.Host, file string) string { return filepath.Join(certDir, h.Name, file) }

// program is where the payload has a program.
func program(name string) string { return "/payload/bin/" + name }

func (w *world) startLimit(t *testing.T) {
	h := w.server[Limit]
	p := guest.Start(t, h, "benchlimit", []string{
		program("benchlimit"), "-ca", pem(h, "ca.pem"), "-cert", pem(h, "cert.pem"), "-key", pem(h, "key.pem"),
	})
	p.WaitLine(t, regexp.MustCompile(`listening on`), guest.CommandLimit)
}

// arguments of benchload that are the same everywhere.
func (w *world) arguments(from *guest.Host, s System) []string {
	to := w.server[s]
	return []string{
		"-address", netip.AddrPortFrom(to.IPv4(), 2049).String(), "-name", to.FQDN(),
		"-ca", pem(from, "ca.pem"), "-cert", pem(from, "cert.pem"), "-key", pem(from, "key.pem"),
	}
}

// loadLimit is for one run of benchload.
const loadLimit = 4 * time.Minute

// load runs benchload in the client.
func (w *world) load(t *testing.T, s System, args ...string) *Load {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), loadLimit)
	defer cancel()
	cmd := w.client.Command(ctx, program("benchload"), append(w.arguments(w.client, s), args...)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("benchload %s: %v\n%s", strings.Join(args, " "), err, said.String())
	}
	l := new(Load)
	if err := json.Unmarshal(out, l); err != nil {
		t.Fatalf("benchload %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return l
}

// await waits until a system serves one client.
func (w *world) await(t *testing.T, s System) {
	t.Helper()
	guest.Poll(t, guest.CommandLimit, string(s)+" to serve", func() error {
		if l := w.load(t, s, "-total=1"); l.OK != 1 {
			return fmt.Errorf("%v %q", l, l.Examples)
		}
		return nil
	})
}

// stall begins an attack and returns what ends it.
func (w *world) stall(t *testing.T, s System, clients int, foreign bool) (end func()) {
	t.Helper()
	from := w.client
	args := append([]string{program("benchload"), "-stall", "-clients", strconv.Itoa(clients)}, w.arguments(from, s)...)
	if foreign {
		from = w.stranger
		args = append(args, "-source", strings.Join(w.foreign, ","))
	}
	p := guest.Start(t, from, fmt.Sprintf("stall-%s-%d", s, clients), args)
	p.WaitLine(t, regexp.MustCompile(`stalling`), guest.CommandLimit)
	return func() {
		if err := p.Stop(t, guest.CommandLimit); err != nil {
			t.Errorf("attack: %v", err)
		}
		t.Logf("%s: %s", p.Name, strings.TrimSpace(p.Output()))
		w.await(t, s)
	}
}

// A service is a unit of systemd that runs in a host's network.
type service struct {
	unit string
	host *guest.Host
}

const unitDir = "/etc/systemd/system"

// systemctl runs systemctl on the machine.
func systemctl(t *testing.T, args ...string) {
	t.Helper()
	(*guest.Host)(nil).Run(t, "systemctl", args...)
}

// install puts a unit into a host's network, with what else it needs in its
// [Service] section, and starts it.
func (w *world) install(t *testing.T, h *guest.Host, unit, text, more string) *service {
	t.Helper()
	dropIn := filepath.Join(unitDir, unit+".d")
	if err := os.MkdirAll(dropIn, 0o755); err != nil {
		t.Fatal(err)
	}
	// No limit: it would end what the rows with restarts measure.
	more = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nNetworkNamespacePath=/run/netns/" + h.Name + "\n" + more
	for name, text := range map[string]string{filepath.Join(unitDir, unit): text, filepath.Join(dropIn, "bench.conf"): more} {
		// It may be masked, which is a link.
		if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	systemctl(t, "daemon-reload")
	systemctl(t, "start", unit)
	w.root.Cleanup(func() {
		log, err := exec.Command("journalctl", "--no-pager", "-o", "short-monotonic", "-u", unit).CombinedOutput()
		err = errors.Join(err, os.WriteFile(filepath.Join(guest.ResultsDir(w.root), unit+".log"), log, 0o644))
		if err != nil {
			w.root.Errorf("journal of %s: %v", unit, err)
		}
		systemctl(w.root, "stop", unit)
	})
	return &service{unit, h}
}

// restart restarts services as an administrator does, or kills them.
func restart(kill bool, services ...*service) error {
	args := []string{"restart"}
	if kill {
		args = []string{"kill", "--signal=KILL"}
	}
	for _, s := range services {
		args = append(args, s.unit)
	}
	ctx, cancel := context.WithTimeout(context.Background(), guest.CommandLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// pss returns how much memory a service's processes have in KiB, what they
// share with others divided among them.
func (s *service) pss() (kib float64, err error) {
	list, err := os.ReadFile("/sys/fs/cgroup/system.slice/" + s.unit + "/cgroup.procs")
	if err != nil {
		return 0, err
	}
	for pid := range strings.FieldsSeq(string(list)) {
		text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it has just ended
		}
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
				n, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					return 0, err
				}
				kib += n
			}
		}
	}
	return kib, nil
}

// shipped is where the payload has what packaging/systemd has.
const shipped = "/payload/packaging/systemd/"

func (w *world) startRpctls(t *testing.T) {
	(*guest.Host)(nil).Run(t, "systemd-sysusers", shipped+"rpctls.sysusers")
	for _, d := range []struct {
		name string
		host *guest.Host
	}{{"rpctlssd", w.server[Rpctls]}, {"rpctlscd", w.mounter[Rpctls]}} {
		unit := d.name + ".service"
		binary, err := os.ReadFile(program(d.name))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(shipped + unit)
		if err != nil {
			t.Fatal(err)
		}
		// As a package has it: root's, and readable for the daemon's group.
		(*guest.Host)(nil).Run(t, "chgrp", "rpctls", pem(d.host, "key.pem"))
		(*guest.Host)(nil).Run(t, "chmod", "0640", pem(d.host, "key.pem"))
		// The two are on different hosts, and no siblings.
		run := "rpctls-" + d.host.Name
		config := fmt.Sprintf("trust = %q\ncertificate = %q\nprivate_key = %q\nruntime_directory = \"/run/%s\"\n",
			pem(d.host, "ca.pem"), pem(d.host, "cert.pem"), pem(d.host, "key.pem"), run)
		if err := errors.Join(
			os.WriteFile("/usr/sbin/"+d.name, binary, 0o755),
			os.MkdirAll("/etc/rpctls", 0o755),
			os.WriteFile("/etc/rpctls/"+d.name+".toml", []byte(config), 0o644),
		); err != nil {
			t.Fatal(err)
		}
		w.services[Rpctls] = append(w.services[Rpctls], w.install(t, d.host, unit, string(text), "RuntimeDirectory="+run+"\n"))
	}
}

// The peer that fits the kernel: 1.4.0 insists on a socket option that 6.12
// does not have.
func tlshd(t testing.TB) (version, program, unit string) {
	const file = "/usr/lib/systemd/system/tlshd.service"
	if guest.KernelVersion(t).AtLeast(guest.Version{Major: 7, Minor: 2}) {
		return "1.4.0", "/usr/sbin/tlshd", file
	}
	const opt = "/opt/ktls-utils-1.0.0"
	return "1.0.0", opt + "/usr/sbin/tlshd", opt + file
}

func (w *world) startTLSHD(t *testing.T) {
	_, program, file := tlshd(t)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []*guest.Host{w.server[TLSHD], w.mounter[TLSHD]} {
		config := ""
		for _, section := range []string{"client", "server"} {
			config += fmt.Sprintf("[authenticate.%s]\nx509.truststore=%s\nx509.certificate=%s\nx509.private_key=%s\n",
				section, pem(h, "ca.pem"), pem(h, "cert.pem"), pem(h, "key.pem"))
		}
		name := "/etc/tlshd-" + h.Name + ".conf"
		if err := os.WriteFile(name, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		more := fmt.Sprintf("ExecStart=\nExecStart=%s -c %s\nRestart=always\n", program, name)
		w.services[TLSHD] = append(w.services[TLSHD], w.install(t, h, "tlshd-"+h.Name+".service", string(text), more))
	}
}
