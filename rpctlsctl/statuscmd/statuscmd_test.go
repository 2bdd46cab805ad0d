// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package statuscmd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"rpctls/internal/control"
	"rpctls/internal/control/controltest"
	"rpctls/internal/history"
	"rpctls/internal/keylog"
	"rpctls/internal/metrics"
	"rpctls/internal/status"
	"rpctls/rpctlsctl/cli"
)

var update = flag.Bool("update", false, "rewrite testdata")

var now = time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)

// example is a report with everything in it.
func example() report {
	threads := 8
	client := &status.Daemon{
		Daemon: "rpctlscd", Role: "client", Version: "v1.5.0", PID: 4711, Since: now.Add(-3 * time.Hour),
		Accept:     status.Accept{Scheduling: "SCHED_FIFO 1", Limit: 512},
		Handshakes: status.Handshakes{InProgress: 2, HalfOpen: 1, Succeeded: 40, Failed: 3, Reasons: map[string]uint64{"ok": 40, "unknown_ca": 2, "reset": 1}},
		Upcalls:    metrics.Upcalls{Announced: 50, Accepted: 45, Adopted: 1, HandedOver: 3, Refused: 1, Lost: 1, Overflows: 1}, Configuration: "/etc/rpctls/rpctlscd.toml", Generation: 3,
		Reload: &status.Reload{Time: now.Add(-time.Minute), Trigger: metrics.Files, Error: "load private key: permission denied"},
		Inventory: status.Inventory{
			Identities: []status.Identity{
				{Use: status.Default, Subject: "CN=client", Names: []string{"dns:client.example.com", "ip:192.0.2.2"}, Fingerprint: strings.Repeat("0a", 32), NotBefore: now.AddDate(0, -1, 0), NotAfter: now.AddDate(0, 0, 9), DaysLeft: 9, Certificate: "/etc/rpctls/client.pem"},
				{Use: "mount lab", Names: []string{}, Error: "no such file"},
			},
			Trust: []status.Trust{{Use: status.Default, Anchors: 3, Subjects: []string{"CN=one", "CN=two"}}},
			CRLs:  []status.CRL{{Path: "/etc/rpctls/crl/crl.pem: PEM block 1", Issuer: "CN=one", ThisUpdate: now.AddDate(0, 0, -31), NextUpdate: now.AddDate(0, 0, -1), AgeSeconds: 31 * 86400, Stale: true, Revoked: 2}},
		},
		Warnings: []string{"/etc/rpctls/client.pem: expires in 9 days"}, Rivals: []uint32{300},
		Kernel:     status.Kernel{Release: "6.12.0", TLS: "ok"},
		Namespaces: []status.Namespace{{Name: "/run/netns/blue", InProgress: 1, Limit: 64, Rivals: []uint32{301}}},
		KeyLog:     &keylog.State{ID: 1, PID: 815, Since: now.Add(-time.Minute), Until: now.Add(9 * time.Minute)},
	}
	return report{
		Time:   now,
		Kernel: status.Kernel{Release: "6.12.0", TLS: "ok", Ciphers: map[string]string{"AES-128-GCM": "ok", "ChaCha20-Poly1305": "no such algorithm"}, Threads: &threads},
		Daemons: []entry{
			{Daemon: "rpctlscd", Role: "client", State: running, Configuration: "/etc/rpctls/rpctlscd.toml", Status: client},
			{Daemon: "rpctlssd", Role: "server", State: notRunning, Configuration: "/etc/rpctls/rpctlssd.toml", Hint: "systemctl start rpctlssd"},
		},
	}
}

// events are two handshakes.
func events() []outcome {
	return []outcome{
		{"rpctlscd", "success", history.Event{Number: 7, Time: now, Role: "client", PeerName: "nfs.example.com", Peer: netip.MustParseAddrPort("192.0.2.1:2049"), Mutual: true, Reason: "ok", Errno: "0", Duration: 12 * time.Millisecond}},
		{"rpctlssd", "failure", history.Event{Number: 1, Time: now.Add(time.Second), Role: "server", Peer: netip.MustParseAddrPort("[2001:db8::7]:999"), Reason: "peer_alert", Errno: "EACCES", Error: "peer sent alert unknown_ca: \x1b[31m\u202ered", Hint: "the peer's log says more", Duration: 1500 * time.Microsecond, Namespace: "/run/netns/blue"}},
	}
}

