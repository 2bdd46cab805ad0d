// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package exportercmd

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"rpctls/internal/control"
	"rpctls/internal/control/controltest"
	"rpctls/internal/metrics"
	"rpctls/internal/reason"
	"rpctls/internal/tlsstat"
	"rpctls/ktls"
)

var update = flag.Bool("update", false, "rewrite testdata")

// answer is what a daemon that has done something says.
func answer(role string) metrics.Answer {
	h := metrics.NewHandshakes()
	h.Add(metrics.Outcome{Reason: reason.OK, Agreed: true, Cipher: ktls.AES128GCM, Group: 29, Times: ktls.Times{Queued: time.Millisecond, Network: 4 * time.Millisecond, Computing: 2 * time.Millisecond}})
	h.Add(metrics.Outcome{Reason: reason.UnknownCA, Times: ktls.Times{Network: time.Hour}})
	var r metrics.Reloads
	r.Add(metrics.Files, nil)
	threads, sessions := 8, 3
	a := metrics.Answer{
		Role: role, Version: "v1", Since: time.Unix(1000, 5e8), Handshakes: h.Counts(), Bounds: metrics.Bounds(), Durations: h.Durations(),
		InProgress: 2, HalfOpen: 1, Limit: 512, Upcalls: metrics.Upcalls{Announced: 9, Accepted: 7, Adopted: 1, HandedOver: 2, Refused: 1, Lost: 4, Overflows: 5},
		Reloads: r.Counts(), Rivals: 1, Sessions: &sessions,
		Identities: []metrics.Expiry{{Name: "default", At: time.Unix(5000, 0)}}, CRLs: []metrics.Expiry{{Name: "/etc/rpctls/crl/ca.pem: PEM block 1", At: time.Unix(6000, 0)}},
	}
	if role == "server" {
		a.Threads = &threads
		a.KeyLog = true
	}
	return a
}

// daemon answers "metrics" with what f returns until the end of the test.
func daemon(t *testing.T, dir, name string, f func() any) {
	t.Helper()
	s, err := control.ListenGroup(metrics.Path(dir, name), 4, map[string]control.Handler{
		metrics.Op: control.Typed(func(context.Context, *control.Call, struct{}) (any, error) { return f(), nil }),
	}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	controltest.Serve(t, s)
}

// exporter serves what it has from a directory, and returns its URL.
func exporter(t *testing.T, dir string, timeout time.Duration) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	kernel := func() (tlsstat.Counters, error) {
		return tlsstat.Counters{"TlsCurrTxSw": 1, "TlsCurrRxSw": 2, "TlsCurrTxDevice": 3, "TlsCurrRxDevice": 4, "TlsTxSw": 5, "TlsRxSw": 6, "TlsTxDevice": 7, "TlsRxDevice": 8,
			"TlsDecryptError": 9, "TlsRxDeviceResync": 10, "TlsDecryptRetry": 11, "TlsRxNoPadViolation": 12, "TlsSomethingNew": 13}, nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, handler(&collector{dir, timeout, kernel})) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

func scrape(t *testing.T, url string) string {
	t.Helper()
	r, err := http.Get(url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v\n%s", r.Status, err, b)
	}
	return string(b)
}

const bound = 10 * time.Second

// Everything there is, as Prometheus gets it.
func TestScrape(t *testing.T) {
	dir := t.TempDir()
	for role, name := range daemons {
		daemon(t, dir, name, func() any { return answer(role) })
	}
	got := scrape(t, exporter(t, dir, bound))
	// Each reason is there before it has occurred. In the golden file are those
	// that have.
	var short strings.Builder
	zero := make(map[string]bool)
	for line := range strings.Lines(got) {
		if m := regexp.MustCompile(`reason="(\w+)",result="failure".* 0\n$`).FindStringSubmatch(line); m != nil {
			zero[m[1]] = true
			continue
		}
		short.WriteString(line)
	}
	for _, r := range reason.All() {
		if zero[string(r)] == (r == reason.OK || r == reason.UnknownCA) {
			t.Errorf("%s: without having occurred it is shown as 0: %v", r, zero[string(r)])
		}
	}
	golden := filepath.Join("testdata", "scrape.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(short.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), short.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	problems, err := promlint.New(strings.NewReader(got)).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v, %v", problems, err)
	}
	// No name that is described never appears, and none appears that is not.
	var seen []string
	for _, m := range regexp.MustCompile(`(?m)^(\w+)[{ ]`).FindAllStringSubmatch(got, -1) {
		seen = append(seen, m[1])
	}
	slices.Sort(seen)
	if diff := cmp.Diff(Names(), slices.Compact(seen)); diff != "" {
		t.Errorf("(-described +scraped):\n%s", diff)
	}
}

