// SPDX-License-Identifier: BSD-3-Clause

package pin_test

import (
	"strings"
	"testing"

	"rpctls/certs"
	"rpctls/certs/certstest"
	"rpctls/internal/pin"
)

func TestUnmarshalText(t *testing.T) {
	digits := strings.Repeat("aB", 32)
	colons := strings.TrimSuffix(strings.Repeat("AB:", 32), ":")
	for _, tt := range []struct {
		text                 string
		isPin, isFingerprint bool
	}{
		{"sha256:" + digits, true, true},
		{digits, false, true},
		{colons, false, true},
		{"sha256:" + colons, false, true},
		{"SHA256:" + digits, false, false},
		{"sha256:" + digits + "00", false, false},
		{digits[:62], false, false},
		{digits[:62] + "zz", false, false},
		{strings.Replace(colons, ":", "", 1), false, false},
		{":" + colons, false, false},
		{"", false, false},
	} {
		var p pin.Pin
		var f pin.Fingerprint
		if err := p.UnmarshalText([]byte(tt.text)); (err == nil) != tt.isPin {
			t.Errorf("pin %q: %v", tt.text, err)
		} else if err == nil && p.String() != "sha256:"+strings.ToLower(digits) {
			t.Errorf("pin %q: %v", tt.text, p)
		}
		if err := f.UnmarshalText([]byte(tt.text)); (err == nil) != tt.isFingerprint {
			t.Errorf("fingerprint %q: %v", tt.text, err)
		} else if err == nil && f.String() != strings.ToLower(digits) {
			t.Errorf("fingerprint %q: %v", tt.text, f)
		}
	}
}

func TestOf(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	a, b := ca.MustIssue(t, certstest.Options{}), ca.MustIssue(t, certstest.Options{})
	if pin.Of(a.Cert) == pin.Of(b.Cert) || pin.FingerprintOf(a.Cert) == pin.FingerprintOf(b.Cert) {
		t.Error("two certificates are one")
	}
	if got, want := pin.FingerprintOf(a.Cert).String(), certs.Fingerprint(a.Cert); got != want {
		t.Errorf("%s, the log says %s", got, want)
	}
}
