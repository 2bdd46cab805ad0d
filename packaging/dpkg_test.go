// SPDX-License-Identifier: BSD-3-Clause

package packaging_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/packaging/manifest"
)

// A machine is a copy of this one that costs nothing and may be written to; what
// happens in it is dpkg's own doing.
type machine struct {
	t   *testing.T
	dir string
}

// newMachine makes a machine. What is put into /srv of it is in dir/up/srv.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, for mounts and chroot")
	}
	m := &machine{t, t.TempDir()}
	for _, dir := range []string{"up/srv", "up/var/lib/dpkg/info", "up/var/lib/dpkg/updates", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(m.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// dpkg knows of one package, whatever this machine has: that is quick, too.
	if err := unix.Setxattr(filepath.Join(m.dir, "up/var/lib/dpkg"), "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		t.Skipf("no overlay file system here: %v", err)
	}
	m.put("var/lib/dpkg/status", "Package: systemd\nStatus: install ok installed\nMaintainer: nobody <nobody@example.com>\nArchitecture: "+runtime.GOARCH+"\nVersion: 254\nDescription: made up\n\n", 0o644)
	// Directories that are nobody's would go with the last file in them, and so
	// would the link that /sbin is.
	m.put("var/lib/dpkg/info/systemd.list", "/.\n/sbin\n/usr\n/usr/sbin\n/usr/bin/systemctl\n", 0o644)
	if out, err := m.try("true"); err != nil {
		t.Skipf("no overlay file system here: %v: %s", err, out)
	}
	return m
}

// within runs its arguments in the machine, in a mount namespace of their own.
// $1 is its directory.
const within = `set -e; cd "$1"; shift
mount -t overlay overlay -o lowerdir=/,upperdir=up,workdir=work root
mount --bind /proc root/proc
mount --bind /dev root/dev
mount -t tmpfs tmpfs root/run
if [ -e up/srv/systemd ]; then mkdir -p root/run/systemd/system; fi
exec chroot root "$@"`

// try runs a command line in the machine.
func (m *machine) try(script string) (string, error) {
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", within, "sh", m.dir, "sh", "-c", script)
	cmd.Env = []string{"PATH=/srv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "HOME=/root"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (m *machine) run(script string) string {
	m.t.Helper()
	out, err := m.try(script)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// put writes a file of the machine.
func (m *machine) put(name, text string, mode fs.FileMode) {
	m.t.Helper()
	write(m.t, filepath.Join(m.dir, "up", name), text, mode)
}

func write(t *testing.T, name, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

// light are our packages with programs that are empty: what dpkg does with them
// is the same, and done sooner.
var light = sync.OnceValues(func() (string, error) {
	b, err := build()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(dist, "light")
	for _, p := range manifest.Packages {
		script := fmt.Sprintf("set -e; mkdir -p %[1]s; dpkg-deb -R %[2]s %[1]s/x; cd %[1]s/x; for f in usr/sbin/*; do [ ! -f $f ] || [ $(stat -c %%s $f) -lt 1000000 ] || : >$f; done; dpkg-deb -Znone -b . ../%[3]s.deb; rm -r ../x",
			dir, deb(b, p, runtime.GOARCH), p.Name)
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	}
	return dir, nil
})

// addLight puts our packages into /srv, with empty programs, and nfs-common.
func (m *machine) addLight() {
	m.t.Helper()
	dir, err := light()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, p := range manifest.Packages {
		copyFile(m.t, filepath.Join(dir, p.Name+".deb"), filepath.Join(m.dir, "up/srv", p.Name+".deb"))
	}
	m.addNFSCommon()
}

// addPackages puts our packages into /srv, and nfs-common.
func (m *machine) addPackages() {
	m.t.Helper()
	b := built(m.t)
	for _, p := range manifest.Packages {
		copyFile(m.t, deb(b, p, runtime.GOARCH), filepath.Join(m.dir, "up/srv", p.Name+".deb"))
	}
	m.addNFSCommon()
}

// addNFSCommon puts nfs-common into /srv as it is before Debian 13 (in /sbin) and
// from then on: made up, of two versions each.
func (m *machine) addNFSCommon() {
	m.t.Helper()
	for version, dir := range map[string]string{"1": "usr/sbin", "2": "usr/sbin", "3": "sbin", "4": "sbin", "5": "usr/sbin"} {
		m.makeDeb("nfs-common", version, "", map[string]string{dir + "/mount.nfs": "#!/bin/sh\necho \"real helper " + version + " as ${0##*/}\"\n"}, map[string]string{
			dir + "/mount.nfs4": "mount.nfs", dir + "/umount.nfs": "mount.nfs", dir + "/umount.nfs4": "mount.nfs",
		})
	}
}

// makeDeb puts a package into /srv.
func (m *machine) makeDeb(name, version, preinst string, files, links map[string]string) {
	m.t.Helper()
	dir := filepath.Join(m.t.TempDir(), name)
	write(m.t, filepath.Join(dir, "DEBIAN/control"), fmt.Sprintf("Package: %s\nVersion: 9:%s\nArchitecture: all\nMaintainer: nobody <nobody@example.com>\nDescription: made up\n", name, version), 0o644)
	if preinst != "" {
		write(m.t, filepath.Join(dir, "DEBIAN/preinst"), preinst, 0o755)
	}
	for file, text := range files {
		write(m.t, filepath.Join(dir, file), text, fs.ModeSetuid|0o755) // as mount.nfs is
	}
	for link, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			m.t.Fatal(err)
		}
	}
	output(m.t, "dpkg-deb", "--root-owner-group", "--build", dir, filepath.Join(m.dir, "up/srv", name+"-"+version+".deb"))
}

const (
	installBoth = "dpkg -i /srv/rpctls.deb /srv/rpctls-mount.deb"
	look        = `cd /usr/sbin; for f in mount.nfs* umount.nfs*; do
	if [ -L $f ]; then echo "$f -> $(readlink $f)"; else echo "$f $(stat -c %a $f)"; fi; done; dpkg-divert --list '*mount.nfs*' | sort`
)

// diverted checks that mount.nfs leads to mount.nfstls, and the helper of that
// version is where mount.nfstls looks.
func (m *machine) diverted(version string) {
	m.t.Helper()
	got := m.run(look)
	for _, want := range []string{"mount.nfs -> mount.nfstls\n", "mount.nfs.rpctls-real 4755\n", "mount.nfs4 -> mount.nfs\n"} {
		if !strings.Contains("\n"+got, "\n"+want) {
			m.t.Errorf("no %q in\n%s", want, got)
		}
	}
	if n := strings.Count(got, "diversion of"); n != 2 {
		m.t.Errorf("%d diversions, want 2:\n%s", n, got)
	}
	if strings.Contains(got, "rpctls-real.usr-is-merged 4755") || strings.Contains(got, "rpctls-new") {
		m.t.Errorf("something is left over:\n%s", got)
	}
	if got := m.run("/usr/sbin/mount.nfs.rpctls-real"); !strings.HasPrefix(got, "real helper "+version+" ") {
		m.t.Errorf("the helper is %q, want version %s", got, version)
	}
	if got := m.run("readlink -f /sbin/umount.nfs4"); got != "/usr/sbin/mount.nfstls\n" {
		m.t.Errorf("umount.nfs4 leads to %q", got)
	}
	m.whole()
}

// plain checks that nothing of rpctls-mount is to be seen.
func (m *machine) plain(version string) {
	m.t.Helper()
	got := m.run(look)
	if strings.Contains(got, "rpctls-real") || strings.Contains(got, "rpctls-new") || strings.HasPrefix(got, "mount.nfs -> ") || strings.Contains(got, "diversion of") {
		m.t.Errorf("something is left over:\n%s", got)
	}
	if version == "" {
		if strings.Contains(got, "mount.nfs 4755") {
			m.t.Errorf("there is a helper:\n%s", got)
		}
		return
	}
	if got := m.run("/sbin/mount.nfs4"); got != "real helper "+version+" as mount.nfs4\n" {
		m.t.Errorf("the helper is %q, want version %s", got, version)
	}
	m.whole()
}

// whole checks that dpkg has nothing to complain of.
func (m *machine) whole() {
	m.t.Helper()
	if got := m.run("dpkg --audit rpctls rpctls-mount nfs-common 2>&1 || true"); strings.Contains(got, "following packages") {
		m.t.Errorf("dpkg --audit: %s", got)
	}
}

// newDiverted is a machine with everything installed.
func newDiverted(t *testing.T, nfsCommon string) *machine {
	t.Helper()
	m := newMachine(t)
	m.addLight()
	m.run("dpkg -i /srv/nfs-common-" + nfsCommon + ".deb")
	m.run(installBoth)
	m.diverted(nfsCommon)
	return m
}

func TestDiversion(t *testing.T) {
	built(t)
	t.Parallel()
	t.Run("upgrades", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "1")
		m.run("dpkg -i /srv/nfs-common-2.deb")
		m.diverted("2")
		m.run(installBoth)
		m.diverted("2")
		m.run("dpkg -r rpctls rpctls-mount")
		m.plain("2")
		m.run("dpkg -i /srv/nfs-common-1.deb")
		m.plain("1")
	})
	t.Run("nfs-common moves", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "2")
		for _, version := range []string{"3", "4", "5", "3"} {
			// Until triggers run the helper is in one of two places.
			m.run("dpkg --no-triggers -i /srv/nfs-common-" + version + ".deb")
			if got := m.run("cd /usr/sbin; for f in mount.nfs.rpctls-real mount.nfs.rpctls-real.usr-is-merged; do [ ! -x $f ] || ./$f; done"); !strings.Contains(got, "real helper "+version+" ") {
				t.Errorf("version %s is not there: %q", version, got)
			}
			m.run("dpkg --triggers-only --pending")
			m.diverted(version)
		}
		m.run("dpkg -P rpctls-mount")
		m.plain("3")
	})
	t.Run("before Debian 13", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "3")
		m.run("dpkg -i /srv/nfs-common-4.deb")
		m.diverted("4")
		m.run("dpkg -r rpctls-mount")
		m.plain("4")
	})
	t.Run("an upgrade fails", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "1")
		// As ours, and its preinst fails.
		m.run("dpkg-deb -R /srv/rpctls-mount.deb /srv/x && printf '#!/bin/sh\\nexit 1\\n' >/srv/x/DEBIAN/preinst && chmod 755 /srv/x/DEBIAN/preinst && dpkg-deb -b /srv/x /srv/bad.deb")
		if out, err := m.try("dpkg -i /srv/bad.deb"); err == nil {
			t.Fatalf("it did not fail: %s", out)
		}
		m.diverted("1")
		// So does the old one's prerm, and then the new one's.
		m.run("printf '#!/bin/sh\\nexit 1\\n' | tee /var/lib/dpkg/info/rpctls-mount.prerm >/srv/x/DEBIAN/prerm; rm /srv/x/DEBIAN/preinst; dpkg-deb -b /srv/x /srv/bad.deb")
		if out, err := m.try("dpkg -i /srv/bad.deb"); err == nil {
			t.Fatalf("it did not fail: %s", out)
		}
		m.diverted("1")
		m.run("dpkg-deb --control /srv/rpctls-mount.deb /srv/y; cp /srv/y/prerm /var/lib/dpkg/info/rpctls-mount.prerm")
		m.run(installBoth)
		m.diverted("1")
	})
	t.Run("unpacked only", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t)
		m.addLight()
		m.run("dpkg -i /srv/nfs-common-1.deb && dpkg --unpack /srv/rpctls-mount.deb")
		m.run("! [ -L /usr/sbin/mount.nfs ]")
		if out, err := m.try("dpkg --configure rpctls-mount"); err == nil {
			t.Errorf("configured without rpctls: %s", out)
		}
		m.run("dpkg -r rpctls-mount")
		m.plain("1")
	})
	t.Run("unpacked over a configured one, and removed", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "1")
		m.run("dpkg --unpack /srv/rpctls-mount.deb && dpkg -r rpctls-mount")
		m.plain("1")
	})
	t.Run("interrupted", func(t *testing.T) {
		t.Parallel()
		// Whatever step was the last one, doing it again goes on from there.
		m := newDiverted(t, "1")
		for _, damage := range []string{
			"rm /usr/sbin/mount.nfs; ln /usr/sbin/mount.nfs.rpctls-real /usr/sbin/mount.nfs",
			"rm /usr/sbin/mount.nfs",
			"dpkg-divert --no-rename --remove /usr/sbin/mount.nfs; dpkg-divert --no-rename --remove /sbin/mount.nfs",
			"dpkg-divert --no-rename --remove /usr/sbin/mount.nfs; mv /usr/sbin/mount.nfs.rpctls-real /usr/sbin/mount.nfs",
			"ln -s x /usr/sbin/mount.nfs.rpctls-new; cp /usr/sbin/mount.nfs.rpctls-real /usr/sbin/mount.nfs.rpctls-real.rpctls-new",
		} {
			m.run(damage)
			m.run(installBoth)
			m.diverted("1")
			m.run(damage)
			m.run("dpkg -r rpctls-mount")
			m.plain("1")
			m.run(installBoth)
		}
	})
	t.Run("diverted by somebody else", func(t *testing.T) {
		t.Parallel()
		m := newMachine(t)
		m.addLight()
		m.run("dpkg -i /srv/nfs-common-1.deb && dpkg-divert --local --rename --divert /usr/sbin/mount.nfs.mine --add /usr/sbin/mount.nfs")
		out, err := m.try(installBoth)
		if err == nil || !strings.Contains(out, "rpctls-mount: /usr/sbin/mount.nfs is diverted already") {
			t.Errorf("%v: %s", err, out)
		}
		m.run("dpkg -r rpctls-mount; [ -x /usr/sbin/mount.nfs.mine ] && dpkg-divert --rename --remove /usr/sbin/mount.nfs")
		m.plain("1")
	})
	t.Run("replaced by an administrator", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "1")
		m.run("rm /usr/sbin/mount.nfs; printf '#!/bin/sh\\necho mine\\n' >/usr/sbin/mount.nfs; chmod 755 /usr/sbin/mount.nfs")
		out := m.run("dpkg -r rpctls-mount")
		if n := strings.Count(out, "rpctls-mount: /usr/sbin/mount.nfs was replaced and is left as it is; that of nfs-common is /usr/sbin/mount.nfs.nfs-common\nhint: "); n != 1 {
			t.Errorf("said %d times:\n%s", n, out)
		}
		if got := m.run("mount.nfs; /usr/sbin/mount.nfs.nfs-common; dpkg-divert --list '*mount.nfs*'"); got != "mine\nreal helper 1 as mount.nfs.nfs-common\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("nfs-common goes first", func(t *testing.T) {
		t.Parallel()
		m := newDiverted(t, "1")
		if out, err := m.try("dpkg -r nfs-common"); err == nil {
			t.Errorf("removed from under us: %s", out)
		}
		m.run("dpkg -r --force-depends nfs-common; dpkg -r rpctls-mount")
		m.plain("")
	})
}