// A daemon that is down, silent, or talks nonsense is down, and nothing else.
func TestDown(t *testing.T) {
	dir := t.TempDir()
	down := func(url, role string) {
		t.Helper()
		if got := scrape(t, url); !strings.Contains(got, "\nrpctls_up{role=\""+role+"\"} 0\n") || strings.Contains(got, `rpctls_handshakes_total{cipher="none",group="none",reason="reset",result="failure",role="`+role) {
			t.Errorf("%s is not down:\n%s", role, got)
		}
	}
	url := exporter(t, dir, 200*time.Millisecond)
	down(url, "client")
	down(url, "server")
	// There, and not answering.
	l, err := net.Listen("unix", metrics.Path(dir, "rpctlscd"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	daemon(t, dir, "rpctlssd", func() any { return "nonsense" })
	down(url, "client")
	down(url, "server")
}

// What a daemon says becomes no label that is not known, and no broken answer.
func TestForeignWords(t *testing.T) {
	dir := t.TempDir()
	a := answer("server")
	a.Role = "king"
	a.Handshakes = []metrics.Count{
		{Reason: "evil\"\n", Cipher: "c", Group: "g", Count: 1}, {Reason: "evil too", Cipher: "c", Group: "g", Count: 2}, {Reason: "ok", Cipher: "c", Group: "g", Count: 3},
	}
	a.Durations = append(a.Durations, metrics.Durations{Result: "x", Part: "y", Counts: make([]uint64, len(a.Bounds)+1)}, metrics.Durations{Result: metrics.Success, Part: metrics.Queue}, a.Durations[0])
	a.Reloads = append(a.Reloads, metrics.Reload{Trigger: "moon", Outcome: "ok", Count: 1})
	a.Identities = []metrics.Expiry{{Name: "\xff", At: time.Unix(1, 0)}, {Name: "\xfe", At: time.Unix(2, 0)}}
	for range 3 * metrics.MaxExpiries {
		a.CRLs = append(a.CRLs, metrics.Expiry{Name: strings.Repeat("x", 300)})
	}
	daemon(t, dir, "rpctlssd", func() any { return a })
	got := scrape(t, exporter(t, dir, bound))
	for _, want := range []string{
		`rpctls_handshakes_total{cipher="other",group="other",reason="other",result="failure",role="server"} 3`,
		`rpctls_handshakes_total{cipher="other",group="other",reason="ok",result="success",role="server"} 3`,
		`rpctls_up{role="server"} 1`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	for _, not := range []string{"king", "evil", "moon", strings.Repeat("x", 257)} {
		if strings.Contains(got, not) {
			t.Errorf("%q became a label", not)
		}
	}
}

// FuzzSend: whatever a daemon answers, there is a scrape.
func FuzzSend(f *testing.F) {
	for _, role := range []string{"client", "server"} {
		b, err := json.Marshal(answer(role))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"bounds":[1,1],"durations":[{"result":"success","part":"queue","counts":[1,2,3]}],"identities":[{"name":"` + "\xff" + `"},{"name":"` + "\xfe" + `"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var a metrics.Answer
		if json.Unmarshal(b, &a) != nil {
			return
		}
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(fixed{a})
		if _, err := registry.Gather(); err != nil {
			t.Error(err)
		}
	})
}

// fixed sends one answer.
type fixed struct{ metrics.Answer }

func (f fixed) Describe(ch chan<- *prometheus.Desc) { (&collector{}).Describe(ch) }
func (f fixed) Collect(ch chan<- prometheus.Metric) { send(ch, "server", f.Answer) }

func TestOtherPaths(t *testing.T) {
	url := exporter(t, t.TempDir(), time.Millisecond)
	for path, want := range map[string]int{"/": 200, "/metrics/x": 404, "/debug/pprof": 404} {
		r, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s: %s, want %d", path, r.Status, want)
		}
	}
	r, err := http.Post(url+"/metrics", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %s", r.Status)
	}
}

// Somebody else on this host may ask on the exporter's socket, if its directory
// lets him in, and not on root's; and what he may ask is one thing.
func TestSomebodyElse(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to be somebody else")
	}
	dir, err := os.MkdirTemp("/tmp", "exporter-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const group = 54321
	if err := os.Chown(dir, 0, group); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o750|os.ModeSetgid); err != nil {
		t.Fatal(err)
	}
	daemon(t, dir, "rpctlscd", func() any { return answer("client") })
	control, err := control.Listen(dir, "rpctlscd", 8, map[string]control.Handler{"secret": control.Typed(func(context.Context, *control.Call, struct{}) (string, error) { return "secret", nil })}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- control.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	for _, tt := range []struct {
		name        string
		gid         uint32
		socket, op  string
		want        string // in what comes back
		cannotReach bool
	}{
		{"group, metrics", group, "rpctlscd.metrics", "metrics", `"role":"client"`, false},
		{"group, status", group, "rpctlscd.metrics", "status", `unknown request`, false},
		{"group, secret", group, "rpctlscd.metrics", "secret", `unknown request`, false},
		{"group, root's socket", group, "rpctlscd.control", "secret", "", true},
		{"nobody", 65534, "rpctlscd.metrics", "metrics", "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := askAs(t, 54322, tt.gid, filepath.Join(dir, tt.socket), tt.op)
			if (err != nil) != tt.cannotReach || !strings.Contains(out, tt.want) || strings.Contains(out, `"secret"}`) {
				t.Errorf("%q, %v", out, err)
			}
		})
	}
}

// askAs asks as another user: a program that is this one, with nothing else of it.
func askAs(t *testing.T, uid, gid uint32, path, op string) (string, error) {
	t.Helper()
	// By that name it can be started by whoever may not enter its directory.
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{askPath + "=" + path, askOp + "=" + op}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	out, err := cmd.Output()
	return string(out), err
}

const askPath, askOp = "TEST_ASK_PATH", "TEST_ASK_OP"

func TestMain(m *testing.M) {
	path := os.Getenv(askPath)
	if path == "" {
		os.Exit(m.Run())
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		os.Exit(1)
	}
	fmt.Fprintf(c, "{\"op\":%q}\n", os.Getenv(askOp))
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		os.Exit(1)
	}
	os.Stdout.WriteString(line)
	os.Exit(0)
}
