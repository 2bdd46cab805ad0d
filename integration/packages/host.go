// SPDX-License-Identifier: BSD-3-Clause

//go:build vm

package packages

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rpctls/integration/vm"
)

// A host is one machine of the story. What is typed there and what it answers
// goes into a transcript.
type host struct {
	*vm.Node
	name, fqdn, addr string

	mu         sync.Mutex
	transcript *os.File
}

// limit ends a command that hangs; it is ample for a translated guest on a busy
// machine.
const limit = 2 * time.Minute

// run types a line, or several, and returns what came of it.
func (h *host) run(t *testing.T, script string) vm.Outcome {
	t.Helper()
	o, err := h.Run(script, nil, limit)
	h.note(script, o)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// note adds to the transcript.
func (h *host) note(script string, o vm.Outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	fmt.Fprintf(h.transcript, "%s# %s\n%s", h.name, script, o.Text)
	if o.Text != "" && !strings.HasSuffix(o.Text, "\n") {
		fmt.Fprintln(h.transcript)
	}
	fmt.Fprintf(h.transcript, "[%d, %.1fs]\n", o.Code, o.Took.Seconds())
}

// must types what has to succeed, and returns its standard output.
func (h *host) must(t *testing.T, script string) string {
	t.Helper()
	o := h.run(t, script)
	if o.Code != 0 {
		t.Fatalf("%s# %s\nexit status %d\n%s", h.name, script, o.Code, o.Text)
	}
	return o.Stdout
}

// refused types what has to fail: with this exit status, and with every one of
// the words on standard error.
func (h *host) refused(t *testing.T, code int, script string, words ...string) {
	t.Helper()
	o := h.run(t, script)
	said := strings.Join(strings.Fields(o.Stderr), " ")
	var missing []string
	for _, w := range words {
		if !strings.Contains(said, w) {
			missing = append(missing, fmt.Sprintf("%q", w))
		}
	}
	if o.Code != code || len(missing) > 0 {
		t.Errorf("%s# %s\nexit status %d, want %d; not said: %s\n%s", h.name, script, o.Code, code, strings.Join(missing, " "), o.Text)
	}
}

// write makes a file.
func (h *host) write(t *testing.T, name, data string) {
	t.Helper()
	o, err := h.Run("umask 077 && cat >'"+name+"'", []byte(data), limit)
	if err == nil && o.Code != 0 {
		err = errors.New(o.Text)
	}
	if err != nil {
		t.Fatalf("%s: write %s: %v", h.name, name, err)
	}
}

// copyTo brings a file to another host, as scp does.
func (h *host) copyTo(t *testing.T, to *host, from, name string) {
	t.Helper()
	to.write(t, name, h.must(t, "cat '"+from+"'"))
}

// eventually repeats a script until it succeeds. It is for what happens by
// itself, soon but at no certain time.
func (h *host) eventually(t *testing.T, what, script string) vm.Outcome {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		o, err := h.Run(script, nil, limit)
		if err != nil {
			t.Fatal(err)
		}
		if o.Code == 0 {
			h.note(script, o)
			return o
		}
		if time.Now().After(deadline) {
			h.note(script, o)
			t.Fatalf("%s: %s: not within %v\n%s# %s\n[%d] %s", h.name, what, limit, h.name, script, o.Code, o.Text)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// A handshake is what a daemon logged of one, by the fields that the journal
// has of it.
type handshake struct {
	Peer        string `json:"RPCTLS_PEER"`
	Result      string `json:"RPCTLS_RESULT"`
	Reason      string `json:"RPCTLS_REASON"`
	Subject     string `json:"RPCTLS_SUBJECT"`
	Fingerprint string `json:"RPCTLS_FINGERPRINT"`
	Hint        string `json:"RPCTLS_HINT"`
	Message     string `json:"MESSAGE"`
}

// handshakes returns all that a daemon logged in this boot.
func (h *host) handshakes(t *testing.T, unit string) []handshake {
	t.Helper()
	text := h.must(t, "journalctl --sync; journalctl -b -q -o json -u "+unit+" | cat")
	var all []handshake
	for line := range strings.Lines(text) {
		var entry handshake
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			continue // a field of bytes; none of ours
		}
		if entry.Result != "" {
			all = append(all, entry)
		}
	}
	return all
}

// pid is the process of a service, which must have one.
func (h *host) pid(t *testing.T, unit string) string {
	t.Helper()
	p := strings.TrimSpace(h.must(t, "systemctl show -P MainPID "+unit))
	if p == "" || p == "0" {
		t.Fatalf("%s: %s has no process", h.name, unit)
	}
	return p
}

// state is all that a setup may change: to be compared, and to be shown when it
// differs. A file that was written again has another time of its change.
func (h *host) state(t *testing.T) string {
	t.Helper()
	return h.must(t, `
		find /etc/rpctls /etc/systemd/system /etc/exports /etc/fstab \
			\( -type f -printf '%p %m %u:%g %s %i %C@\n' -o -printf '%p %y %m %u:%g %l\n' \) | sort
		find /run -maxdepth 1 -name '*rpctls*' | sort
		systemctl show -p Id -p UnitFileState -p ActiveState -p MainPID \
			rpctlscd.service rpctlssd.service rpctls-cert-renew.timer tlshd.service nfs-server.service`)
}

// unchanged fails the test if what it does has changed something since a state,
// and returns the state afterwards.
func (h *host) unchanged(t *testing.T, before, what string, f func()) string {
	t.Helper()
	f()
	after := h.state(t)
	if after != before {
		t.Errorf("%s: %s has changed something:\n%s", h.name, what, difference(before, after))
	}
	return after
}

// difference shows the lines that only one of two texts has.
func difference(before, after string) string {
	had, has := make(map[string]bool), make(map[string]bool)
	for line := range strings.Lines(before) {
		had[line] = true
	}
	for line := range strings.Lines(after) {
		has[line] = true
	}
	var b strings.Builder
	for line := range strings.Lines(before) {
		if !has[line] {
			b.WriteString("-" + line)
		}
	}
	for line := range strings.Lines(after) {
		if !had[line] {
			b.WriteString("+" + line)
		}
	}
	return b.String()
}

// newHost boots a machine with Debian's NFS on it and a package of ours in
// root's directory.
func (s *story) newHost(ctx context.Context, t *testing.T, name, fqdn string, number byte) *host {
	h := &host{name: name, fqdn: fqdn, addr: fmt.Sprintf("192.0.2.%d", number)}
	var err error
	if h.transcript, err = os.Create(filepath.Join(s.Results, name+".transcript")); err != nil {
		t.Error(err)
		return nil
	}
	text := func(s string) vm.Source { return vm.Source{Data: []byte(s)} }
	payload := map[string]vm.Source{
		"/etc/hostname": text(fqdn + "\n"),
		"/etc/hosts": text("127.0.0.1 localhost\n::1 localhost\n" +
			"192.0.2.1 nfs.example.com nfs\n192.0.2.11 client1.example.com client1\n192.0.2.12 client2.example.com client2\n"),
		"/etc/systemd/network/eth0.network": text(
			"[Match]\nName=eth0\n[Network]\nAddress=" + h.addr + "/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n"),
		// Shorter than this the kernel does not allow.
		"/etc/nfs.conf.d/test.conf": text("[nfsd]\ngrace-time=10\nlease-time=10\nthreads=8\n"),
		"/root/writer":              {Data: []byte(writer), Mode: 0o755},
		"/etc/systemd/system":       {Path: s.units},
	}
	for _, deb := range s.Old {
		payload["/root/"+filepath.Base(deb)] = vm.Source{Path: deb}
	}
	unmask := []string{"rpcbind.service", "rpcbind.socket", "rpc-statd.service", "rpc-statd-notify.service"}
	if name == "server" {
		unmask = append(unmask, "nfs-server.service", "nfs-mountd.service", "nfs-idmapd.service", "nfsdcld.service")
	}
	h.Node, err = vm.StartNode(ctx, vm.NodeOptions{
		Name: name, Kernel: s.Kernel, Payload: payload, Network: s.network,
		Address: [6]byte{0x52, 0x54, 0, 0, 0, number},
		Unmask:  unmask,
		Results: s.Results, Log: s.Log,
	})
	if err != nil {
		t.Error(err)
		return nil
	}
	return h
}

// enabledUnits makes a directory with links as "systemctl enable" makes them:
// the network is there at the first boot.
func enabledUnits(dir string) error {
	for link, unit := range map[string]string{
		"multi-user.target.wants/systemd-networkd.service":                 "systemd-networkd.service",
		"network-online.target.wants/systemd-networkd-wait-online.service": "systemd-networkd-wait-online.service",
	} {
		name := filepath.Join(dir, link)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.Symlink("/usr/lib/systemd/system/"+unit, name); err != nil {
			return err
		}
	}
	return nil
}
