// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package reason

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/reasons.md")

// document is docs/reasons.md.
func document() string {
	var b strings.Builder
	b.WriteString(`# Why a handshake ended as it did

Every handshake has one of these reasons: in the log as ` + "`reason=`" + ` (in the journal as
` + "`RPCTLS_REASON`" + `), in ` + "`rpctlsctl history`" + `, in what mount.nfstls prints, and as the
label ` + "`reason`" + ` of ` + "`rpctls_handshakes_total`" + `. There are no others, but for ` + "`other`" + `, which
an exporter that is older than its daemon shows for what it does not know. Definite:
trying again does not help until somebody changes something, and a first mount fails
at once.

| reason | meaning | definite | look first |
|---|---|---|---|
`)
	for _, r := range All() {
		definite := ""
		if r.Definite() {
			definite = "yes"
		}
		b.WriteString("| `" + string(r) + "` | " + r.Meaning() + " | " + definite + " | " + r.Hint() + " |\n")
	}
	return b.String()
}

// The document is made of the program: go test -update.
func TestDocument(t *testing.T) {
	const path = "../../docs/reasons.md"
	for _, r := range All() {
		if m := r.Meaning(); m == "" || strings.ContainsAny(m+r.Hint(), "|\n") {
			t.Errorf("%s means %q", r, m)
		}
	}
	if n := len(meanings); n != len(All()) {
		t.Errorf("%d meanings, %d reasons", n, len(All()))
	}
	for r := range hints {
		if r.Meaning() == "" {
			t.Errorf("a hint for %s, which is no reason", r)
		}
	}
	if *update {
		if err := os.WriteFile(path, []byte(document()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(document(), string(got)); diff != "" {
		t.Errorf("docs/reasons.md (-want +got):\n%s", diff)
	}
}
