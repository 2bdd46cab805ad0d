// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ktls

import (
	"strings"
	"testing"
)

// TestLoadedAgreesWithProbe: once TLS has been tried, which loads it if it can
// be loaded, a look says the same.
func TestLoadedAgreesWithProbe(t *testing.T) {
	caps, err := Probe()
	if err != nil {
		t.Fatal(err)
	}
	loaded := Loaded()
	if (caps.ULP == nil) != (loaded == nil) {
		t.Errorf("tried: %v; looked at: %v", caps.ULP, loaded)
	}
	if loaded != nil && !strings.Contains(loaded.Error(), "modprobe tls") {
		t.Errorf("no hint in %q", loaded)
	}
}
