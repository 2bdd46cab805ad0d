// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// secretSeen writes something that nobody has written before to a mount, finds
// it on the server, and reports whether it was seen on the network.
func (s *story) secretSeen(t *testing.T, client *host, dir string, server *host, export string) bool {
	t.Helper()
	secret := "secret-" + rand.Text() + rand.Text()
	name := "/" + rand.Text()
	seen := s.recorded(t, func() {
		client.must(t, fmt.Sprintf("echo %s >%s && sync -f %s", secret, dir+name, dir+name))
	})
	if got := strings.TrimSpace(server.must(t, "cat "+export+name)); got != secret {
		t.Fatalf("%s%s holds %q, want %q", export, name, got, secret)
	}
	client.must(t, "rm "+dir+name)
	return bytes.Contains(seen, []byte(secret))
}

// encrypted fails the test unless a mount is protected with what xprtsec names:
// by the mount table, by the kernel's word on both connections' ends, and by
// what is seen on the network.
func (s *story) encrypted(t *testing.T, client *host, dir, xprtsec string) {
	t.Helper()
	options := strings.TrimSpace(client.must(t, "findmnt -rn -t nfs,nfs4 -o OPTIONS "+dir))
	if !strings.Contains(","+options+",", ",xprtsec="+xprtsec+",") {
		t.Errorf("%s on %s has %s, want xprtsec=%s", dir, client.name, options, xprtsec)
	}
	if s.secretSeen(t, client, dir, s.server, "/export") {
		t.Errorf("what is written to %s on %s is seen on the network", dir, client.name)
	}
	for _, end := range []struct {
		on     *host
		filter string
	}{{client, "dst 192.0.2.1 and dport = :2049"}, {s.server, "dst " + client.addr + " and sport = :2049"}} {
		text := end.on.must(t, "ss -tnieHO state established '( "+end.filter+" )'")
		if !regexp.MustCompile(`tcp-ulp-tls.* version: ?1\.3.* rxconf: ?sw.* txconf: ?sw`).MatchString(text) {
			t.Errorf("no connection of %s to the server has kernel TLS, says %s:\n%s", client.name, end.on.name, text)
		}
	}
}

// connects is how often the kernel has made the connection of a mount.
func (h *host) connects(t *testing.T, dir string) string {
	t.Helper()
	text := h.must(t, "sed -n '\\, mounted on "+dir+" ,,/^device/s/^\\txprt:\\ttcp //p' /proc/self/mountstats")
	f := strings.Fields(text) // source port, binds, connects, …
	if len(f) < 3 {
		t.Fatalf("%s: no transport of %s in mountstats: %q", h.name, dir, text)
	}
	return f[2]
}

// fingerprint is that of a certificate file.
func (h *host) fingerprint(t *testing.T, file string) string {
	t.Helper()
	text := h.must(t, "openssl x509 -in "+file+" -noout -fingerprint -sha256")
	_, hex, _ := strings.Cut(strings.TrimSpace(text), "=")
	return strings.ToLower(strings.ReplaceAll(hex, ":", ""))
}

// since returns what a daemon logged of a peer after the first n lines.
func (h *host) since(t *testing.T, unit string, n int, peer *host) []handshake {
	t.Helper()
	var found []handshake
	for _, line := range h.handshakes(t, unit)[n:] {
		if strings.Contains(line.Peer, peer.addr) {
			found = append(found, line)
		}
	}
	return found
}

// accepted fails the test unless a daemon has verified that peer with that
// certificate after the first n lines of its log. The line may come a little
// later than what it is about.
func (h *host) accepted(t *testing.T, unit string, n int, peer *host, fingerprint string) {
	t.Helper()
	for deadline := time.Now().Add(limit / 4); ; time.Sleep(250 * time.Millisecond) {
		found := h.since(t, unit, n, peer)
		if slices.ContainsFunc(found, func(l handshake) bool { return l.Result == "success" && l.Fingerprint == fingerprint }) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s of %s has not logged a handshake of %s with the certificate %s, but %+v", unit, h.name, peer.name, fingerprint, found)
			return
		}
	}
}

// accepted is that of the server.
func (s *story) accepted(t *testing.T, n int, client *host, fingerprint string) {
	t.Helper()
	s.server.accepted(t, "rpctlssd", n, client, fingerprint)
}

// writer is a program that appends numbered lines to a file and syncs each,
// until there is a file to stop it. It ends with how many there were and the
// longest time that one took.
const writer = `#!/usr/bin/perl
use strict; use warnings; use IO::Handle;
sub uptime { open(my $u, '<', '/proc/uptime') or die "uptime: $!\n"; return (split ' ', <$u>)[0] }
my ($file, $stop) = @ARGV;
open(my $f, '>', $file) or die "open: $!\n";
my ($n, $longest) = (0, 0);
until (-e $stop) {
	my $began = uptime();
	printf $f "%09d\n", $n or die "line $n: write: $!\n";
	$f->flush or die "line $n: write: $!\n";
	$f->sync or die "line $n: sync: $!\n";
	my $took = uptime() - $began;
	$longest = $took if $took > $longest;
	$n++;
	select(undef, undef, undef, 0.02); # others want the processor, too
}
close($f) or die "close: $!\n";
printf "%d %.2f\n", $n, $longest;
`

// written has a mount written to while f runs, in which nothing may fail, and
// returns the longest time, in seconds, that a line took to be written and
// synced.
func (s *story) written(t *testing.T, client *host, dir string, f func()) float64 {
	t.Helper()
	client.must(t, "rm -f /root/stop "+dir+"/written")
	w, err := client.Start("/root/writer "+dir+"/written /root/stop", nil, 5*limit)
	if err != nil {
		t.Fatal(err)
	}
	client.eventually(t, "the writer's first lines", "pgrep -x writer && test -s "+dir+"/written || ! pgrep -x writer")
	f()
	select {
	case <-w.Done():
		t.Errorf("the writer on %s has ended too early", client.name)
	default:
	}
	client.must(t, "touch /root/stop")
	o, err := w.Wait()
	client.note("writer", o)
	if err != nil {
		t.Fatal(err)
	}
	var lines int
	var longest float64
	if _, err := fmt.Sscanf(o.Stdout, "%d %f", &lines, &longest); err != nil || o.Code != 0 {
		t.Fatalf("the writer on %s ended with exit status %d: %s", client.name, o.Code, o.Text)
	}
	s.server.must(t, fmt.Sprintf("seq -f %%09.0f 0 %d | cmp - /export/written", lines-1))
	client.must(t, fmt.Sprintf("seq -f %%09.0f 0 %d | cmp - %s/written", lines-1, dir))
	t.Logf("%d lines were written and synced, the slowest took %.3fs", lines, longest)
	return longest
}
