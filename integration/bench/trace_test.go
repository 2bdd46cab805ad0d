// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseQueue(t *testing.T) {
	// As the kernel has it, but for the width of the columns.
	const text = `
            nfsd-812     [001] .....    41.250000: handshake_submit: req=0000000000a11cee sk=00000000deadbeef
        rpctlssd-900     [000] .....    41.250500: handshake_cmd_accept: req=0000000000a11cee sk=00000000deadbeef fd=9
        rpctlssd-900     [000] .....    41.260000: handshake_cmd_accept: req=00000000000000b0 sk=00000000cafebabe fd=10
            nfsd-813     [001] .....    41.260100: handshake_submit: req=00000000000000b0 sk=00000000cafebabe
            nfsd-812     [001] .....    41.270000: handshake_submit_err: req=00000000000000c0 sk=00000000cafebabe err=-11
            nfsd-814     [001] .....    41.280000: handshake_submit: req=0000000000a11cee sk=00000000deadbeef
        rpctlssd-900     [000] .....    41.281500: handshake_cmd_accept: req=0000000000a11cee sk=00000000deadbeef fd=9
            nfsd-814     [001] .....    41.290000: handshake_submit: req=00000000000000d0 sk=00000000deadbeef
        rpctlssd-900     [000] .....    41.291500: handshake_complete: req=00000000000000d0 sk=00000000deadbeef status=0
`
	got, err := ParseQueue(strings.Split(text, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Queue{Waits: []float64{0, 0.5, 1.5}, Refused: 1, Left: 1}
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(0, 1e-6)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
