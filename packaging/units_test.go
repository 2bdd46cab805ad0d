// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"rpctls/internal/metrics"
	"rpctls/packaging/manifest"
)

var daemons = []string{"rpctlscd", "rpctlssd"}

func readUnit(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// exposure is what systemd-analyze may give, in tenths.
const exposure = "15"

func TestUnitsAreConfined(t *testing.T) {
	for _, name := range append([]string{"rpctls-exporter"}, daemons...) {
		cmd := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold="+exposure, filepath.Join("systemd", name+".service"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		if !strings.Contains(string(out), "Overall exposure level for "+name+".service") {
			t.Errorf("%s: systemd-analyze says %s", name, out)
		}
	}
}

// exposureOfNamespaces is that of the units with the drop-in for network namespaces,
// which is not active where the packages have it.
const exposureOfNamespaces = "20"

// TestNamespacesDropIn: it adds one right and one kind of namespace to either unit,
// and leaves the rest.
func TestNamespacesDropIn(t *testing.T) {
	dropIn := readUnit(t, "namespaces.conf")
	for _, name := range daemons {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, name+".service.d"), 0o755); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{name + ".service": readUnit(t, name+".service"), name + ".service.d/namespaces.conf": dropIn} {
			if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command("systemd-analyze", "security", "--offline=yes", "--no-pager", "--threshold="+exposureOfNamespaces, name+".service")
		cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, want := range []string{
			`✗ RestrictNamespaces=~net `, `✓ RestrictNamespaces=~mnt `, `✓ RestrictNamespaces=~user `, `✓ RestrictNamespaces=~pid `,
			`✗ CapabilityBoundingSet=~CAP_SYS_ADMIN `, `✓ CapabilityBoundingSet=~CAP_SYS_PTRACE `, `✓ SystemCallFilter=~@mount `, `✓ SystemCallFilter=~@module `,
		} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: no %q in\n%s", name, want, out)
			}
		}
	}
	for _, f := range manifest.Packages[0].Files {
		if f.From == "packaging/systemd/namespaces.conf" && strings.HasPrefix(f.Path, "/usr/lib/systemd") {
			t.Errorf("it is active: %s", f.Path)
		}
	}
}

// TestUnitsAgree: an administrator finds each unit whole, in one file; that the
// two are one text but for what their roles are is seen to here.
func TestUnitsAgree(t *testing.T) {
	var services []string
	for _, name := range daemons {
		_, service, ok := strings.Cut(readUnit(t, name+".service"), "\n[Service]\n")
		service, _, ok2 := strings.Cut(service, "\n[Install]\n")
		if !ok || !ok2 {
			t.Fatalf("%s has other sections", name)
		}
		if !strings.Contains(service, "ExecStart=/usr/sbin/"+name+"\n") {
			t.Errorf("%s starts something else", name)
		}
		services = append(services, strings.ReplaceAll(service, name, "DAEMON"))
	}
	// The sentence that says so names both.
	fold := strings.NewReplacer("DAEMON and rpctlssd", "BOTH", "rpctlscd and DAEMON", "BOTH",
		"DAEMON\n# and rpctlssd", "BOTH", "rpctlscd\n# and DAEMON", "BOTH")
	// rpctlscd reads what mount.nfstls leaves in a key.
	const differs = "; and keyctl to read which identity a mount names\n# (cert_serial=), no key is made.\nSystemCallFilter=sched_setattr setpriority prlimit64 sched_getaffinity keyctl\n"
	const instead = ".\nSystemCallFilter=sched_setattr setpriority prlimit64 sched_getaffinity\n"
	if !strings.Contains(services[0], differs) {
		t.Errorf("rpctlscd does not say %q", differs)
	}
	services[0] = strings.Replace(services[0], differs, instead, 1)
	a, b := fold.Replace(services[0]), fold.Replace(services[1])
	if a != b {
		la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
		for i := range min(len(la), len(lb)) {
			if la[i] != lb[i] {
				t.Fatalf("[Service] of rpctlscd has %q where rpctlssd has %q", la[i], lb[i])
			}
		}
		t.Fatalf("one [Service] is longer: %d lines and %d", len(la), len(lb))
	}
}

