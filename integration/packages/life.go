// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"fmt"
	"strings"
	"testing"
)

// reboot: first the server, under a mount that is written to, then a client,
// whose mounts come back by fstab.
func (s *story) reboot(t *testing.T) {
	s.written(t, s.client1, "/mnt", func() {
		if err := s.server.Reboot(); err != nil {
			t.Fatal(err)
		}
		s.running(t, s.server)
	})
	s.encrypted(t, s.client1, "/mnt", "mtls")

	s.client1.must(t, `
		umount /mnt
		mkdir -p /tls /auto
		cat >>/etc/fstab <<'END'
nfs.example.com:/export /mnt nfs tls 0 0
nfs.example.com:/export /tls nfstls tls,_netdev 0 0
nfs.example.com:/export /auto nfs tls,_netdev,x-systemd.automount 0 0
END`)
	if err := s.client1.Reboot(); err != nil {
		t.Fatal(err)
	}
	s.running(t, s.client1)
	s.encrypted(t, s.client1, "/mnt", "mtls")
	s.encrypted(t, s.client1, "/tls", "mtls")
	if said := s.client1.run(t, "findmnt -rn -t nfs,nfs4 /auto").Stdout; said != "" {
		t.Errorf("/auto is mounted before anybody has looked: %s", said)
	}
	s.client1.must(t, "ls /auto")
	s.encrypted(t, s.client1, "/auto", "mtls")
	s.accepted(t, 0, s.client1, s.client1.fingerprint(t, "/etc/rpctls/client.pem"))
}

// upgrade: to the next build, on both ends of a mount that is written to. The
// second client stays with the former one.
func (s *story) upgrade(t *testing.T) {
	const local = "/etc/rpctls/rpctls*.toml /etc/rpctls/rpctls*.d/*.toml"
	hosts := []*host{s.client1, s.server}
	unit := map[*host]string{s.client1: "rpctlscd", s.server: "rpctlssd"}
	before := make(map[*host]string)
	for _, h := range hosts {
		h.must(t, fmt.Sprintf(`
			echo '# a remark of the administrator' >>/etc/rpctls/%[1]s.toml
			echo 'log_level = "debug"' >/etc/rpctls/%[1]s.d/50-local.toml
			systemctl reload %[1]s
			rm rpctls_*.deb`, unit[h]))
		for _, deb := range s.New {
			s.send(t, h, deb)
		}
		before[h] = h.must(t, "sha256sum "+local) + h.pid(t, unit[h])
	}
	connects := s.client1.connects(t, "/mnt")
	s.written(t, s.client1, "/mnt", func() {
		for _, h := range hosts {
			h.must(t, apt)
		}
		if now := s.client1.connects(t, "/mnt"); now != connects {
			t.Errorf("the upgrade cost the mount its connection: made %s times, before %s", now, connects)
		}
		// What comes from here on, the new daemons do.
		n := len(s.server.handshakes(t, "rpctlssd"))
		s.cut(t, s.client1)
		s.client1.eventually(t, "the connection to be back", "ss -tnieHO state established '( dport = :2049 )' | grep tcp-ulp-tls")
		s.accepted(t, n, s.client1, s.client1.fingerprint(t, "/etc/rpctls/client.pem"))
	})
	s.encrypted(t, s.client1, "/mnt", "mtls")
	for _, h := range hosts {
		after := h.must(t, "sha256sum "+local) + h.pid(t, unit[h])
		b, a := strings.Split(before[h], "\n"), strings.Split(after, "\n")
		if strings.Join(b[:len(b)-1], "\n") != strings.Join(a[:len(a)-1], "\n") {
			t.Errorf("%s: the upgrade has changed local configuration:\n%s", h.name, difference(before[h], after))
		}
		if b[len(b)-1] == a[len(a)-1] {
			t.Errorf("%s: %s is the old process still", h.name, unit[h])
		}
		if exe := h.must(t, "readlink /proc/"+h.pid(t, unit[h])+"/exe"); exe != "/usr/sbin/"+unit[h]+"\n" {
			t.Errorf("%s: %s runs %s", h.name, unit[h], exe)
		}
		h.must(t, "rm /etc/rpctls/"+unit[h]+".d/50-local.toml && systemctl reload "+unit[h])
	}
	for _, h := range hosts {
		// So that dpkg -V has nothing to say about what we wrote.
		h.must(t, "sed -i '/^# a remark of the administrator$/d' /etc/rpctls/"+unit[h]+".toml")
		s.installed(t, h, s.New)
	}
}

