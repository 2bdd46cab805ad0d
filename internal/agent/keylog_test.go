// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package agent_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rpctls/internal/control"
	"rpctls/internal/keylog"
	"rpctls/internal/keylog/keylogtest"
	"rpctls/rpc"
	"rpctls/rpctlsctl/cli"
	"rpctls/rpctlsctl/debugcmd"
	"rpctls/rpctlssd"
	"rpctls/upcall/upcalltest"
)

// wire remembers what went over a connection, as a capture would.
type wire struct {
	net.Conn
	sent, received bytes.Buffer
}

func (w *wire) Write(p []byte) (int, error) {
	w.sent.Write(p)
	return w.Conn.Write(p)
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.received.Write(p[:n])
	return n, err
}

// records cuts a direction into TLS records.
func records(t *testing.T, b []byte) (list [][]byte) {
	t.Helper()
	for len(b) > 0 {
		n := 5 + int(binary.BigEndian.Uint16(b[3:5]))
		list = append(list, b[:n])
		b = b[n:]
	}
	return list
}

// decrypt opens records with what the key log has under a label.
func decrypt(t *testing.T, log, label string, random []byte, list [][]byte) (plain []byte) {
	t.Helper()
	var secret []byte
	prefix := label + " " + hex.EncodeToString(random) + " "
	for line := range strings.Lines(log) {
		if s, ok := strings.CutPrefix(strings.TrimSpace(line), prefix); ok {
			secret, _ = hex.DecodeString(s)
		}
	}
	if secret == nil {
		t.Fatalf("the key log has no %s of that session:\n%s", label, log)
	}
	opener := keylogtest.New(t, secret)
	for seq, r := range list {
		b, err := opener.Open(uint64(seq), r)
		if err != nil {
			t.Fatalf("%s does not decrypt record %d: %v", label, seq, err)
		}
		plain = append(plain, b...)
	}
	return plain
}

// tapped is a server's daemon with a control socket and a configuration for tools.
type tapped struct {
	*host
	tap    *keylog.Tap
	config string // directory
	client *tls.Config
	keys   bytes.Buffer // what the client itself logs
}

func newTapped(t *testing.T) *tapped {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may ask for a key log")
	}
	fakeInstall(t)
	s := newSite(t)
	dir := t.TempDir()
	log := new(logBuffer)
	d := &tapped{config: dir, tap: keylog.New(slog.New(slog.NewTextHandler(log, nil)), nil)}
	d.host = startTapped(t, rpctlssd.Program(), s.issue(t, "server", serverOptions()), slog.LevelDebug, nil, d.tap)
	d.client = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{rpc.ALPN}, CurvePreferences: []tls.CurveID{tls.X25519}, KeyLogWriter: &d.keys}
	if err := os.WriteFile(filepath.Join(dir, "rpctlssd.toml"), fmt.Appendf(nil, "runtime_directory = %q\n", dir), 0o600); err != nil {
		t.Fatal(err)
	}
	server, err := control.Listen(dir, "rpctlssd", 8, d.tap.Handlers(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return d
}

// handshake makes a session and sends some data over it, and returns the capture.
func (d *tapped) handshake(t *testing.T, data string) *wire {
	t.Helper()
	c, srv := upcalltest.SocketPair(t)
	w := &wire{Conn: c}
	p := d.kernel.Submit(upcalltest.Spec{Attributes: serverRequest(), Socket: srv})
	conn := tls.Client(w, d.client)
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	if a := d.kernel.Wait(p, bound); a.Status != 0 {
		t.Fatal(a.Status)
	}
	if _, err := io.WriteString(conn, data); err != nil {
		t.Fatal(err)
	}
	return w
}

// run runs rpctlsctl debug and returns its exit code and all that it printed.
func (d *tapped) run(ctx context.Context, args ...string) (int, string) {
	var out logBuffer
	cmd := debugcmd.New()
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetContext(ctx)
	code := cli.Run(cmd, append([]string{"keylog", "--dir", d.config, "--daemon", "server"}, args...), &out)
	return code, out.String()
}

// begin runs it beside the test, until it is on. The function that it returns
// interrupts it and returns what came of it.
func (d *tapped) begin(t *testing.T, args ...string) (end func() (int, string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	type result struct {
		code int
		text string
	}
	done := make(chan result, 1)
	go func() {
		code, text := d.run(ctx, args...)
		done <- result{code, text}
	}()
	end = func() (int, string) {
		cancel()
		r := <-done
		done <- r
		return r.code, r.text
	}
	t.Cleanup(func() { end() })
	for deadline := time.Now().Add(bound); d.tap.State() == nil; time.Sleep(time.Millisecond) {
		if len(done) > 0 || time.Now().After(deadline) {
			t.Fatal(end())
		}
	}
	return end
}

// What the file has decrypts what was captured, handshake and data, and it has
// nothing of sessions that began before or after.
func TestKeyLogDecrypts(t *testing.T) {
	d := newTapped(t)
	d.handshake(t, "before")
	if d.tap.Sink() != nil {
		t.Fatal("on before anybody asked")
	}
	d.keys.Reset()
	path := filepath.Join(t.TempDir(), "keys")
	end := d.begin(t, path)
	const secret = "a write of somebody's file"
	w := d.handshake(t, secret)
	want := d.keys.String()
	code, text := end()
	if code != 0 || !strings.Contains(text, "whoever has them can read the traffic") || !strings.Contains(text, "secrets of 1 handshakes\n") {
		t.Errorf("%d, %s", code, text)
	}
	for deadline := time.Now().Add(bound); d.tap.State() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it is on although its client has gone")
		}
	}
	d.handshake(t, "after")
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sorted := func(s string) []string { return slices.Sorted(strings.Lines(s)) }
	if !slices.Equal(sorted(string(got)), sorted(want)) || strings.Count(want, "\n") != 4 {
		t.Errorf("the file has\n%sthe client\n%s", got, want)
	}
	if strings.Contains(d.log.String(), string(got[len(got)-65:len(got)-1])) {
		t.Error("a secret is in the log")
	}
	sent, received := records(t, w.sent.Bytes()), records(t, w.received.Bytes())
	// A record of handshake type in clear first: ClientHello, ServerHello; then a
	// change_cipher_spec; then what is encrypted.
	random := sent[0][11:43]
	const handshake, application, encrypted = 22, 23, 2
	if sent[0][0] != handshake || received[0][0] != handshake || sent[encrypted][0] != application || received[encrypted][0] != application {
		t.Fatal("the capture is not what was expected")
	}
	flight := decrypt(t, string(got), "SERVER_HANDSHAKE_TRAFFIC_SECRET", random, received[encrypted:])
	if !bytes.Contains(flight, []byte("the server")) {
		t.Error("no certificate in the server's flight")
	}
	if fin := decrypt(t, string(got), "CLIENT_HANDSHAKE_TRAFFIC_SECRET", random, sent[encrypted:encrypted+1]); len(fin) != 36 || fin[0] != 20 {
		t.Errorf("the client's Finished is %x", fin)
	}
	if data := decrypt(t, string(got), "CLIENT_TRAFFIC_SECRET_0", random, sent[encrypted+1:]); string(data) != secret {
		t.Errorf("data %q", data)
	}
}

