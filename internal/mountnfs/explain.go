// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"rpctls/internal/control"
	"rpctls/internal/history"
	"rpctls/internal/mountinfo"
	"rpctls/internal/reason"
	"rpctls/internal/version"
	"rpctls/internal/why"
)

// A cause is why a mount has failed, as far as it is known.
type cause struct {
	text, hint string
	// known: it says more than the real helper does, whose words are left out.
	known bool
}

// What the real helper says of some errors (nfs-utils, utils/mount/error.c).
var (
	saysDenied = []string{"access denied by server", "Operation not permitted", "Permission denied"}
	saysNoTLS  = []string{"Protocol not supported", "transport protocol is not supported"}
	saysNobody = []string{"No such process"}
	saysHungUp = []string{"Broken pipe", "Connection reset by peer"}
)

func says(text string, any []string) bool {
	for _, s := range any {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// lastFailure returns the latest handshake that failed.
func lastFailure(events []history.Event) (history.Event, bool) {
	for i := len(events) - 1; i >= 0; i-- {
		if !events[i].OK() {
			return events[i], true
		}
	}
	return history.Event{}, false
}

// refusedByExport reports whether TLS went well each time and the server still
// did not want this client.
func refusedByExport(o outcome, events []history.Event) bool {
	_, failed := lastFailure(events)
	return len(events) > 0 && !failed && says(o.said, saysDenied)
}

// hungUp reports whether the server has ended a connection whose handshake had
// succeeded: one that wants a certificate, or another client, says so when the
// client believes to be through (RFC 8446 section 4.4.2.4), and the kernel may see
// the end before the alert.
func hungUp(o outcome, events []history.Event) bool {
	_, failed := lastFailure(events)
	return len(events) > 0 && !failed && says(o.said, saysHungUp)
}

// notAsked reports whether mutual TLS failed because the server did not ask for
// a certificate.
func notAsked(events []history.Event) bool {
	e, failed := lastFailure(events)
	return failed && e.Reason == string(reason.NotAsked)
}

// of makes a cause of one that package why knows.
func of(c why.Cause) cause { return cause{c.What, c.Hint(), true} }

// failed explains a handshake that failed.
func failed(e history.Event) cause {
	text := oneLine(e.Error)
	c, ok := why.Handshake(reason.Reason(e.Reason), text)
	if now := time.Now(); e.Reason == string(reason.NotYetValid) && now.Before(version.Built()) {
		c, ok = why.Clock(now), true
	}
	if !ok {
		return cause{fmt.Sprintf("TLS handshake failed (%s): %s", e.Reason, text), e.Hint, true}
	}
	return cause{fmt.Sprintf("TLS handshake failed (%s): %s: %s", e.Reason, c.What, why.Evidence(text)), c.Hint(), true}
}

// explain finds out why an attempt has failed.
func explain(o outcome, a attempt, events []history.Event, asked *agent) cause {
	if e, ok := lastFailure(events); ok {
		// The kernel's own attempts differ in the version of NFS; the last one
		// is as good as any.
		return failed(e)
	}
	switch {
	case refusedByExport(o, events) && a.xprtsec == mountinfo.Mutual:
		return of(why.RefusedMutual)
	case refusedByExport(o, events), hungUp(o, events):
		return of(why.RefusedEncrypted)
	case says(o.said, saysNobody):
		switch {
		case errors.Is(asked.err, control.ErrNotRunning):
			return of(whyNotRunning(asked.config))
		case asked.err == nil:
			return of(why.OtherNamespace)
		}
		c := of(why.NotRunning)
		c.text = "nobody answers the kernel's request for a TLS handshake"
		return c
	case len(events) == 0 && (says(o.said, saysNoTLS) || says(o.said, saysDenied)):
		// The kernel says either when it is the server's answer to the AUTH_TLS
		// probe, and other things.
		if c, ok := withoutHandshake(asked); ok {
			return of(c)
		}
	}
	switch {
	case says(o.said, saysNoTLS) && len(events) == 0:
		return cause{"the server does not offer TLS, or not this version of NFS",
			"a Linux server needs kernel 6.4 or later, and rpctlssd (or tlshd)", false}
	case errors.Is(asked.err, control.ErrNotRunning) && says(o.said, saysDenied):
		return cause{"rpctlscd is not running, so nothing is known of the TLS handshake", "systemctl enable --now rpctlscd; or look into the log of the daemon that runs instead", false}
	}
	return cause{}
}

// oneLine makes one line of a text, that a terminal only shows.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}