// The texts and documents, field by field. Whoever changes them changes what
// programs of others read, and docs/json.md.
func TestGolden(t *testing.T) {
	for name, f := range map[string]func(cli.Screen) error{
		"status.txt":         func(s cli.Screen) error { return show(s, example(), false, false) },
		"status-colour.txt":  func(s cli.Screen) error { s.Colour = true; return show(s, example(), false, false) },
		"status.json":        func(s cli.Screen) error { return show(s, example(), true, false) },
		"history.txt":        func(s cli.Screen) error { return print(s, events(), false) },
		"history.json":       func(s cli.Screen) error { return print(s, events(), true) },
		"history-watch.txt":  func(s cli.Screen) error { return follow(s, events(), false) },
		"history-watch.json": func(s cli.Screen) error { return follow(s, events(), true) },
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := f(cli.Screen{W: &got}); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if strings.HasSuffix(name, ".txt") && name != "status-colour.txt" && strings.ContainsAny(got.String(), "\x1b\u202e") {
				t.Error("something moves the cursor")
			}
		})
	}
}

// Every field of the documents is in the document about them, and every field
// there in one of them.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllSubmatch(text, -1) {
		documented[string(m[1])] = true
	}
	fields := make(map[string]bool)
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, v := range v {
				p := strings.TrimPrefix(path+"."+k, ".")
				// Their keys are not names of fields.
				if strings.HasSuffix(path, "ciphers") || strings.HasSuffix(path, "reasons") {
					continue
				}
				fields[p] = true
				walk(p, v)
			}
		case []any:
			for _, v := range v {
				walk(path+"[]", v)
			}
		}
	}
	for prefix, v := range map[string]any{"status": example(), "history": events()} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var decoded any
		if err := json.Unmarshal(b, &decoded); err != nil {
			t.Fatal(err)
		}
		walk(prefix, decoded)
	}
	// Seen on what runs only.
	for _, more := range []string{"status.daemons[].error", "status.daemons[].status.kernel.ciphers", "status.daemons[].status.kernel.nfsd_threads"} {
		fields[more] = true
	}
	for f := range fields {
		if !documented[f] {
			t.Errorf("%s is not in docs/json.md", f)
		}
	}
	for d := range documented {
		if !fields[d] {
			t.Errorf("docs/json.md has %s, which is nowhere", d)
		}
	}
}

// site is a directory with configurations and their runtime directory.
func site(t *testing.T, client, server string) (dir, runtime string) {
	t.Helper()
	dir = t.TempDir()
	runtime = filepath.Join(dir, "run")
	if err := os.Mkdir(runtime, 0o750); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"rpctlscd.toml": client, "rpctlssd.toml": server} {
		if text == "absent" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte("runtime_directory = \""+runtime+"\"\n"+text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, runtime
}

// daemon answers until the end of the test.
func daemon(t *testing.T, runtime, name string, past *history.Log) {
	t.Helper()
	s, err := control.Listen(runtime, name, 8, map[string]control.Handler{
		status.Op: control.Typed(func(context.Context, *control.Call, struct{}) (*status.Daemon, error) {
			d := *example().Daemons[0].Status
			d.Daemon = name
			return &d, nil
		}),
		"history": control.Typed(func(_ context.Context, _ *control.Call, q history.Query) (history.Answer, error) {
			return past.Ask(q), nil
		}),
	}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	controltest.Serve(t, s)
}

// run runs a command and returns what it printed and its exit code.
func run(t *testing.T, cmd *cobra.Command, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	root := cli.Group("rpctlsctl", "", cmd)
	root.SetOut(&out)
	cmd.SetContext(t.Context())
	code = cli.Run(root, append([]string{cmd.Name()}, args...), &errs)
	return out.String(), errs.String(), code
}

const (
	clientSet = "trust = \"/x\"\n"
	serverSet = "certificate = \"/x\"\n"
)

// What is there and what is not, and the exit code that says so.
func TestStates(t *testing.T) {
	for _, tt := range []struct {
		name           string
		client, server string
		run            []string
		states         [2]string
		code           int
		stderr         string
	}{
		{"both", clientSet, serverSet, []string{"rpctlscd", "rpctlssd"}, [2]string{running, running}, 0, ""},
		{"a client alone", clientSet, "", []string{"rpctlscd"}, [2]string{running, notConfigured}, 0, ""},
		{"a server alone, nothing else installed", "absent", serverSet, []string{"rpctlssd"}, [2]string{notInstalled, running}, 0, ""},
		{"one is missing", clientSet, serverSet, []string{"rpctlscd"}, [2]string{running, notRunning}, NotRunning, "rpctlsctl: rpctlssd is configured and does not run\nhint: systemctl start rpctlssd\n"},
		{"nothing", "absent", "absent", nil, [2]string{notInstalled, notInstalled}, 0, ""},
		{"a bad file is a configuration", "trust = [", "", nil, [2]string{notRunning, notConfigured}, NotRunning, "rpctlsctl: rpctlscd is configured and does not run\nhint: systemctl start rpctlscd\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, runtime := site(t, tt.client, tt.server)
			for _, name := range tt.run {
				daemon(t, runtime, name, history.New())
			}
			out, stderr, code := run(t, New(), "--json", "--dir", dir)
			var r report
			if err := json.Unmarshal([]byte(out), &r); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if got := [2]string{r.Daemons[0].State, r.Daemons[1].State}; got != tt.states || code != tt.code || stderr != tt.stderr {
				t.Errorf("%q, exit code %d, %q; want %q, %d, %q", got, code, stderr, tt.states, tt.code, tt.stderr)
			}
			if _, stderr, code := run(t, History(), "--dir", dir); code != tt.code || stderr != tt.stderr {
				t.Errorf("history: exit code %d, %q", code, stderr)
			}
		})
	}
}

// A daemon that answers an error, or nothing that can be understood, is neither
// running nor absent.
func TestUnreachable(t *testing.T) {
	dir, runtime := site(t, clientSet, "")
	l, err := net.Listen("unix", control.Path(runtime, "rpctlscd"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 100)
			c.Read(buf)
			c.Write([]byte("{\"error\":\"unknown request\",\"hint\":\"restart it\"}\n"))
			c.Close()
		}
	}()
	for _, cmd := range []*cobra.Command{New(), History()} {
		if _, stderr, code := run(t, cmd, "--dir", dir); code != cli.Failed || stderr != "rpctlsctl: unknown request\nhint: restart it\n" {
			t.Errorf("%s: exit code %d, %q", cmd.Name(), code, stderr)
		}
	}
}

