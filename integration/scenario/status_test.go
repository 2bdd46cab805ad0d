// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs/certstest"
	"rpctls/integration/guest"
	"rpctls/internal/history"
	"rpctls/internal/metrics"
	"rpctls/internal/status"
)

// TestStatus: what rpctlsctl status, history and exporter say agrees with what
// happened: so many mounts, one that fails for a known reason, a reload that is
// refused.
func TestStatus(t *testing.T) {
	guest.RequireVM(t)
	w := newWorld(t)
	const group = 4242
	// As systemd-tmpfiles makes them.
	for _, h := range []*guest.Host{w.client, w.server} {
		dir := metrics.Directory("/run/rpctls-" + h.Name)
		if err := errors.Join(os.MkdirAll(dir, 0o750), os.Chown(dir, 0, group), os.Chmod(dir, 0o750|os.ModeSetgid)); err != nil {
			t.Fatal(err)
		}
	}
	client, server := w.both(t)

	const mounts = 3
	for i := range mounts {
		dir := w.mount(t, exportMTLS, "vers=4.2,xprtsec=mtls,nosharecache")
		use(t, dir, uint64(i))
		guest.Unmount(t, w.client, dir)
	}
	// What the daemons log is what they must have counted.
	count := func(d *daemon, result string) int {
		return d.count(`handshake ` + result + ` .*reason=`)
	}
	guest.Poll(t, guest.CommandLimit, "the server to have said as much as the client", func() error {
		if c, s := count(client, "success"), count(server, "success"); c < 1 || c != s {
			return fmt.Errorf("client %d, server %d", c, s)
		}
		return nil
	})

	// A server that the client does not know.
	other := certstest.MustCA(t, certstest.CAOptions{CommonName: "another CA"})
	w.write(t, "other.pem", other.PEM())
	client.stop(t)
	client = run(t, w.client, "rpctlscd", fmt.Sprintf("trust = %q\n", w.path("other.pem"))+w.identity("client"))
	if out := call(t, w.client, nil, "mount", "-t", "nfs", "-o", "vers=4.2,xprtsec=mtls,retry=0", both, "/mnt"); out.code == 0 {
		t.Fatal("mounted a server that is not known")
	}
	server.said(t, `handshake failure .*reason=peer_alert .*peer sent alert unknown_ca: it does not know the CA`)
	client.said(t, `handshake failure .*reason=unknown_ca .*\(alert unknown_ca sent\)`)

	// A reload that cannot be.
	good, err := os.ReadFile(server.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(server.config, []byte("nonsense = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	server.Signal(t, unix.SIGHUP)
	server.said(t, "reload refused")
	if err := os.WriteFile(server.config, good, 0o644); err != nil {
		t.Fatal(err)
	}

	t.Run("status", func(t *testing.T) { w.testStatusCommand(t, client, server, count) })
	t.Run("history", func(t *testing.T) { w.testHistoryCommand(t, server, count) })
	t.Run("exporter", func(t *testing.T) { w.testExporter(t, server, count, group) })

	server.stop(t)
	t.Run("stopped", func(t *testing.T) {
		out := call(t, w.server, nil, binary("rpctlsctl"), "status", "--dir", filepath.Dir(server.config))
		if out.code != 3 || !strings.Contains(out.stderr, "rpctlssd is configured and does not run") || !strings.Contains(out.stdout, "not running") {
			t.Errorf("%d\n%s%s", out.code, out.stdout, out.stderr)
		}
	})
	w.checkDecryption(t)
}

// statusOf asks one daemon on its host.
func statusOf(t *testing.T, h *guest.Host, d *daemon, index int) *status.Daemon {
	t.Helper()
	out := call(t, h, nil, binary("rpctlsctl"), "status", "--json", "--dir", filepath.Dir(d.config))
	var r struct {
		Daemons []struct {
			State  string
			Status *status.Daemon
		}
	}
	if err := json.Unmarshal([]byte(out.stdout), &r); err != nil || out.code != 0 || len(r.Daemons) != 2 || r.Daemons[index].Status == nil {
		t.Fatalf("%d, %v\n%s%s", out.code, err, out.stdout, out.stderr)
	}
	if r.Daemons[1-index].State != "not installed" {
		t.Errorf("the other daemon is %q", r.Daemons[1-index].State)
	}
	return r.Daemons[index].Status
}

func (w *world) testStatusCommand(t *testing.T, client, server *daemon, count func(*daemon, string) int) {
	s := statusOf(t, w.server, server, 1)
	if int(s.Handshakes.Succeeded) != count(server, "success") || int(s.Handshakes.Failed) != count(server, "failure") || s.Handshakes.Reasons["peer_alert"] == 0 {
		t.Errorf("counted %+v, logged %d and %d", s.Handshakes, count(server, "success"), count(server, "failure"))
	}
	if s.Upcalls.Accepted != s.Handshakes.Succeeded+s.Handshakes.Failed || s.Handshakes.InProgress != 0 || s.Handshakes.HalfOpen != 0 || s.Upcalls.Announced < s.Upcalls.Accepted {
		t.Errorf("upcalls %+v, handshakes %+v", s.Upcalls, s.Handshakes)
	}
	if s.Reload == nil || s.Reload.OK || s.Reload.Trigger != metrics.Signal || !strings.Contains(s.Reload.Error, "nonsense") {
		t.Errorf("reload %+v", s.Reload)
	}
	if len(s.Identities) != 1 || s.Identities[0].Subject != "CN=server" || len(s.Trust) != 1 || s.Trust[0].Anchors != 1 || len(s.Rivals) != 0 {
		t.Errorf("%+v, %+v, rivals %v", s.Identities, s.Trust, s.Rivals)
	}
	if s.Accept.Scheduling != "SCHED_FIFO 1" || !s.Kernel.Works() || s.Kernel.Ciphers["AES-128-GCM"] != "ok" || s.Kernel.Threads == nil || *s.Kernel.Threads == 0 {
		t.Errorf("accept %+v, kernel %+v", s.Accept, s.Kernel)
	}
	c := statusOf(t, w.client, client, 0)
	if int(c.Handshakes.Failed) != count(client, "failure") || int(c.Handshakes.Reasons["unknown_ca"]) != count(client, "failure") || c.Handshakes.Succeeded != 0 {
		t.Errorf("client: %+v, logged %d", c.Handshakes, count(client, "failure"))
	}
	// And for people.
	out := call(t, w.server, nil, binary("rpctlsctl"), "status", "--dir", filepath.Dir(server.config))
	t.Log(out.stdout)
	for _, want := range []string{"rpctlssd", "running", "SCHED_FIFO 1", "refused (signal)", "peer_alert", "CN=server", "nfsd threads"} {
		if !strings.Contains(out.stdout, want) {
			t.Errorf("no %q", want)
		}
	}
}

func (w *world) testHistoryCommand(t *testing.T, server *daemon, count func(*daemon, string) int) {
	list := func(args ...string) (found []history.Event) {
		t.Helper()
		out := call(t, w.server, nil, append([]string{binary("rpctlsctl"), "history", "--json", "--limit", "100", "--dir", filepath.Dir(server.config)}, args...)...)
		if err := json.Unmarshal([]byte(out.stdout), &found); err != nil || out.code != 0 {
			t.Fatalf("%d, %v\n%s%s", out.code, err, out.stdout, out.stderr)
		}
		return found
	}
	all, failed := list(), list("--failed")
	if len(all) != count(server, "success")+count(server, "failure") || len(failed) != count(server, "failure") {
		t.Errorf("%d, of which %d failed; logged %d and %d", len(all), len(failed), count(server, "success"), count(server, "failure"))
	}
	for _, e := range failed {
		if e.Reason != "peer_alert" || !strings.Contains(e.Error, "unknown_ca") {
			t.Errorf("failed: %+v", e)
		}
	}
	// The client chooses which of its addresses it comes from.
	if n4, n6 := len(list("--peer", w.client.IPv4().String())), len(list("--peer", w.client.IPv6().String())); n4+n6 != len(all) {
		t.Errorf("%d and %d with the client, want %d", n4, n6, len(all))
	}
	if n := len(list("--peer", "192.0.2.99")); n != 0 {
		t.Errorf("%d with nobody", n)
	}
}

// testExporter scrapes as Prometheus would, from an exporter with a user of its own.
func (w *world) testExporter(t *testing.T, server *daemon, count func(*daemon, string) int, group uint32) {
	const user = 4343
	as := []string{"setpriv", "--reuid", strconv.Itoa(user), "--regid", strconv.Itoa(int(group)), "--clear-groups"}
	runtime := "/run/rpctls-" + w.server.Name
	p := guest.Start(t, w.server, "exporter", append(as, binary("rpctlsctl"), "exporter", "--listen", "127.0.0.1:9920", "--directory", metrics.Directory(runtime)))
	var text string
	guest.Poll(t, guest.CommandLimit, "the exporter to answer", func() (err error) {
		text, err = scrape(w.server, "127.0.0.1:9920")
		return err
	})
	t.Log(text)
	value := func(series string) int {
		t.Helper()
		for line := range strings.Lines(text) {
			if v, ok := strings.CutPrefix(line, series+" "); ok {
				n, err := strconv.Atoi(strings.TrimSpace(v))
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Errorf("no %s", series)
		return -1
	}
	for series, want := range map[string]int{
		`rpctls_up{role="server"}`: 1,
		`rpctls_up{role="client"}`: 0, // on another host
		`rpctls_handshakes_total{cipher="AES-128-GCM",group="X25519MLKEM768",reason="ok",result="success",role="server"}`: count(server, "success"),
		`rpctls_handshake_duration_seconds_count{part="network",result="success",role="server"}`:                          count(server, "success"),
		`rpctls_handshakes_total{cipher="none",group="none",reason="wrong_name",result="failure",role="server"}`:          0,
		`rpctls_reloads_total{outcome="refused",role="server",trigger="signal"}`:                                          1,
		`rpctls_kernel_tls_errors_total{error="decrypt"}`:                                                                 0,
		`rpctls_upcalls_total{outcome="accepted",role="server"}`:                                                          count(server, "success") + count(server, "failure"),
		`rpctls_other_agents{role="server"}`:                                                                              0,
		`rpctls_keylog_active{role="server"}`:                                                                             0,
	} {
		if got := value(series); got != want {
			t.Errorf("%s is %d, want %d", series, got, want)
		}
	}
	alerts := 0
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "rpctls_handshakes_total{") && strings.Contains(line, `reason="peer_alert"`) {
			n, _ := strconv.Atoi(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]))
			alerts += n
		}
	}
	if alerts != count(server, "failure") {
		t.Errorf("%d failures are counted, %d logged", alerts, count(server, "failure"))
	}

	// That user can ask for nothing else, and nobody else for that.
	if err := os.Chmod(filepath.Dir(server.config), 0o755); err != nil { // it shall not fail for that
		t.Fatal(err)
	}
	for _, op := range []string{"status", "history"} {
		if out := call(t, w.server, nil, append(as, binary("rpctlsctl"), op, "--dir", filepath.Dir(server.config))...); out.code != 1 || strings.Contains(out.stdout, "SCHED_FIFO") {
			t.Errorf("%s as the exporter: %d\n%s%s", op, out.code, out.stdout, out.stderr)
		}
	}
	socket := metrics.Path(metrics.Directory(runtime), "rpctlssd")
	for _, op := range []string{"status", "history", "identity", "choose", "anything"} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(guest.CommandLimit))
		fmt.Fprintf(c, "{\"op\":%q}\n", op)
		line, err := bufio.NewReader(c).ReadString('\n')
		c.Close()
		if err != nil || !strings.Contains(line, "unknown request") {
			t.Errorf("%s on the exporter's socket: %q, %v", op, line, err)
		}
	}
	if out := call(t, w.server, nil, "setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "ls", metrics.Directory(runtime)); out.code == 0 {
		t.Errorf("anybody can look into the exporter's directory: %s", out.stdout)
	}

	if err := p.Stop(t, guest.CommandLimit); err != nil {
		t.Errorf("the exporter: %v", err)
	}
}

// scrape gets /metrics from within a host.
func scrape(h *guest.Host, address string) (text string, err error) {
	derr := h.Do(func() {
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", address, guest.CommandLimit); err != nil {
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(guest.CommandLimit))
		var req *http.Request
		if req, err = http.NewRequest(http.MethodGet, "http://"+address+"/metrics", nil); err != nil {
			return
		}
		req.Close = true
		if err = req.Write(conn); err != nil {
			return
		}
		var res *http.Response
		if res, err = http.ReadResponse(bufio.NewReader(conn), req); err != nil {
			return
		}
		defer res.Body.Close()
		var b []byte
		if b, err = io.ReadAll(res.Body); err == nil && res.StatusCode != http.StatusOK {
			err = errors.New(res.Status)
		}
		text = string(b)
	})
	return text, errors.Join(derr, err)
}
