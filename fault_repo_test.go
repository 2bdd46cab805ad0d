// SPDX-License-Identifier: BSD-3-Clause

package rpctls_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// What makes the daemons fail on purpose is in no build that is shipped. That
// it is found with its tag shows that the look is not blind.
func TestNoFaultsAreShipped(t *testing.T) {
	const fault = "rpctls/ktls fault.go"
	for _, tags := range []string{"", "faults"} {
		out, err := exec.Command("go", "list", "-deps", "-tags", tags, "-f",
			"{{$p := .ImportPath}}{{range .GoFiles}}{{$p}} {{.}}\n{{end}}", "./cmd/rpctlscd", "./cmd/rpctlssd").Output()
		if err != nil {
			t.Fatalf("go list -tags %q: %v", tags, err)
		}
		files := strings.Split(string(out), "\n")
		if got := slices.Contains(files, fault); got != (tags == "faults") {
			t.Errorf("with tags %q, %q is among what is built: %v", tags, fault, got)
		}
	}
}
