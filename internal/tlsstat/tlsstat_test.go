// SPDX-License-Identifier: BSD-3-Clause

package tlsstat

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file is Linux 6.12's.
const file = `TlsCurrTxSw                     	2
TlsCurrRxSw                     	3
TlsCurrTxDevice                 	0
TlsCurrRxDevice                 	0
TlsTxSw                         	18446744073709551615
TlsRxSw                         	11
TlsTxDevice                     	0
TlsRxDevice                     	0
TlsDecryptError                 	1
TlsRxDeviceResync               	0
TlsDecryptRetry                 	0
TlsRxNoPadViolation             	0
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(file))
	if err != nil || len(got) != 12 || got["TlsDecryptError"] != 1 || got["TlsTxSw"] != 1<<64-1 {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := Parse(nil); err != nil || !cmp.Equal(got, Counters{}) {
		t.Errorf("nothing: %v, %v", got, err)
	}
	for _, bad := range []string{"TlsTxSw", "TlsTxSw x", "TlsTxSw -1", "TlsTxSw 1 2", "\n", "a 1\na 1\n", strings.Repeat("a", maxFile) + " 1"} {
		if got, err := Parse([]byte(bad)); err == nil || got != nil {
			t.Errorf("%.20q: %v", bad, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(file))
	f.Add([]byte("a 1\nb 18446744073709551616"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse(b); (err != nil) != (c == nil) || len(c) > maxNames {
			t.Errorf("%v, %v", c, err)
		}
	})
}
