// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// everywhere does something on several machines at once.
func (s *story) everywhere(t *testing.T, hosts []*host, f func(*testing.T, *host)) {
	t.Run("everywhere", func(t *testing.T) {
		for _, h := range hosts {
			t.Run(h.name, func(t *testing.T) {
				t.Parallel()
				f(t, h)
			})
		}
	})
	if t.Failed() {
		t.FailNow()
	}
}

const apt = "apt install ./rpctls_*.deb"

// install is the first of the commands, on every machine. It changes what mount
// does and starts nothing.
func (s *story) install(t *testing.T) {
	s.everywhere(t, s.all(), func(t *testing.T, h *host) {
		h.must(t, apt)
		s.installed(t, h, s.Old)
		for _, unit := range []string{"rpctlscd", "rpctlssd", "rpctls-cert-renew.timer"} {
			if said := h.run(t, "systemctl is-enabled "+unit+"; systemctl is-active "+unit).Stdout; said != "disabled\ninactive\n" {
				t.Errorf("%s: %s is %q after its installation", h.name, unit, said)
			}
		}
	})
	s.server.must(t, "systemd-analyze --man=no verify rpctlscd.service rpctlssd.service rpctls-cert-renew.timer")
}

// installed fails the test unless those packages are there, and whole.
func (s *story) installed(t *testing.T, h *host, debs Debs) {
	t.Helper()
	// rpctls_VERSION_ARCH.deb and rpctls_mount_VERSION_ARCH.deb.
	parts := strings.Split(filepath.Base(debs[0]), "_")
	version := parts[len(parts)-2]
	for _, name := range []string{"rpctls", "rpctls-mount"} {
		if got := h.must(t, "dpkg-query -W -f '${Status} ${Version}' "+name); got != "install ok installed "+version {
			t.Errorf("%s: %s is %q, want version %s", h.name, name, got, version)
		}
	}
	if said := h.must(t, "dpkg -V rpctls rpctls-mount"); said != "" {
		t.Errorf("%s: dpkg -V says\n%s", h.name, said)
	}
	if to := h.must(t, "for f in mount.nfs mount.nfs4 umount.nfs umount.nfs4; do readlink -f /sbin/$f; done | sort -u"); to != "/usr/sbin/mount.nfstls\n" {
		t.Errorf("%s: mount.nfs and its names lead to %s", h.name, to)
	}
}

// A mistake is a command that must fail, and what it must say.
type mistake struct {
	command string
	code    int
	words   []string
	// before makes the circumstances, after ends them.
	before, after string
}

// fill leaves no block on the root file system.
const fill = `
	fallocate -l $(( $(stat -f -c '%a * %S' /) - 4194304 )) /full.1
	dd if=/dev/zero of=/full.2 bs=4k 2>/dev/null
	dd if=/dev/zero of=/full.3 bs=1 count=4096 2>/dev/null
	[ "$(stat -f -c %a /)" = 0 ]`

// wrong: whatever is wrong is said, and nothing changes.
func (s *story) wrong(t *testing.T) {
	common := func(command, rest string) []mistake {
		return []mistake{
			{command: command + " --nonsense " + rest, code: 2, words: []string{"unknown option --nonsense", "hint: "}},
			{command: command, code: 2, words: []string{"hint: "}},
			{command: "runuser -u nobody -- " + command + " " + rest, code: 1, words: []string{"only root", "hint: "}},
			{command: command + " " + rest, code: 1, words: []string{"the clock is wrong", "1970-01-01", "hint: "},
				before: "date -s '1970-01-01 00:10:00'", after: "now"},
			{command: command + " " + rest, code: 1, words: []string{"no room", "/etc/rpctls", "hint: "},
				before: fill, after: "rm -f /full.*"},
			{command: command + " " + rest, code: 1, words: []string{"tlshd", "--replace-tlshd"},
				before: "rm /etc/systemd/system/tlshd.service; systemctl daemon-reload; systemctl start tlshd",
				after:  "systemctl stop tlshd; ln -s /dev/null /etc/systemd/system/tlshd.service; systemctl daemon-reload"},
			{command: command + " --import missing.pem", code: 1, words: []string{"missing.pem: no such file", "hint: "}},
		}
	}
	server := append(common("rpctls-server-setup", "nfs.example.com"),
		mistake{command: "rpctls-server-setup client1.example.com", code: 1, words: []string{"client1.example.com leads to 192.0.2.11", "hint: "}},
		mistake{command: "rpctls-server-setup nfs..example.com", code: 2, words: []string{"nfs..example.com"}},
	)
	client := append(common("rpctls-client-setup", "/etc/ssl/certs/ca-certificates.crt"),
		mistake{command: "rpctls-client-setup client1.bundle", code: 1, words: []string{"client1.bundle: no such file", "hint: "}},
		mistake{command: "rpctls-client-setup garbage", code: 1, words: []string{"garbage"}, before: "echo garbage >garbage", after: "rm garbage"},
	)
	t.Run("on both", func(t *testing.T) {
		for h, mistakes := range map[*host][]mistake{s.server: server, s.client1: client} {
			t.Run(h.name, func(t *testing.T) {
				t.Parallel()
				state := h.state(t)
				for _, m := range mistakes {
					state = h.unchanged(t, state, fmt.Sprintf("%q (after %q)", m.command, m.before), func() {
						if m.before != "" {
							h.must(t, m.before)
						}
						h.refused(t, m.code, m.command, m.words...)
						switch m.after {
						case "":
						case "now":
							h.must(t, fmt.Sprintf("date -s @%d", time.Now().Unix()))
						default:
							h.must(t, m.after)
						}
					})
				}
			})
		}
	})
}