// cut ends a client's connections to the server, as a network that forgot them.
func (s *story) cut(t *testing.T, client *host) {
	t.Helper()
	if said := client.must(t, "ss -K -tnHO state established '( dport = :2049 )'"); said == "" {
		t.Fatalf("%s: there was no connection to cut", client.name)
	}
}

// later sets the clocks of all machines forward.
func (s *story) later(t *testing.T, days int) {
	t.Helper()
	for _, h := range s.all() {
		h.must(t, fmt.Sprintf("date -s @$(( $(date +%%s) + %d * 86400 ))", days))
	}
}

// renew: two months later the timer renews what the server's CA has issued for
// the server, and the CRL, which has run out; a client gets a new bundle. The
// mount goes on all the time.
func (s *story) renew(t *testing.T) {
	oldServer := s.server.fingerprint(t, "/etc/rpctls/server.pem")
	oldClient := s.client1.fingerprint(t, "/etc/rpctls/client.pem")
	pids := s.server.pid(t, "rpctlssd") + " " + s.client1.pid(t, "rpctlscd")
	connects := s.client1.connects(t, "/mnt")
	longest := s.written(t, s.client1, "/mnt", func() {
		s.later(t, 61)
		s.server.eventually(t, "the timer to renew", "journalctl --sync; journalctl -b -q -o cat -u rpctls-cert-renew.service | grep '^Finished'")
		newServer := s.server.fingerprint(t, "/etc/rpctls/server.pem")
		if newServer == oldServer {
			t.Fatal("the server's certificate was not renewed")
		}
		// The daemon looks at its files every five seconds.
		s.client2.must(t, "umount /mnt")
		n := len(s.client2.handshakes(t, "rpctlscd"))
		s.client2.eventually(t, "a mount with the new CRL", "mount -o tls nfs.example.com:/export /mnt")
		s.encrypted(t, s.client2, "/mnt", "mtls")
		s.client2.accepted(t, "rpctlscd", n, s.server, newServer)
		// A client has no CA: its timer can only say so.
		s.client1.refused(t, 1, "rpctls-cert-renew", "client: until", "issued by CN=rpctls CA of nfs.example.com")

		s.server.must(t, "rpctlsctl cert renew client1.example.com && rpctlsctl cert bundle client1.example.com -o client1.bundle --force")
		s.server.copyTo(t, s.client1, "client1.bundle", "client1.bundle")
		s.client1.must(t, "rpctls-client-setup client1.bundle")
		newClient := s.client1.fingerprint(t, "/etc/rpctls/client.pem")
		if newClient == oldClient {
			t.Fatal("the client's certificate was not renewed")
		}
		n = len(s.server.handshakes(t, "rpctlssd"))
		// Another version of the protocol is another connection.
		s.client1.must(t, "mkdir -p /new && mount -o tls,vers=4.1 nfs.example.com:/export /new")
		s.encrypted(t, s.client1, "/new", "mtls")
		s.accepted(t, n, s.client1, newClient)
		s.client1.must(t, "umount /new")
	})
	if now := s.client1.connects(t, "/mnt"); now != connects {
		t.Errorf("the mount's connection was made %s times, before %s", now, connects)
	}
	if now := s.server.pid(t, "rpctlssd") + " " + s.client1.pid(t, "rpctlscd"); now != pids {
		t.Errorf("daemons were restarted: %s, before %s", now, pids)
	}
	// A connection that is made again takes seconds at least, and a write that
	// waits for one as well. A busy host takes its time, too.
	if longest > 10 {
		t.Errorf("a write took %.1fs", longest)
	}
}