// Nothing that exists is written to, and nothing is left where nothing began.
func TestKeyLogFile(t *testing.T) {
	d := newTapped(t)
	dir := t.TempDir()
	there, link, dangling := filepath.Join(dir, "there"), filepath.Join(dir, "link"), filepath.Join(dir, "dangling")
	if err := errors.Join(os.WriteFile(there, []byte("mine"), 0o644), os.Symlink(there, link), os.Symlink(filepath.Join(dir, "nowhere"), dangling)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{there, link, dangling, dir} {
		if code, text := d.run(t.Context(), path); code != 1 || !strings.Contains(text, "hint: secrets go into a new file only") {
			t.Errorf("%s: %d, %s", path, code, text)
		}
	}
	if b, err := os.ReadFile(there); string(b) != "mine" || err != nil || d.tap.State() != nil {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("written through a link")
	}
	// A second one while one is on: refused, and no file is left of it.
	end := d.begin(t, filepath.Join(dir, "one"))
	two := filepath.Join(dir, "two")
	if code, text := d.run(t.Context(), two); code != 1 || !strings.Contains(text, "rpctlssd: a key log is on already\nhint: rpctlsctl status") {
		t.Errorf("%d, %s", code, text)
	}
	if _, err := os.Lstat(two); err == nil {
		t.Error("an empty file is left")
	}
	if d.tap.State() == nil {
		t.Error("the second has ended the first")
	}
	// Somebody else ends it.
	if code, text := d.run(t.Context(), "--stop"); code != 0 || text != "rpctlssd: the key log is off\n" {
		t.Errorf("%d, %s", code, text)
	}
	if code, text := d.run(t.Context(), "--stop"); code != 0 || text != "rpctlssd: no key log was on\n" {
		t.Errorf("%d, %s", code, text)
	}
	if code, text := end(); code != 0 || !strings.Contains(text, "secrets of 0 handshakes\n") {
		t.Errorf("%d, %s", code, text)
	}
}

// After its time it is over, without anybody's doing.
func TestKeyLogEndsByItself(t *testing.T) {
	d := newTapped(t)
	path := filepath.Join(t.TempDir(), "keys")
	code, text := d.run(t.Context(), "--for", "1s", path)
	if code != 0 || !strings.Contains(text, "rpctlssd: the key log ended: its time was over\n") || d.tap.State() != nil {
		t.Errorf("%d, %s", code, text)
	}
}

// A tool that is killed ends it: the daemon sees the connection end.
func TestKeyLogOfOneThatIsKilled(t *testing.T) {
	d := newTapped(t)
	c, err := control.Dial(t.Context(), d.config, "rpctlssd")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Call(keylog.OpBegin, keylog.BeginArgs{For: time.Hour}, new(keylog.State)); err != nil {
		t.Fatal(err)
	}
	d.handshake(t, "x")
	if f, err := c.File(); err == nil { // what the kernel does when a process dies
		syscall.Shutdown(int(f.Fd()), syscall.SHUT_RDWR)
		f.Close()
	}
	for deadline := time.Now().Add(bound); d.tap.State() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it goes on")
		}
	}
	c.Close()
}
