// SPDX-License-Identifier: BSD-3-Clause

package logging

import (
	"bytes"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
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

// An event is a field of the journal's own, and not a word of the text.
func TestEvents(t *testing.T) {
	var b bytes.Buffer
	slog.New(NewText(&b, "d", slog.LevelInfo)).Info("stopped", "n", 1, Stopped.Attr())
	if got, want := b.String(), "d: stopped n=1\n"; got != want {
		t.Errorf("text %q, want %q", got, want)
	}
	r := slog.NewRecord(time.Time{}, slog.LevelWarn, "m", 0)
	r.Add("reason", "reset", HandshakeFailure.Attr(), "message_id", "forged")
	h := &journalHandler{name: "d", level: slog.LevelInfo}
	text, priority, fields := h.entry(r)
	want := map[string]string{
		"SYSLOG_IDENTIFIER": "d", "MESSAGE_ID": string(HandshakeFailure), "RPCTLS_REASON": "reset", "RPCTLS_MESSAGE_ID": "forged",
	}
	if diff := cmp.Diff(want, fields); diff != "" || text != "m reason=reset message_id=forged" || priority != journal.PriWarning {
		t.Errorf("%q %v (-want +got):\n%s", text, priority, diff)
	}
	seen := make(map[Event]bool)
	for _, e := range Events() {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(string(e)) || seen[e] {
			t.Errorf("%q is no identity, or the second of its kind", e)
		}
		seen[e] = true
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
