// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessionscmd

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/control"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/rpctlsctl/cli"
)

// fakeKernel has sockets, for the daemon and for the command.
type fakeKernel struct {
	sockets []sockdiag.Socket
	by      []string // who ended which
}

func (k *fakeKernel) find(id sockdiag.ID) int {
	return slices.IndexFunc(k.sockets, func(s sockdiag.Socket) bool { return s.ID == id })
}

func (k *fakeKernel) end(who string, id sockdiag.ID) error {
	i := k.find(id)
	if i < 0 {
		return sockdiag.ErrGone
	}
	k.sockets = slices.Delete(k.sockets, i, i+1)
	k.by = append(k.by, who+" "+sessions.Name(id))
	return nil
}

// daemonsKernel is the daemon's view.
type daemonsKernel struct{ *fakeKernel }

func (k daemonsKernel) Available() error             { return nil }
func (k daemonsKernel) Close() error                 { return nil }
func (k daemonsKernel) Destroy(id sockdiag.ID) error { return k.end("daemon", id) }
func (k daemonsKernel) Find(id sockdiag.ID) (sockdiag.Socket, error) {
	if i := k.find(id); i >= 0 {
		return k.sockets[i], nil
	}
	return sockdiag.Socket{}, sockdiag.ErrGone
}

var began = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

func socket(cookie uint64, local, remote string) sockdiag.Socket {
	return sockdiag.Socket{
		ID:    sockdiag.ID{Local: netip.MustParseAddrPort(local), Remote: netip.MustParseAddrPort(remote), Cookie: cookie},
		State: sockdiag.Established, TLS: &sockdiag.TLS{Version: 0x0304, Cipher: 52, TX: sockdiag.Software, RX: sockdiag.Software},
		Acked: 2048, Received: 5 << 20,
	}
}

// world is a host with both daemons' sessions: the server's runs, the client's
// does not.
type world struct {
	host
	kernel *fakeKernel
	dir    string
	cert   *certstest.Pair
}