// TestUnitsPromise: what the documentation and the daemons rely on.
func TestUnitsPromise(t *testing.T) {
	for name, more := range map[string][]string{
		"rpctlscd.service": {"Before=remote-fs-pre.target nfs-client.target"},
		"rpctlssd.service": {"Before=nfs-server.service"},
	} {
		lines := strings.Split(readUnit(t, name), "\n")
		for _, want := range append([]string{
			"Type=notify-reload", "WatchdogSec=30s", "Restart=always", "StartLimitIntervalSec=0", "FileDescriptorStoreMax=1",
			"User=rpctls", "Group=rpctls", "CapabilityBoundingSet=CAP_NET_ADMIN", "AmbientCapabilities=CAP_NET_ADMIN",
			"RestrictAddressFamilies=AF_NETLINK AF_UNIX", "IPAddressDeny=any", "NoNewPrivileges=yes",
			"RuntimeDirectory=rpctls", "RuntimeDirectoryMode=0750", "RuntimeDirectoryPreserve=yes",
			"Wants=modprobe@tls.service", "After=modprobe@tls.service",
		}, more...) {
			if !slices.Contains(lines, want) {
				t.Errorf("%s does not say %s", name, want)
			}
		}
	}
}

// TestExporterUnit: it has a user of its own, which is in no group of the daemons',
// and may enter the one directory that it needs.
func TestExporterUnit(t *testing.T) {
	lines := strings.Split(readUnit(t, "rpctls-exporter.service"), "\n")
	for _, want := range []string{
		"User=rpctls-exporter", "Group=rpctls-exporter", "CapabilityBoundingSet=", "ExecStart=/usr/sbin/rpctlsctl exporter",
		"IPAddressDeny=any", "IPAddressAllow=localhost", "NoNewPrivileges=yes", "PrivateUsers=yes",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("the exporter's unit does not say %s", want)
		}
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "SupplementaryGroups=") || strings.HasPrefix(line, "ReadWritePaths=") || strings.HasPrefix(line, "RuntimeDirectory=") {
			t.Errorf("the exporter's unit says %s", line)
		}
	}
	dir := metrics.Directory("/run/rpctls")
	if !strings.Contains(readUnit(t, "rpctls.tmpfiles"), "\nd "+dir+" 2750 rpctls rpctls-exporter -\n") {
		t.Errorf("nobody makes %s", dir)
	}
	if !strings.Contains(readUnit(t, "rpctls.sysusers"), "\nu rpctls-exporter - ") || strings.Contains(readUnit(t, "rpctls.sysusers"), "\nm ") {
		t.Error("the exporter's user is missing, or somebody is in another's group")
	}
	for _, name := range daemons {
		if !slices.Contains(strings.Split(readUnit(t, name+".service"), "\n"), "ReadWritePaths=-"+dir) {
			t.Errorf("%s cannot write to %s", name, dir)
		}
	}
}

// TestMountPath: what the switch of rpm relies on to be done again after an
// upgrade of nfs-utils.
//
// Seen with inotify(7) and systemd's mask for PathChanged=: of a file that is
// renamed over a link, a watch on the link's path, which is one on the inode that
// the link leads to, hears nothing; one on the directory hears IN_MOVED_TO.
func TestMountPath(t *testing.T) {
	for name, want := range map[string][]string{
		"rpctls-mount.path":    {"PathChanged=/usr/sbin", "TriggerLimitIntervalSec=0"},
		"rpctls-mount.service": {"StartLimitIntervalSec=0", "ExecStart=/usr/libexec/rpctls/mount-switch on"},
	} {
		text, err := os.ReadFile(filepath.Join("rpm", name))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for _, w := range want {
			if !slices.Contains(lines, w) {
				t.Errorf("%s does not say %s", name, w)
			}
		}
		for _, line := range lines {
			if strings.HasPrefix(line, "Path") && !slices.Contains(want, line) && line != "[Path]" {
				t.Errorf("%s says %s", name, line)
			}
		}
	}
	// Started by what it does itself it would never end: done twice, it changes
	// nothing in the directory. TestMountSwitch sees to that.
}