var exportLine = regexp.MustCompile(`(?m)^\s*(/\S+ \S*\(.*xprtsec=tls:mtls.*\))$`)

// sixCommands are those of the README: as typed, and with what they print.
func (s *story) sixCommands(t *testing.T) {
	said := s.server.must(t, "rpctls-server-setup nfs.example.com")
	line := exportLine.FindStringSubmatch(said)
	if line == nil {
		t.Fatalf("rpctls-server-setup prints no line for /etc/exports:\n%s", said)
	}
	s.server.must(t, "cat >>/etc/exports <<'END'\n"+line[1]+"\nEND")
	s.server.must(t, "exportfs -ra")
	s.server.must(t, "rpctlsctl cert client client1.example.com")
	s.server.must(t, "rpctlsctl cert bundle client1.example.com -o client1.bundle")
	s.server.copyTo(t, s.client1, "client1.bundle", "client1.bundle")

	s.client1.must(t, "rpctls-client-setup client1.bundle")
	s.client1.must(t, "mount -o tls nfs.example.com:/export /mnt")

	s.encrypted(t, s.client1, "/mnt", "mtls")
	s.accepted(t, 0, s.client1, s.client1.fingerprint(t, "/etc/rpctls/client.pem"))
	for _, h := range []*host{s.server, s.client1} {
		for _, unit := range []string{"rpctlscd", "rpctlssd", "rpctls-cert-renew.timer"} {
			want := "enabled\nactive\n"
			if h == s.client1 && unit == "rpctlssd" {
				want = "disabled\ninactive\n"
			}
			if said := h.run(t, "systemctl is-enabled "+unit+"; systemctl is-active "+unit).Stdout; said != want {
				t.Errorf("%s: %s is %q, want %q", h.name, unit, said, want)
			}
		}
		keys := h.must(t, `find -L /etc/rpctls -type f \( -name '*.key' -o -name key.pem \) -printf '%m %u:%g %p\n'`)
		if keys == "" {
			t.Errorf("%s has no private key", h.name)
		}
		for key := range strings.Lines(keys) {
			if !strings.HasPrefix(key, "640 root:rpctls ") && !strings.HasPrefix(key, "600 root:root ") {
				t.Errorf("%s: others can read a private key: %s", h.name, key)
			}
		}
	}
}

// twice: done again, a setup changes nothing, and says so.
func (s *story) twice(t *testing.T) {
	for h, command := range map[*host]string{
		s.server: "rpctls-server-setup nfs.example.com", s.client1: "rpctls-client-setup client1.bundle",
	} {
		h.unchanged(t, h.state(t), command+" for the second time", func() {
			if said := h.must(t, command); !strings.Contains(said, "nothing was changed") {
				t.Errorf("%s# %s\n%s", h.name, command, said)
			}
		})
	}
}

// secondClient: first without a certificate, which an export may refuse, then
// with one of another name.
func (s *story) secondClient(t *testing.T) {
	s.server.copyTo(t, s.client2, "/etc/rpctls/ca/ca.pem", "ca.pem")
	s.client2.must(t, "rpctls-client-setup ca.pem")
	s.client2.must(t, "mount -o tls nfs.example.com:/export /mnt")
	s.encrypted(t, s.client2, "/mnt", "tls")
	s.client2.must(t, "umount /mnt")
	s.export(t, "mtls")
	s.client2.refused(t, 32, "mount -o tls nfs.example.com:/export /mnt", "hint: ")
	s.client2.refused(t, 32, "mount -o mtls nfs.example.com:/export /mnt", "certificate", "hint: ")
	// The first client is one that such an export wants.
	s.encrypted(t, s.client1, "/mnt", "mtls")

	s.server.must(t, "rpctlsctl cert client client2.example.com && rpctlsctl cert bundle client2.example.com -o client2.bundle")
	s.server.copyTo(t, s.client2, "client2.bundle", "client2.bundle")
	n := len(s.server.handshakes(t, "rpctlssd"))
	s.client2.must(t, "rpctls-client-setup client2.bundle")
	s.client2.must(t, "mount -o tls nfs.example.com:/export /mnt")
	s.encrypted(t, s.client2, "/mnt", "mtls")
	s.accepted(t, n, s.client2, s.client2.fingerprint(t, "/etc/rpctls/client.pem"))
	for _, h := range s.server.since(t, "rpctlssd", n, s.client2) {
		if !strings.Contains(h.Subject, "client2.example.com") {
			t.Errorf("the server knows client2 as %q", h.Subject)
		}
	}
	s.export(t, "tls:mtls")
}

// export sets what the export asks of clients.
func (s *story) export(t *testing.T, xprtsec string) {
	t.Helper()
	s.server.must(t, "sed -i 's/xprtsec=[a-z:]*/xprtsec="+xprtsec+"/' /etc/exports && exportfs -ra")
	if said := s.server.must(t, "exportfs -v"); !strings.Contains(said, "xprtsec="+xprtsec) {
		t.Fatalf("exportfs -v does not say xprtsec=%s:\n%s", xprtsec, said)
	}
}
