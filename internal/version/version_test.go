// SPDX-License-Identifier: BSD-3-Clause

package version

import (
	"testing"
	"time"
)

func TestBuilt(t *testing.T) {
	if b := Built(); b.Before(epoch.Add(-24*time.Hour)) || b.After(time.Now()) {
		t.Errorf("built %v", b)
	}
	if String() == "" {
		t.Error("no version")
	}
}
