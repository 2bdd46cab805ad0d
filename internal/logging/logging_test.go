// SPDX-License-Identifier: BSD-3-Clause

package logging

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestText(t *testing.T) {
	var b bytes.Buffer
	level := new(slog.LevelVar)
	log := slog.New(NewText(&b, "rpctlscd", level))
	log.Debug("unseen")
	log.Info("plain", "n", 1, "empty", "", "name", "CN=a b")
	log.With("peer", "10.0.0.1:2049").Warn("trouble")
	level.Set(slog.LevelDebug)
	log.Debug("seen")
	want := "rpctlscd: plain n=1 empty=\"\" name=\"CN=a b\"\n" +
		"rpctlscd: warn: trouble peer=10.0.0.1:2049\n" +
		"rpctlscd: debug: seen\n"
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What a peer puts into a certificate cannot begin a line of its own, nor look
// like another field.
func TestValuesStayWhereTheyAre(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(NewText(&b, "d", slog.LevelInfo))
	log.Info("m", "subject", "x\nd: handshake success result=ok", "other", "a\" errno=0 \x1b[31m\u202e")
	text := b.String()
	if strings.Count(text, "\n") != 1 || strings.ContainsAny(text, "\x1b\u202e") {
		t.Errorf("got %q", text)
	}
	if !strings.Contains(text, `other="a\" errno=0 \x1b[31m\u202e"`) {
		t.Errorf("got %q", text)
	}
}

func TestFieldNames(t *testing.T) {
	for in, want := range map[string]string{"reason": "RPCTLS_REASON", "in use": "RPCTLS_IN_USE", "Größe2": "RPCTLS_GR__E2"} {
		if got := fieldName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
