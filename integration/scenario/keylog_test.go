// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/guest"
	"rpctls/internal/keylog/keylogtest"
)

// TestKeyLog: with the secrets that both daemons give away while root asks for
// them, what a mount writes is read from the wire; without, and afterwards, not.
func TestKeyLog(t *testing.T) {
	guest.RequireVM(t)
	w := newWorld(t)
	client, server := w.both(t)
	daemons := []struct {
		*daemon
		host  *guest.Host
		index int
	}{{client, w.client, 0}, {server, w.server, 1}}

	// Before and after it nothing of a connection is given away.
	quiet := func() {
		dir := w.mount(t, exportMTLS, "vers=4.2,xprtsec=mtls,nosharecache")
		use(t, dir, 1)
		guest.Unmount(t, w.client, dir)
	}
	quiet()

	logs := make([]*guest.Proc, len(daemons))
	files := make([]string, len(daemons))
	for i, d := range daemons {
		files[i] = filepath.Join(guest.ResultsDir(t), d.host.Name+".keys")
		logs[i] = guest.Start(t, d.host, d.host.Name+"-keylog", []string{
			binary("rpctlsctl"), "debug", "keylog", "--for", "10m", "--daemon", []string{"client", "server"}[d.index],
			"--dir", filepath.Dir(d.config), files[i]})
		logs[i].WaitLine(t, regexp.MustCompile(`whoever has them can read the traffic`), guest.CommandLimit)
		d.said(t, "KEY LOG ON")
		if s := statusOf(t, d.host, d.daemon, d.index); s.KeyLog == nil || int(s.KeyLog.PID) != logs[i].PID() || s.KeyLog.Until.Sub(s.KeyLog.Since) != 10*time.Minute {
			t.Errorf("%s: status says %+v of the key log", d.Name, s.KeyLog)
		}
		if fi, err := os.Stat(files[i]); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", files[i], fi.Mode(), err)
		}
	}

	secret := []byte("kolibri-" + time.Now().Format(time.RFC3339Nano))
	capture := guest.Capture(t, w.client, w.client.Interfaces()[0], "port", "2049")
	dir := w.mount(t, exportMTLS, "vers=4.2,xprtsec=mtls,nosharecache")
	if err := os.WriteFile(filepath.Join(dir, "keylog"), secret, 0o644); err != nil {
		t.Fatal(err)
	}
	guest.Unmount(t, w.client, dir)
	capture.Stop(t)

	// By itself, by root's order, and by a signal are the ways to end; the first
	// has a unit test.
	if out := call(t, w.client, nil, binary("rpctlsctl"), "debug", "keylog", "--stop", "--daemon", "client", "--dir", filepath.Dir(client.config)); out.code != 0 || !strings.Contains(out.stdout, "the key log is off") {
		t.Errorf("--stop: %+v", out)
	}
	logs[1].Signal(t, unix.SIGINT)
	for i, d := range daemons {
		if err := logs[i].Wait(t, guest.CommandLimit); err != nil {
			t.Errorf("%s: %v\n%s", d.Name, err, logs[i].Output())
		}
		d.said(t, "key log off")
		if s := statusOf(t, d.host, d.daemon, d.index); s.KeyLog != nil {
			t.Errorf("%s: status says %+v of a key log that has ended", d.Name, s.KeyLog)
		}
	}

	var sizes []int64
	secrets := make([][][]byte, len(files))
	for i, name := range files {
		secrets[i] = trafficSecrets(t, name)
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, fi.Size())
	}
	// Both ends of each connection have the same, in whatever order.
	for i, d := range daemons {
		for _, s := range secrets[i] {
			if !slices.ContainsFunc(secrets[1-i], func(o []byte) bool { return bytes.Equal(o, s) }) {
				t.Errorf("only %s has a secret", d.Name)
			}
		}
	}
	packets := capture.Bytes(t)
	if bytes.Contains(packets, secret) {
		t.Fatal("what was written is on the wire in clear")
	}
	if plain := decrypted(t, packets, secrets[0]); !bytes.Contains(plain, secret) {
		t.Errorf("of %d bytes that were captured %d could be decrypted, and not what was written", len(packets), len(plain))
	}
	quiet()
	for i, name := range files {
		if fi, err := os.Stat(name); err != nil || fi.Size() != sizes[i] {
			t.Errorf("%s has grown after its end: %v, %v", name, fi, err)
		}
	}
	for _, d := range daemons {
		for _, s := range secrets[d.index] {
			if strings.Contains(d.Output(), hex.EncodeToString(s)) {
				t.Errorf("%s has logged a secret", d.Name)
			}
		}
	}
	w.checkDecryption(t)
}

// trafficSecrets are those under which a client sends application data.
func trafficSecrets(t *testing.T, name string) (list [][]byte) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "CLIENT_TRAFFIC_SECRET_0" {
			s, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, s)
		}
	}
	if len(list) == 0 {
		t.Fatalf("%s has no secret of a client's traffic:\n%s", name, text)
	}
	return list
}

// decrypted returns what the first records under each secret hold, as far as they
// are within one packet.
func decrypted(t *testing.T, packets []byte, secrets [][]byte) (plain []byte) {
	t.Helper()
	for _, secret := range secrets {
		opener := keylogtest.New(t, secret)
		var sequence uint64
		for rest := packets; ; {
			i := bytes.Index(rest, []byte{23, 3, 3})
			if i < 0 || len(rest) < i+5 {
				break
			}
			rest = rest[i:]
			if n := 5 + int(rest[3])<<8 + int(rest[4]); n <= len(rest) {
				if b, err := opener.Open(sequence, rest[:n]); err == nil {
					plain = append(plain, b...)
					sequence++
				}
			}
			rest = rest[3:]
		}
	}
	return plain
}