// TestLife: what the other package does and leaves to the administrator.
func TestLife(t *testing.T) {
	built(t)
	t.Parallel()
	m := newMachine(t)
	m.addPackages()
	m.run("dpkg -i /srv/nfs-common-1.deb")
	// A service manager that is asked, and told, and writes it down.
	m.put("srv/systemd", "", 0o644)
	m.put("srv/bin/systemctl", `#!/bin/sh
case $1 in
is-active) shift; [ "$1" = --quiet ] && shift; grep -qx "$1" /srv/active; exit ;;
is-enabled) shift; [ "$1" = --quiet ] && shift; [ -L "/etc/systemd/system/multi-user.target.wants/$1" ]; exit ;;
esac
echo "systemctl $*" >>/srv/log
`, 0o755)
	m.put("srv/bin/deb-systemd-invoke", "#!/bin/sh\necho \"invoke $*\" >>/srv/log\n", 0o755)
	m.put("srv/active", "tlshd.service\n", 0o644)
	log := func() []string {
		text := m.run("cat /srv/log 2>/dev/null; rm -f /srv/log")
		return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	}

	out := m.run(installBoth)
	for _, want := range []string{"rpctls: next: rpctls-server-setup NAME, or rpctls-client-setup FILE\n", "rpctls: tlshd is running", "hint: systemctl disable --now tlshd\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("installing does not say %q:\n%s", want, out)
		}
	}
	if got := log(); !slices.Equal(got, []string{"systemctl daemon-reload"}) {
		t.Errorf("installing does %q: nothing is started or enabled", got)
	}
	m.run("getent passwd rpctls && getent group rpctls && [ \"$(stat -c %a:%U:%G /etc/rpctls)\" = 755:root:root ]")
	m.run("! ls /etc/systemd/system/*/rpctls* 2>/dev/null")

	// As the setup commands and an administrator leave it.
	m.run(`cd /etc/rpctls && mkdir ca && echo key >server.key && echo key >ca/ca.key && echo x >rpctlscd.d/10-setup.toml && echo '# y' >rpctlssd.d/20-mine.toml
echo '# mine' >>rpctlscd.toml
for u in rpctlscd.service rpctlssd.service; do ln -s /usr/lib/systemd/system/$u /etc/systemd/system/multi-user.target.wants/; done`)
	m.put("srv/active", "rpctlscd.service\nrpctls-cert-renew.timer\n", 0o644)
	// With what is wrong there the new program would not start.
	out = m.run(installBoth)
	if got, want := log(), []string{"systemctl daemon-reload", "invoke restart rpctls-cert-renew.timer"}; !slices.Equal(got, want) {
		t.Errorf("an upgrade with a bad configuration does %q, want %q: the old program goes on", got, want)
	}
	for _, want := range []string{
		"rpctls: rpctlscd.service was not restarted, and goes on as it was: rpctlscd: as user rpctls: /etc/rpctls/rpctlscd.d/10-setup.toml:1:",
		"\nhint: mend that (rpctlscd -check), then systemctl restart rpctlscd.service\n",
		"rpctls: rpctlssd.service is enabled and does not run\nhint: systemctl start rpctlssd.service\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	m.run("echo 'trust = \"system\"' >/etc/rpctls/rpctlscd.d/10-setup.toml")
	out = m.run(installBoth)
	if got, want := log(), []string{"systemctl daemon-reload", "invoke restart rpctlscd.service", "invoke restart rpctls-cert-renew.timer"}; !slices.Equal(got, want) {
		t.Errorf("an upgrade does %q, want %q: what runs is restarted, and never stopped\n%s", got, want, out)
	}
	m.run("grep -q '# mine' /etc/rpctls/rpctlscd.toml && [ ! -e /etc/rpctls/rpctlscd.toml.dpkg-new ]")

	// Away and back again, as long as /run is the same.
	const forget = "systemctl reset-failed rpctlscd.service rpctlssd.service rpctls-cert-renew.service rpctls-exporter.service"
	m.run("dpkg -r rpctls-mount rpctls && " + installBoth + " && ! [ -e /run/rpctls.stopped ]")
	if got, want := log(), []string{
		"invoke stop rpctls-cert-renew.timer", "invoke stop rpctlscd.service", "systemctl daemon-reload", forget,
		"systemctl daemon-reload", "invoke restart rpctlscd.service", "invoke restart rpctls-cert-renew.timer",
		"invoke start rpctls-cert-renew.timer", "invoke start rpctlscd.service",
	}; !slices.Equal(got, want) {
		t.Errorf("removing and installing does %q, want %q", got, want)
	}
	m.run("dpkg -r rpctls-mount rpctls")
	if got, want := log(), []string{"invoke stop rpctls-cert-renew.timer", "invoke stop rpctlscd.service", "systemctl daemon-reload", forget}; !slices.Equal(got, want) {
		t.Errorf("removal does %q, want %q", got, want)
	}
	m.run("[ -e /etc/rpctls/server.key ] && [ -e /etc/rpctls/rpctlscd.d/10-setup.toml ] && grep -q '# mine' /etc/rpctls/rpctlscd.toml")

	// Installed again after a boot: nothing is started that may have been stopped
	// on purpose.
	m.put("srv/active", "", 0o644)
	out = m.run(installBoth)
	if got := log(); !slices.Equal(got, []string{"systemctl daemon-reload"}) {
		t.Errorf("installing again does %q", got)
	}
	for _, unit := range daemons {
		if !strings.Contains(out, "rpctls: "+unit+".service is enabled and does not run\nhint: systemctl start "+unit+".service\n") {
			t.Errorf("installing again does not say that %s does not run:\n%s", unit, out)
		}
	}
	m.run("dpkg -r rpctls-mount rpctls; rm /srv/log")

	out = m.run("dpkg -P rpctls-mount rpctls")
	if !strings.Contains(out, "keys and certificates stay in /etc/rpctls") {
		t.Errorf("purge does not say what stays:\n%s", out)
	}
	want := "/etc/rpctls\n/etc/rpctls/ca\n/etc/rpctls/ca/ca.key\n/etc/rpctls/rpctlssd.d\n/etc/rpctls/rpctlssd.d/20-mine.toml\n/etc/rpctls/server.key\n"
	if got := m.run("find /etc/rpctls | sort"); got != want {
		t.Errorf("purge leaves\n%swant\n%s", got, want)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Dir(filepath.Dir(here)) // this checkout, and what is beside it
	if got := m.run("find / -xdev -name '*rpctls*' -not -path '/srv/*' -not -path '/etc/rpctls*' -not -path '/root/*' -not -path '/tmp/*' -not -path '" + beside + "/*' -newer /srv/active 2>/dev/null || true"); got != "" {
		t.Errorf("purge leaves\n%s", got)
	}
	// Without keys nothing is left, and nothing is said.
	m.run(installBoth)
	m.run("rm -r /etc/rpctls/ca /etc/rpctls/server.key /etc/rpctls/rpctlssd.d/20-mine.toml")
	if out := m.run("dpkg -P rpctls-mount rpctls; ! [ -e /etc/rpctls ]"); strings.Contains(out, "stay") {
		t.Errorf("purge says %s", out)
	}
	m.plain("1")
}

// TestRPM: the same life by rpm itself, as far as its scriptlets go.
func TestRPM(t *testing.T) {
	b := built(t)
	t.Parallel()
	m := newMachine(t)
	for _, p := range manifest.Packages {
		copyFile(t, rpm(b, p, runtime.GOARCH), filepath.Join(m.dir, "up/srv", p.Name+".rpm"))
	}
	m.put("srv/systemd", "", 0o644)
	// rpm has a PATH of its own.
	m.put("usr/bin/systemctl", "#!/bin/sh\n[ $1 = is-active ] && exit 1\necho \"$*\" >>/srv/log\n", 0o755)
	m.put("usr/sbin/mount.nfs", "#!/bin/sh\necho real helper\n", fs.ModeSetuid|0o755)
	log := func() string { return m.run("cat /srv/log 2>/dev/null; rm -f /srv/log") }
	const packages = "/srv/rpctls.rpm /srv/rpctls-mount.rpm"
	out := m.run("rpm -i --nodeps " + packages)
	if !strings.Contains(out, "rpctls: next: rpctls-server-setup NAME") || strings.Contains(out, "warning: %post") {
		t.Errorf("installing says %q", out)
	}
	if got, want := log(), "--no-reload preset rpctlscd.service rpctlssd.service rpctls-cert-renew.timer rpctls-exporter.service\ndaemon-reload\n"+
		"--no-reload preset rpctls-mount.path rpctls-mount.service\ndaemon-reload\nstart rpctls-mount.path\n"; got != want {
		t.Errorf("installing does\n%swant\n%s", got, want)
	}
	switched := func() {
		t.Helper()
		if got := m.run("readlink /usr/sbin/mount.nfs; /usr/sbin/mount.nfs.rpctls-real; stat -c %a /usr/sbin/mount.nfs.rpctls-real"); got != "mount.nfstls\nreal helper\n4755\n" {
			t.Errorf("mount.nfs is %q", got)
		}
	}
	switched()
	m.run("getent passwd rpctls; echo '# mine' >>/etc/rpctls/rpctlscd.toml; echo key >/etc/rpctls/server.key; echo x >/etc/rpctls/rpctlscd.d/10-setup.toml")
	// The same version again, as an upgrade.
	m.run("rpm -U --nodeps --force " + packages)
	switched()
	if got, want := log(), "daemon-reload\ndaemon-reload\ntry-restart rpctls-mount.path\ndaemon-reload\n"; got != want {
		t.Errorf("an upgrade does\n%swant\n%s", got, want)
	}
	m.run("grep -q '# mine' /etc/rpctls/rpctlscd.toml")
	out = m.run("rpm -e rpctls-mount rpctls")
	if !strings.Contains(out, "keys and certificates stay in /etc/rpctls") {
		t.Errorf("removing says %q", out)
	}
	if got, want := log(), "--no-reload disable rpctls-mount.path rpctls-mount.service\nstop rpctls-mount.path rpctls-mount.service\n"+
		"--no-reload disable rpctls-exporter.service rpctls-cert-renew.timer rpctlssd.service rpctlscd.service\nstop rpctls-exporter.service rpctls-cert-renew.timer rpctlssd.service rpctlscd.service\ndaemon-reload\n"; got != want {
		t.Errorf("removing does\n%swant\n%s", got, want)
	}
	if got, want := m.run("ls /usr/sbin/mount.nfs*; /usr/sbin/mount.nfs; find /etc/rpctls -type f | sort"),
		"/usr/sbin/mount.nfs\nreal helper\n/etc/rpctls/rpctlscd.toml.rpmsave\n/etc/rpctls/server.key\n"; got != want {
		t.Errorf("removing leaves\n%swant\n%s", got, want)
	}
}

// TestScriptlets: what rpm runs, with and without a systemd that runs.
func TestScriptlets(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	for _, name := range []string{"rpctls.post", "rpctls.preun", "rpctls.postun", "rpctls-mount.post", "rpctls-mount.preun"} {
		copyFile(t, filepath.Join("rpm", name), filepath.Join(m.dir, "up/srv", name))
	}
	m.put("usr/libexec/rpctls/mount-switch", "#!/bin/sh\n", 0o755)
	for _, name := range []string{"systemd-sysusers", "systemd-tmpfiles"} {
		m.put("srv/bin/"+name, "#!/bin/sh\n", 0o755)
	}
	m.put("srv/bin/systemctl", "#!/bin/sh\ncase $1 in is-active) grep -qx \"$3\" /srv/active; exit ;; esac\necho \"$*\" >>/srv/log\n", 0o755)
	m.put("srv/active", "rpctlssd.service\nrpctlscd.service\n", 0o644)
	m.put("usr/sbin/rpctlssd", "#!/bin/sh\n[ \"$*\" = -check ]\n", 0o755)
	m.put("usr/sbin/rpctlscd", "#!/bin/sh\n[ \"$*\" = -check ] && echo 'rpctlscd: warning: x' >&2 && echo 'rpctlscd: bad' >&2\nexit 1\n", 0o755)
	does := func(scriptlet string, want ...string) string {
		t.Helper()
		out := m.run("sh -e /srv/" + scriptlet)
		if got := strings.Split(strings.TrimSuffix(m.run("cat /srv/log 2>/dev/null; rm -f /srv/log"), "\n"), "\n"); !slices.Equal(got, want) {
			t.Errorf("%s does %q, want %q", scriptlet, got, want)
		}
		return out
	}
	const daemons, renew, exporter, both = "rpctlscd.service rpctlssd.service", "rpctls-cert-renew.timer", "rpctls-exporter.service", "rpctls-mount.path rpctls-mount.service"
	// In an image that is being made
	does("rpctls.post 1", "--no-reload preset "+daemons+" "+renew+" "+exporter)
	does("rpctls-mount.post 1", "--no-reload preset "+both)
	does("rpctls-mount.preun 0", "--no-reload disable "+both)
	does("rpctls.preun 0", "--no-reload disable "+exporter+" "+renew+" rpctlssd.service rpctlscd.service")
	// On a system that runs
	m.put("srv/systemd", "", 0o644)
	does("rpctls.post 1", "--no-reload preset "+daemons+" "+renew+" "+exporter, "daemon-reload")
	does("rpctls-mount.post 1", "--no-reload preset "+both, "daemon-reload", "start rpctls-mount.path")
	does("rpctls.post 2", "daemon-reload")
	does("rpctls-mount.post 2", "daemon-reload", "try-restart rpctls-mount.path")
	// Of two daemons one would not start again.
	out := does("rpctls.postun 1", "daemon-reload", "try-restart rpctlssd.service")
	if want := "rpctls: rpctlscd.service was not restarted, and goes on as it was: rpctlscd: bad\nhint: mend that (rpctlscd -check), then systemctl restart rpctlscd.service\n"; out != want {
		t.Errorf("an upgrade says %q, want %q", out, want)
	}
	does("rpctls.preun 0", "--no-reload disable "+exporter+" "+renew+" rpctlssd.service rpctlscd.service", "stop "+exporter+" "+renew+" rpctlssd.service rpctlscd.service")
}

// TestMountSwitch is what rpm has instead of a diversion.
func TestMountSwitch(t *testing.T) {
	m := newMachine(t)
	copyFile(t, "rpm/mount-switch", filepath.Join(m.dir, "up/srv/switch"))
	helper := func(version string) {
		// As rpm does: beside it, and then renamed over it.
		m.run("printf '#!/bin/sh\\necho real helper " + version + "\\n' >/usr/sbin/mount.nfs.new && chmod 4755 /usr/sbin/mount.nfs.new && mv /usr/sbin/mount.nfs.new /usr/sbin/mount.nfs")
	}
	state := func() string {
		return m.run(`cd /usr/sbin; ls mount.nfs* | grep -v nfstls | tr '\n' ' '; readlink mount.nfs; [ ! -x mount.nfs.rpctls-real ] || ./mount.nfs.rpctls-real; stat -Lc %a mount.nfs.rpctls-real 2>/dev/null; true`)
	}
	on := func(version string) {
		t.Helper()
		again := false
		for range 2 {
			before := m.run("stat -c %Y.%z /usr/sbin")
			m.run("/srv/switch on")
			if after := m.run("stat -c %Y.%z /usr/sbin"); again && after != before {
				t.Errorf("on, again: something was done in the directory, and rpctls-mount.path would see it")
			}
			again = true
			if got, want := state(), "mount.nfs mount.nfs.rpctls-real mount.nfstls\nreal helper "+version+"\n4755\n"; got != want {
				t.Errorf("on: %q, want %q", got, want)
			}
		}
	}
	off := func(version string) {
		t.Helper()
		for range 2 {
			m.run("/srv/switch off")
			if got, want := state(), "mount.nfs "; got != want {
				t.Errorf("off: %q, want %q", got, want)
			}
			if got, want := m.run("/usr/sbin/mount.nfs"), "real helper "+version+"\n"; got != want {
				t.Errorf("off: the helper is %q, want %q", got, want)
			}
		}
	}
	helper("1")
	if out, err := m.try("/srv/switch on"); err == nil {
		t.Errorf("without mount.nfstls: %s", out)
	}
	m.put("usr/sbin/mount.nfstls", "#!/bin/sh\n", 0o755)
	on("1")
	helper("2")
	on("2")
	helper("3")
	off("3")
	on("3")
	off("3")
	if _, err := m.try("/srv/switch"); err == nil || err.(*exec.ExitError).ExitCode() != 2 {
		t.Errorf("without an argument: %v", err)
	}
	m.run("/srv/switch on; rm /usr/sbin/mount.nfs.rpctls-real")
	if out, err := m.try("/srv/switch on"); err == nil || !strings.Contains(out, "hint: ") {
		t.Errorf("without the helper: %v: %s", err, out)
	}
}
