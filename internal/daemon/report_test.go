// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rpctls/certs"
	"rpctls/internal/agent"
	"rpctls/internal/control"
	"rpctls/internal/control/controltest"
	"rpctls/internal/keylog"
	"rpctls/internal/logging"
	"rpctls/internal/metrics"
	"rpctls/internal/reason"
	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/internal/status"
	"rpctls/ktls"
	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

type fakeRole struct{}

func (fakeRole) Role() upcall.Role                                 { return upcall.Server }
func (fakeRole) Plan(*upcall.Request) (agent.Plan, error)          { return agent.Plan{}, errors.New("none") }
func (fakeRole) Judge(*upcall.Request, agent.Result) agent.Verdict { return agent.Verdict{} }
func (fakeRole) Threads() (int, bool)                              { return 16, true }

// newTestReporter reports of a daemon that has not begun.
func newTestReporter(t *testing.T) *reporter[int, string] {
	t.Helper()
	end := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := Program[int, string]{
		Name:     "rpctlssd",
		Warnings: func(s *string, _ time.Time) []string { return []string{*s + " is old"} },
		Inventory: func(*string, time.Time) status.Inventory {
			return status.Inventory{
				Identities: []status.Identity{{Use: status.Default, NotAfter: end}, {Use: "mount x", Error: "gone"}},
				CRLs:       []status.CRL{{Path: "/crl", NextUpdate: end.Add(time.Hour)}},
			}
		},
	}
	live, err := certs.NewLive(func(*certs.Files) (*string, error) {
		name := "list"
		return &name, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, link := upcalltest.New(t)
	living := sessions.New(sessions.Config{Directory: t.TempDir(), Daemon: p.Name, Log: slog.New(slog.DiscardHandler)})
	living.Add(&sessions.Session{
		ID:   sockdiag.ID{Local: netip.MustParseAddrPort("192.0.2.1:2049"), Remote: netip.MustParseAddrPort("192.0.2.2:700"), Cookie: 1},
		Role: "server", Cipher: uint16(ktls.AES128GCM), Began: end,
	})
	r := newReporter(p, "/etc/x.toml", live, agent.Role(fakeRole{}), living, slog.New(slog.DiscardHandler))
	r.service = &agent.Service{Listener: upcall.NewListener(link, upcall.Config{Limit: 7})}
	r.kernel = func() status.Kernel { return status.Kernel{Release: "1", TLS: "ok"} }
	return r
}

func TestReport(t *testing.T) {
	r := newTestReporter(t)
	if s := r.Status(); s.Reload != nil || s.Generation != 1 || s.Accept.Limit != 7 || s.Configuration != "/etc/x.toml" || *s.Kernel.Threads != 16 ||
		len(s.Warnings) != 1 || s.Warnings[0] != "list is old" || s.PID != os.Getpid() || s.Role != "server" {
		t.Errorf("%+v", s)
	}
	r.handshakes.Add(metrics.Outcome{Reason: reason.OK})
	r.handshakes.Add(metrics.Outcome{Reason: reason.Reset})
	r.reloaded(metrics.Files, nil)
	r.reloaded(metrics.Signal, errors.New(strings.Repeat("e", 2*maxReloadError)))
	s := r.Status()
	if l := s.Reload; l == nil || l.OK || l.Trigger != metrics.Signal || len(l.Error) != maxReloadError {
		t.Errorf("reload %+v", l)
	}
	if s.Handshakes.Succeeded != 1 || s.Handshakes.Failed != 1 || s.Handshakes.Reasons["reset"] != 1 {
		t.Errorf("handshakes %+v", s.Handshakes)
	}
	m := r.Metrics()
	if len(m.Handshakes) != 2 || len(m.Identities) != 1 || m.Identities[0].Name != "default" || len(m.CRLs) != 1 || *m.Threads != 16 || *m.Sessions != 1 || m.Limit != 7 {
		t.Errorf("%+v", m)
	}
	var refused uint64
	for _, c := range m.Reloads {
		if c.Outcome == metrics.Refused {
			refused += c.Count
		}
	}
	if refused != 1 {
		t.Errorf("reloads %+v", m.Reloads)
	}
}

// The control socket answers both questions; the exporter's answers one.
func TestWhoIsAnsweredWhat(t *testing.T) {
	r := newTestReporter(t)
	runtime := filepath.Join(t.TempDir(), "run")
	dir := metrics.Directory(runtime)
	for _, d := range []string{runtime, dir} {
		if err := os.Mkdir(d, 0o750); err != nil {
			t.Fatal(err)
		}
	}
	main, err := control.Listen(runtime, "rpctlssd", 8, r.program.handlers(fakeRole{}, nil, nil, r), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	exporter := r.listenExporter(runtime, slog.New(slog.DiscardHandler))
	if exporter == nil {
		t.Fatal("no socket for the exporter")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	for _, s := range []*control.Server{main, exporter} {
		go func() { done <- s.Run(ctx) }()
	}
	t.Cleanup(func() {
		cancel()
		for range 2 {
			<-done
		}
	})
	for path, may := range map[string]map[string]bool{
		control.Path(runtime, "rpctlssd"): {status.Op: true, metrics.Op: true, "history": true, keylog.OpStop: os.Geteuid() == 0, "nonsense": false},
		metrics.Path(dir, "rpctlssd"):     {status.Op: false, metrics.Op: true, "history": false, keylog.OpBegin: false, keylog.OpTake: false, keylog.OpStop: false, "nonsense": false},
	} {
		c, err := control.DialPath(t.Context(), path, "rpctlssd")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for op, ok := range may {
			var answer map[string]any
			if err := c.Call(op, nil, &answer); (err == nil) != ok {
				t.Errorf("%s: %s: %v", path, op, err)
			}
		}
	}
}

// A directory that others can change is not used, and its absence is no trouble.
func TestExporterDirectory(t *testing.T) {
	r := newTestReporter(t)
	runtime := filepath.Join(t.TempDir(), "run")
	dir := metrics.Directory(runtime)
	var log strings.Builder
	try := func() string {
		t.Helper()
		log.Reset()
		if s := r.listenExporter(runtime, slog.New(logging.NewText(&log, "d", slog.LevelInfo))); s != nil {
			s.Close()
			return "used"
		}
		return log.String()
	}
	if got := try(); got != "" {
		t.Errorf("absent: %q", got)
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if got := try(); got != "used" {
		t.Errorf("as it should be: %q", got)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if got := try(); !strings.Contains(got, "writable by others (mode 0770): chmod 2750") {
		t.Errorf("writable by its group: %q", got)
	}
	if err := os.Rename(dir, dir+".x"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+".x", dir); err != nil {
		t.Fatal(err)
	}
	if got := try(); !strings.Contains(got, "is not a directory") {
		t.Errorf("a link: %q", got)
	}
}

// A key log shows in status and metrics for as long as it is on.
func TestReportOfAKeyLog(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may ask for a key log")
	}
	r := newTestReporter(t)
	if r.Status().KeyLog != nil || r.Metrics().KeyLog {
		t.Error("on when the daemon begins")
	}
	dir := t.TempDir()
	s, err := control.Listen(dir, "rpctlssd", 8, r.program.handlers(fakeRole{}, nil, nil, r), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	controltest.Serve(t, s)
	c, err := control.Dial(t.Context(), dir, "rpctlssd")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Call(keylog.OpBegin, keylog.BeginArgs{For: time.Hour}, new(keylog.State)); err != nil {
		t.Fatal(err)
	}
	if k := r.Status().KeyLog; k == nil || int(k.PID) != os.Getpid() || !r.Metrics().KeyLog {
		t.Errorf("%+v", k)
	}
	if err := c.Call(keylog.OpStop, nil, new(keylog.Stopped)); err != nil {
		t.Fatal(err)
	}
	if r.Status().KeyLog != nil || r.Metrics().KeyLog {
		t.Error("still on")
	}
}