func newWorld(t *testing.T) *world {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	w := &world{dir: t.TempDir(), kernel: new(fakeKernel), cert: ca.MustIssue(t, certstest.Options{CommonName: "client1", DNS: []string{"client1.test"}})}
	w.kernel.sockets = []sockdiag.Socket{
		socket(0x10, "192.0.2.1:2049", "192.0.2.7:801"),  // of the daemon
		socket(0x11, "192.0.2.1:2049", "192.0.2.8:802"),  // of nobody
		socket(0x12, "192.0.2.1:803", "192.0.2.9:2049"),  // of the daemon that does not run
		socket(0x13, "192.0.2.1:443", "192.0.2.9:50000"), // no NFS
		socket(0x14, "192.0.2.1:804", "192.0.2.9:20490"), // on another port
		socket(0x15, "192.0.2.1:20490", "192.0.2.7:805"), // the same of the server
	}
	w.host = host{
		now: func() time.Time { return began.Add(3*time.Minute + 7*time.Second) }, root: func() bool { return true },
		sockets: func() ([]sockdiag.Socket, error) { return slices.Clone(w.kernel.sockets), nil },
		destroy: func(id sockdiag.ID) error { return w.kernel.end("rpctlsctl", id) },
		servers: func() ([]uint16, error) {
			return parsePortlist(strings.NewReader("rdma 20049\ntcp 20490\ntcp 2049\nudp 7\n"))
		},
		clients: func() ([]uint16, error) { return []uint16{2049, 20490}, nil },
	}
	registry := func(name string) *sessions.Registry {
		r := sessions.New(sessions.Config{
			Directory: w.dir, Daemon: name, Log: slog.New(slog.DiscardHandler),
			Kernel: func(uint64) (sessions.Kernel, error) { return daemonsKernel{w.kernel}, nil },
		})
		r.Load()
		return r
	}
	server := registry("rpctlssd")
	s := &sessions.Session{ID: w.kernel.sockets[0].ID, Role: "server", Mutual: true, Cipher: 52, Began: began}
	s.SetChain(w.cert.Chain())
	server.Add(s)
	// One whose socket's place has another's cookie: it must not be taken for it.
	old := w.kernel.sockets[1].ID
	old.Remote = netip.MustParseAddrPort("192.0.2.99:1")
	server.Add(&sessions.Session{ID: old, Role: "server", Cipher: 52, Began: began})
	client := registry("rpctlscd")
	client.Add(&sessions.Session{ID: w.kernel.sockets[2].ID, Role: "client", PeerName: "nfs.test", Cipher: 52, Began: began})
	client.Close() // and it is gone
	listener, err := control.Listen(w.dir, "rpctlssd", control.MaxConns, server.Handlers(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- listener.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// run executes the command.
func (w *world) run(args ...string) (code int, out, errs string) {
	root := cli.Group("rpctlsctl", "", newCmd(w.host))
	var stdout, stderr bytes.Buffer
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	code = cli.Run(root, append([]string{"sessions", "--runtime-dir", w.dir}, args...), &stderr)
	return code, stdout.String(), stderr.String()
}

func TestList(t *testing.T) {
	w := newWorld(t)
	code, out, errs := w.run("--json")
	if code != 0 {
		t.Fatal(errs)
	}
	var got []Entry
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	type row struct{ ID, Role, Name, Subject, Daemon string }
	var rows []row
	for _, e := range got {
		r := row{e.ID, e.Role, e.PeerName, "", e.Daemon}
		if e.Certificate != nil {
			r.Subject = e.Certificate.Subject
		}
		rows = append(rows, r)
		if e.TLS != "1.3" || e.Cipher != "AES-256-GCM" || e.TX != "sw" || e.RX != "sw" || e.BytesIn != 5<<20 || e.BytesOut != 2048 || e.State != "established" {
			t.Errorf("%+v", e)
		}
	}
	want := []row{
		{"12", "client", "nfs.test", "", "rpctlscd"},
		{"14", "client", "", "", ""},
		{"10", "server", "", certs.Subject(w.cert.Cert), "rpctlssd"},
		{"15", "server", "", "", ""},
		{"11", "server", "", "", ""},
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !strings.Contains(errs, "note: no daemon knows whose certificate 3 of these sessions have") {
		t.Errorf("notes: %s", errs)
	}

	code, out, _ = w.run()
	lines := strings.Split(out, "\n")
	if code != 0 || len(lines) != 7 {
		t.Fatalf("%d:\n%s", code, out)
	}
	for line, words := range map[int]string{
		0: "ID ROLE PEER CIPHER KTLS AGE IN OUT FINGERPRINT SET UP BY SUBJECT",
		1: "12 client nfs.test 192.0.2.9:2049 AES-256-GCM 1.3 sw 3m07s 5.0M 2.0K - rpctlscd none",
		3: "10 server 192.0.2.7:801 AES-256-GCM 1.3 sw 3m07s 5.0M 2.0K " + certs.Fingerprint(w.cert.Cert)[:16] + " rpctlssd " + certs.Subject(w.cert.Cert),
		5: "11 server 192.0.2.8:802 AES-256-GCM 1.3 sw - 5.0M 2.0K - - ?",
	} {
		if got := strings.Join(strings.Fields(lines[line]), " "); got != words {
			t.Errorf("line %d: %q, want %q", line, got, words)
		}
	}
}

func TestNothing(t *testing.T) {
	w := newWorld(t)
	w.kernel.sockets = nil
	if code, out, errs := w.run("--json"); code != 0 || out != "[]\n" || errs != "" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if code, out, _ := w.run(); code != 0 || out != "no TLS session of NFS\n" {
		t.Errorf("%d %q", code, out)
	}
}

// A file that cannot be read is no reason to list nothing.
func TestTrouble(t *testing.T) {
	w := newWorld(t)
	if err := os.WriteFile(filepath.Join(w.dir, "rpctlscd.sessions"), []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := w.run()
	if code != 0 || strings.Count(out, "\n") != 6 || !strings.Contains(errs, "note: rpctlscd: ") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
}

func TestKill(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		code int
		by   []string
		says string
	}{
		{"of a daemon", []string{"10"}, 0, []string{"daemon 10"}, "ended server session with client 10 192.0.2.7:801, CN=client1"},
		{"of nobody", []string{"11"}, 0, []string{"rpctlsctl 11"}, "ended server session with client 11 192.0.2.8:802"},
		{"of a daemon that does not run", []string{"--peer", "NFS.test."}, 0, []string{"rpctlsctl 12"}, "ended client session with server 12 nfs.test (192.0.2.9:2049)"},
		{"by address", []string{"--peer", "192.0.2.7"}, 0, []string{"daemon 10", "rpctlsctl 15"}, ""},
		{"by name in the certificate", []string{"--peer", "client1.test"}, 0, []string{"daemon 10"}, ""},
		{"several", []string{"11", "14"}, 0, []string{"rpctlsctl 11", "rpctlsctl 14"}, ""},
		{"one of them is not there", []string{"11", "99"}, 1, []string{"rpctlsctl 11"}, "no such session: 99"},
		{"not NFS", []string{"13"}, 1, nil, "no such session: 13"},
		{"nobody of that name", []string{"--peer", "client2.test"}, 1, nil, "hint: rpctlsctl sessions lists them"},
		{"nothing said", nil, 2, nil, "want IDs"},
		{"two ways", []string{"10", "--peer", "x"}, 2, nil, "want IDs"},
		{"no ID", []string{"xyz"}, 2, nil, `"xyz" is not the ID of a session`},
		{"short fingerprint", []string{"--fingerprint", "abcd"}, 2, nil, "is not the SHA-256"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			code, out, errs := w.run(append([]string{"kill"}, tt.args...)...)
			slices.Sort(w.kernel.by)
			if code != tt.code || !slices.Equal(w.kernel.by, tt.by) || !strings.Contains(out+errs, tt.says) {
				t.Errorf("exit %d, want %d; ended %q, want %q\n%s%s", code, tt.code, w.kernel.by, tt.by, out, errs)
			}
		})
	}
	t.Run("by fingerprint", func(t *testing.T) {
		w := newWorld(t)
		if code, _, errs := w.run("kill", "--fingerprint", strings.ToUpper(certs.Fingerprint(w.cert.Cert))); code != 0 || !slices.Equal(w.kernel.by, []string{"daemon 10"}) {
			t.Errorf("%d %q %s", code, w.kernel.by, errs)
		}
	})
}

// It looks again and again until it is interrupted, which is no failure.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := host{
			now: time.Now, root: func() bool { return true },
			sockets: func() ([]sockdiag.Socket, error) {
				return []sockdiag.Socket{socket(uint64(time.Now().Second()+1), "192.0.2.1:2049", "192.0.2.7:801")}, nil
			},
			servers: func() ([]uint16, error) { return []uint16{nfsPort}, nil },
			clients: func() ([]uint16, error) { return nil, nil },
		}
		var out bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := h.watch(ctx, t.TempDir(), &out, true); err != nil {
			t.Error(err)
		}
		var ids []string
		for line := range strings.Lines(out.String()) {
			var list []Entry
			if err := json.Unmarshal([]byte(line), &list); err != nil || len(list) != 1 {
				t.Fatalf("%q: %v", line, err)
			}
			ids = append(ids, list[0].ID)
		}
		if want := []string{"1", "3", "5"}; !slices.Equal(ids, want) {
			t.Errorf("saw %q, want %q", ids, want)
		}
	})
}

func TestNotRoot(t *testing.T) {
	w := newWorld(t)
	w.root = func() bool { return false }
	for _, args := range [][]string{nil, {"kill", "10"}} {
		if code, _, errs := w.run(args...); code != 1 || !strings.Contains(errs, "hint: run it as root") {
			t.Errorf("%q: %d %s", args, code, errs)
		}
	}
}

func TestColumns(t *testing.T) {
	for n, want := range map[uint64]string{0: "0", 1023: "1023", 1024: "1.0K", 10 << 10: "10K", 1023 << 10: "1.0M", 1 << 20: "1.0M", 1 << 40: "1.0T"} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{0: "0s", 59 * time.Second: "59s", time.Hour: "1h00m", 47*time.Hour + 59*time.Minute: "47h59m", 50 * time.Hour: "2d02h", -time.Second: "-"} {
		if got := (Entry{Began: &began}).age(began.Add(d)); got != want {
			t.Errorf("age %v: %s, want %s", d, got, want)
		}
	}
	e := Entry{TLS: "1.3", TX: "sw", RX: "none"}
	if got := e.ktls(); got != "1.3 tx sw, rx none" {
		t.Error(got)
	}
}
