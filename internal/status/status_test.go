// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package status

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/control"
	"rpctls/internal/metrics"
)

// However much is configured, the answer fits into a line of the control socket.
func TestBounded(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{CommonName: strings.Repeat("\x01\"", 32)})
	trust, err := certs.NewTrust([]*x509.Certificate{ca.Cert})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("%s%d.test", strings.Repeat("x", 50), i))
	}
	dir := t.TempDir()
	ca.MustIssue(t, certstest.Options{CommonName: strings.Repeat("\x01", 64), DNS: names}).MustWriteFiles(t, dir)
	id, err := certs.LoadIdentity(new(certs.Files), dir+"/cert.pem", dir+"/key.pem")
	if err != nil {
		t.Fatal(err)
	}
	var d Daemon
	for range 1000 {
		d.AddIdentity(strings.Repeat("u\x01", 10000), id, time.Now())
		d.AddBroken("x", errors.New(strings.Repeat("e\x01", 10000)))
		d.AddTrust("x", trust, time.Now())
	}
	d.Handshakes.Count(nil)
	d.Fill()
	b, err := json.Marshal(d)
	if err != nil || len(b) > control.MaxAnswer/2 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if n := len(d.Identities); n != maxList {
		t.Errorf("%d identities", n)
	}
}

func TestCount(t *testing.T) {
	var h Handshakes
	h.Count([]metrics.Count{{Reason: "ok", Cipher: "a", Count: 2}, {Reason: "ok", Cipher: "b", Count: 3}, {Reason: "reset", Count: 4}})
	if diff := cmp.Diff(Handshakes{Succeeded: 5, Failed: 4, Reasons: map[string]uint64{"ok": 5, "reset": 4}}, h); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What can be tried is tried; the rest says so. That the kernel of this machine has
// TLS is not assumed.
func TestProbeKernel(t *testing.T) {
	k := ProbeKernel()
	if k.Release == "" || k.TLS == "" || !k.Works() && len(k.Ciphers) > 0 {
		t.Errorf("%+v", k)
	}
}
