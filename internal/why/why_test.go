// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package why

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/internal/reason"
	"rpctls/ktls"
)

func check(t *testing.T, name string, c Cause) {
	t.Helper()
	if c.What == "" || c.Command == "" || strings.ContainsAny(c.What+c.Command, "\n") || strings.HasSuffix(c.What, ".") {
		t.Errorf("%s: %+v", name, c)
	}
}

// Every way in which a client's handshake fails has words, but for those that are
// the server's.
func TestReasons(t *testing.T) {
	servers := []reason.Reason{reason.OK, reason.NoCertificate, reason.NoClientHello, reason.NotAnswering, reason.Unsupported, reason.Internal, "policy", "address_mismatch", "address_unknown"}
	for _, r := range reason.All() {
		c, ok := Handshake(r, "tls client handshake: peer sent alert unknown_ca")
		if ok == slices.Contains(servers, r) {
			t.Errorf("%s: %+v, %v", r, c, ok)
		}
		if ok {
			check(t, string(r), c)
		}
	}
}

func TestAlerts(t *testing.T) {
	for n := range 256 {
		a := ktls.Alert(n)
		c := Alert(a)
		check(t, a.String(), c)
		// Logs and the history have it as text.
		text := (&ktls.AlertError{Alert: a, Remote: true}).Error()
		if got, ok := Handshake(reason.PeerAlert, text); ok && got != c {
			t.Errorf("%q: %+v, want %+v", text, got, c)
		} else if !ok && !strings.HasPrefix(a.String(), "alert(") {
			t.Errorf("%q has no words", text)
		}
	}
	if c, ok := Handshake(reason.PeerAlert, "no such text"); ok {
		t.Errorf("%+v", c)
	}
}

func TestFaults(t *testing.T) {
	for _, f := range []reason.Fault{reason.FaultName, reason.FaultRefused, reason.FaultUnreachable, reason.FaultTimeout, reason.FaultReset,
		reason.FaultClosed, reason.FaultNotRPC, reason.FaultNoNFS, reason.FaultNoTLS, reason.FaultLocal} {
		check(t, string(f), Fault(f, "server.test", 2049))
	}
	for _, c := range []Cause{NoTLS, NotRunning, OtherNamespace, Rival, KernelTLS, RefusedEncrypted, RefusedMutual, ExportWantsCertificate,
		ExportRefusesMutual, ExportRefusesTLS, ExportWantsPort, CannotStart("x"), NoExport("/x"), Clock(time.Unix(0, 0))} {
		check(t, c.What, c)
	}
	if got := NoTLS.Hint(); !strings.HasPrefix(got, "on the server: uname") {
		t.Error(got)
	}
	if got := NotRunning.Hint(); got != "systemctl enable --now rpctlscd" {
		t.Error(got)
	}
}

// What an alert means is said once, and whatever else an error says stays.
func TestEvidence(t *testing.T) {
	for text, want := range map[string]string{
		(&ktls.AlertError{Alert: ktls.AlertUnknownCA, Remote: true}).Error():                           "peer sent alert unknown_ca",
		"tls: " + (&ktls.AlertError{Alert: ktls.AlertAccessDenied, Remote: true}).Error() + ", late":   "tls: peer sent alert access_denied, late",
		(&ktls.AlertError{Alert: ktls.AlertCertificateExpired, Err: errors.New("it is late")}).Error(): "it is late",
		"peer sent alert nonsense: it is": "peer sent alert nonsense: it is",
		"read: i/o timeout":               "read: i/o timeout",
	} {
		if got := Evidence(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
