// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"rpctls/certs"
)

// BenchmarkChanged is what a daemon pays for each look: eight files, and a
// directory of four CRLs.
func BenchmarkChanged(b *testing.B) {
	dir := b.TempDir()
	f := new(certs.Files)
	for i := range 8 {
		path := filepath.Join(dir, fmt.Sprint(i, ".pem"))
		must(b, os.WriteFile(path, []byte("x"), 0o600))
		_, err := f.Read(path)
		must(b, err)
	}
	for i := range 4 {
		must(b, os.WriteFile(filepath.Join(dir, fmt.Sprint(i, ".crl")), []byte("x"), 0o600))
	}
	_, err := f.List(dir, ".crl")
	must(b, err)
	f.Age()
	for b.Loop() {
		if f.Changed() {
			b.Fatal("nothing has changed")
		}
	}
}