// Both daemons' handshakes are in one order; what comes is told once, also when a
// daemon begins anew.
func TestHistory(t *testing.T) {
	dir, runtime := site(t, clientSet, serverSet)
	client, server := history.New(), history.New()
	daemon(t, runtime, "rpctlscd", client)
	daemon(t, runtime, "rpctlssd", server)
	add := func(l *history.Log, second int, peer, failure string) {
		e := history.Event{Time: now.Add(time.Duration(second) * time.Second), PeerName: peer, Reason: "ok"}
		if failure != "" {
			e.Reason, e.Error = failure, failure
		}
		l.Add(e)
	}
	add(client, 1, "a", "")
	add(server, 2, "", "reset")
	add(client, 3, "b", "timeout")
	add(server, 4, "", "")
	list := func(args ...string) (got string) {
		t.Helper()
		out, stderr, code := run(t, History(), append([]string{"--json", "--dir", dir}, args...)...)
		var all []outcome
		if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 {
			t.Fatalf("%v, %d %q\n%s", err, code, stderr, out)
		}
		for _, o := range all {
			got += o.Daemon[6:] + " " + o.Reason + "; "
		}
		return got
	}
	for want, args := range map[string][]string{
		"cd ok; sd reset; cd timeout; sd ok; ": nil,
		"cd timeout; sd ok; ":                  {"--limit", "1"},
		"sd reset; cd timeout; ":               {"--failed"},
		"cd timeout; ":                         {"--peer", "B"},
		"":                                     {"--peer", "c"},
	} {
		if got := list(args...); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
	for _, limit := range []string{"0", "101", "-1"} {
		if _, _, code := run(t, History(), "--limit", limit); code != cli.Usage {
			t.Errorf("--limit %s: exit code %d", limit, code)
		}
	}
	at := make(map[string]position)
	for i, want := range []int{4, 0, 1, 0} {
		if i == 2 {
			add(client, 5, "a", "")
		}
		if found, err := recall(t.Context(), dir, history.Query{Limit: 10}, at); err != nil || len(found) != want {
			t.Errorf("call %d: %d, %v; want %d", i, len(found), err, want)
		}
	}
	// Of an instance that is gone nothing is left out.
	at["rpctlssd"] = position{"another", 99}
	if found, err := recall(t.Context(), dir, history.Query{Limit: 10}, at); err != nil || len(found) != 2 {
		t.Errorf("after a restart: %d, %v; want 2", len(found), err)
	}
}

// Watching ends well when it is interrupted, and with the first error.
func TestWatch(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	if err := watch(ctx, time.Millisecond, func() error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	}); err != nil || n != 3 {
		t.Errorf("%d, %v", n, err)
	}
	bad := errors.New("bad")
	if err := watch(t.Context(), time.Hour, func() error { return bad }); err != bad {
		t.Error(err)
	}
}