// TestTimer: a host that was off renews as soon as it is on, not hours later,
// when its certificates may have run out.
func TestTimer(t *testing.T) {
	lines := strings.Split(readUnit(t, "rpctls-cert-renew.timer"), "\n")
	if !slices.Contains(lines, "Persistent=yes") || !slices.Contains(lines, "OnCalendar=daily") {
		t.Error("the timer does not make up for what was missed")
	}
	for _, line := range lines {
		if strings.Contains(line, "Random") || strings.HasPrefix(line, "AccuracySec=") {
			t.Errorf("the timer waits: %s", line)
		}
	}
}

// tolerated is what systemd before 253 says of the units.
var tolerated = regexp.MustCompile(`Failed to parse service type, ignoring: notify-reload`)

// TestUnitsVerify: systemd itself finds nothing wrong with any unit, once the
// programs are where it can see them.
func TestUnitsVerify(t *testing.T) {
	b := built(t)
	dir := t.TempDir()
	var units []string
	all, err := filepath.Glob("rpm/*.*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range manifest.Units {
		all = append(all, filepath.Join("systemd", name))
	}
	for _, file := range all {
		if !slices.Contains([]string{".service", ".timer", ".path"}, filepath.Ext(file)) {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range manifest.Programs {
			for _, end := range []string{"\n", " "} {
				text = []byte(strings.ReplaceAll(string(text), "/usr/sbin/"+d+end, filepath.Join(b.Out, "bin", runtime.GOARCH, d)+end))
			}
		}
		for from, to := range map[string]string{
			"=/usr/sbin/rpctls-cert-renew":      "=" + mustAbs(t, "scripts/rpctls-cert-renew"),
			"=/usr/libexec/rpctls/mount-switch": "=" + mustAbs(t, "rpm/mount-switch"),
		} {
			text = []byte(strings.ReplaceAll(string(text), from, to))
		}
		unit := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(unit, text, 0o644); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	if want := len(manifest.Units) + 2; len(units) != want {
		t.Errorf("%d units, want %d", len(units), want)
	}
	cmd := exec.Command("systemd-analyze", append([]string{"verify", "--man=no", "--recursive-errors=no"}, units...)...)
	out, err := cmd.CombinedOutput()
	var bad []string
	for line := range strings.Lines(string(out)) {
		// Of units of this machine it may say what it likes.
		if strings.Contains(line, dir) && !tolerated.MatchString(line) || strings.HasPrefix(line, "rpctls") {
			bad = append(bad, line)
		}
	}
	if len(bad) > 0 || err != nil && !tolerated.Match(out) {
		t.Errorf("systemd-analyze verify: %v\n%s\nall of it:\n%s", err, strings.Join(bad, ""), out)
	}
	// It does look: a unit that is wrong is found.
	wrong := filepath.Join(dir, "wrong.service")
	if err := os.WriteFile(wrong, fmt.Appendf(nil, "[Service]\nExecStart=%s/no-such-program\n", dir), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("systemd-analyze", "verify", "--man=no", wrong).CombinedOutput(); err == nil {
		t.Errorf("a unit without its program is found good: %s", out)
	}
}

// TestPresets: nothing that a user has to set up first is on by itself.
func TestPresets(t *testing.T) {
	text := readUnit(t, "rpctls.preset")
	for _, name := range manifest.Units {
		if name == "rpctls-cert-renew.service" { // the timer's
			continue
		}
		if !strings.Contains(text, "\ndisable "+name+"\n") {
			t.Errorf("no preset for %s", name)
		}
	}
	if strings.Contains("\n"+text, "\nenable ") {
		t.Error("a preset enables something")
	}
}
