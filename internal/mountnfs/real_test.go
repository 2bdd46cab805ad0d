// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// Every name under which the package has dpkg put the real helper is looked for,
// and before the name that leads to this program.
func TestRealNames(t *testing.T) {
	script, err := os.ReadFile("../../packaging/deb/diversion.sh")
	if err != nil {
		t.Fatal(err)
	}
	dormant := regexp.MustCompile(`(?m)^dormant=(\S+)$`).FindSubmatch(script)
	if dormant == nil {
		t.Fatal("diversion.sh says no more where the helper is while it moves")
	}
	paths := realHelpers()
	usual := slices.Index(paths, "/usr/sbin/mount.nfs")
	for _, want := range []string{"/usr/sbin/" + RealName, "/usr/sbin/" + RealName + "." + string(dormant[1])} {
		if n := slices.Index(paths, want); n < 0 || n > usual {
			t.Errorf("%s is number %d of %q", want, n, paths)
		}
	}
}
