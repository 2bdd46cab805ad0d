// SPDX-License-Identifier: BSD-3-Clause

package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// New returns a logger for the program called name and the switch of its
// level. It writes to the journal if stderr is connected to it, else text to
// stderr.
func New(name string) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	if ok, err := journal.StderrIsJournalStream(); err == nil && ok && journal.Enabled() {
		return slog.New(&journalHandler{name: name, level: level}), level
	}
	return slog.New(NewText(os.Stderr, name, level)), level
}

// NewText returns a handler that writes "name: message key=value …" lines
// without a time, which whoever collects them adds.
func NewText(w io.Writer, name string, level slog.Leveler) slog.Handler {
	return &textHandler{w: w, mu: new(sync.Mutex), name: name, level: level}
}

type textHandler struct {
	w     io.Writer
	mu    *sync.Mutex // guards w
	name  string
	level slog.Leveler
	attrs []slog.Attr
}

func (h *textHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *textHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(h.name)
	b.WriteString(": ")
	if r.Level != slog.LevelInfo {
		b.WriteString(strings.ToLower(r.Level.String()))
		b.WriteString(": ")
	}
	message(&b, r, h.attrs)
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *textHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return &c
}

// WithGroup is not needed: the daemons' attributes are flat.
func (h *textHandler) WithGroup(string) slog.Handler { return h }

// message writes the record's message and attributes on one line.
func message(b *strings.Builder, r slog.Record, attrs []slog.Attr) {
	b.WriteString(r.Message)
	each(r, attrs, func(a slog.Attr) {
		if _, ok := eventOf(a); ok {
			return
		}
		b.WriteByte(' ')
		b.WriteString(a.Key)
		b.WriteByte('=')
		b.WriteString(quote(a.Value.String()))
	})
}

func each(r slog.Record, attrs []slog.Attr, f func(slog.Attr)) {
	for _, a := range attrs {
		f(a)
	}
	r.Attrs(func(a slog.Attr) bool {
		a.Value = a.Value.Resolve()
		f(a)
		return true
	})
}

// quote keeps a value on one line and apart from its neighbours. What peers
// choose, such as names in certificates, passes through here.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return r <= ' ' || r == '"' || r == '=' || r == '\\' || r >= 0x7f
	}) < 0 {
		return s
	}
	return fmt.Sprintf("%+q", s)
}

// journalHandler sends entries with one field for each attribute, so that
// `journalctl RPCTLS_REASON=wrong_name` finds them.
type journalHandler struct {
	name  string
	level slog.Leveler
	attrs []slog.Attr
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *journalHandler) Handle(_ context.Context, r slog.Record) error {
	return journal.Send(h.entry(r))
}

// entry makes of a record what the journal gets.
func (h *journalHandler) entry(r slog.Record) (string, journal.Priority, map[string]string) {
	var b strings.Builder
	message(&b, r, h.attrs)
	fields := map[string]string{"SYSLOG_IDENTIFIER": h.name}
	each(r, h.attrs, func(a slog.Attr) {
		if e, ok := eventOf(a); ok {
			fields["MESSAGE_ID"] = string(e)
			return
		}
		fields[fieldName(a.Key)] = a.Value.String()
	})
	return b.String(), priority(r.Level), fields
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append(h.attrs[:len(h.attrs):len(h.attrs)], attrs...)
	return &c
}

func (h *journalHandler) WithGroup(string) slog.Handler { return h }

// fieldName makes a journal field of an attribute's key: upper-case letters,
// digits and underscores (systemd.journal-fields(7)).
func fieldName(key string) string {
	return "RPCTLS_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