// certName: two identities on one client, for one server.
func (s *story) certName(t *testing.T) {
	s.server.must(t, "rpctlsctl cert client backup.example.com && rpctlsctl cert bundle backup.example.com -o backup.bundle")
	s.server.copyTo(t, s.client1, "backup.bundle", "backup.bundle")
	s.client1.must(t, "rpctls-client-setup --as backup backup.bundle")
	s.client1.must(t, "mkdir -p /backup")
	usual, backup := s.client1.fingerprint(t, "/etc/rpctls/client.pem"), s.client1.fingerprint(t, "/etc/rpctls/backup.pem")
	if usual == backup {
		t.Fatal("the two identities are one")
	}
	s.client1.refused(t, 32, "mount -o tlscertname=nosuch nfs.example.com:/export /backup", "nosuch", "hint: ")

	n := len(s.server.handshakes(t, "rpctlssd"))
	const mount = "mount -o tlscertname=backup nfs.example.com:/export /backup"
	if s.Kernel == "6.12" {
		// It cannot say which mount a connection is for.
		s.client1.refused(t, 32, mount, "nfs.example.com", "hint: ")
		s.client1.must(t, "umount -a -t nfs,nfs4")
		s.client1.must(t, mount)
		s.encrypted(t, s.client1, "/backup", "mtls")
		s.accepted(t, n, s.client1, backup)
		s.client1.refused(t, 32, "mount /mnt", "nfs.example.com", "hint: ")
		// The choice outlives the daemon.
		s.client1.must(t, "systemctl restart rpctlscd")
		n = len(s.server.handshakes(t, "rpctlssd"))
		s.cut(t, s.client1)
		s.client1.must(t, "echo 1 >/backup/once-more && sync -f /backup/once-more")
		s.accepted(t, n, s.client1, backup)
		s.client1.must(t, "umount /backup && mount /mnt")
		return
	}
	s.client1.must(t, mount)
	s.encrypted(t, s.client1, "/backup", "mtls")
	s.accepted(t, n, s.client1, backup)
	// Each comes back with its own, from whatever daemon.
	s.client1.must(t, "systemctl restart rpctlscd")
	n = len(s.server.handshakes(t, "rpctlssd"))
	s.cut(t, s.client1)
	for _, dir := range []string{"/mnt", "/backup"} {
		s.client1.must(t, fmt.Sprintf("echo 1 >%[1]s/once-more && sync -f %[1]s/once-more", dir))
	}
	s.accepted(t, n, s.client1, usual)
	s.accepted(t, n, s.client1, backup)
	s.client1.must(t, "umount /backup")
}

// revoke: the session of a mount that the revoked client has is ended, and it is
// refused when it comes again, with that mount or another; others are not.
func (s *story) revoke(t *testing.T) {
	loaded := "journalctl -b -q -o cat -u rpctlssd | grep -c 'changed files loaded'"
	before := strings.TrimSpace(s.server.run(t, loaded).Stdout)
	s.server.must(t, "rpctlsctl cert revoke client2.example.com --all")
	s.server.eventually(t, "the daemon to see the new CRL", "[ $("+loaded+") -gt "+before+" ]")
	n := len(s.server.handshakes(t, "rpctlssd"))
	s.server.eventually(t, "the revoked client's session to be ended", fmt.Sprintf(
		"journalctl --sync; journalctl -b -q -o cat -u rpctlssd | grep 'session ended' | grep -F 'reason=revoked' | grep -F %s", s.client2.addr))
	waits, err := s.client2.Start("touch /mnt/revoked", nil, limit)
	if err != nil {
		t.Fatal(err)
	}
	s.server.eventually(t, "the revoked client to be refused", fmt.Sprintf(
		"journalctl --sync; journalctl -b -q -o cat -u rpctlssd RPCTLS_REASON=revoked | grep -F %s", s.client2.addr))
	for _, h := range s.server.since(t, "rpctlssd", n, s.client2) {
		if h.Result == "success" {
			t.Errorf("the revoked client was accepted: %+v", h)
		}
	}
	s.server.must(t, "[ ! -e /export/revoked ]")
	// The mount waits, it does not fail: the certificate may be replaced.
	select {
	case <-waits.Done():
		t.Errorf("a write of the revoked client has ended: %s", waits.Text())
	default:
	}
	if err := waits.Kill(); err != nil {
		t.Error(err)
	}
	s.client2.must(t, "umount -f -l /mnt")
	s.client2.refused(t, 32, "mount -o tls,vers=4.1 nfs.example.com:/export /mnt", "revoked", "hint: ")

	n = len(s.server.handshakes(t, "rpctlssd"))
	s.cut(t, s.client1)
	s.client1.must(t, "echo 1 >/mnt/once-more && sync -f /mnt/once-more")
	s.accepted(t, n, s.client1, s.client1.fingerprint(t, "/etc/rpctls/client.pem"))
}
