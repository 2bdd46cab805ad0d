// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"rpctls/internal/control"
	"rpctls/internal/history"
	"rpctls/internal/mountinfo"
	"rpctls/internal/reason"
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

// notAsked reports whether mutual TLS failed because the server did not ask for
// a certificate.
func notAsked(events []history.Event) bool {
	e, failed := lastFailure(events)
	return failed && e.Reason == string(reason.NotAsked)
}

// explain finds out why an attempt has failed.
func explain(o outcome, a attempt, events []history.Event, asking error) cause {
	if e, failed := lastFailure(events); failed {
		// The kernel's own attempts differ in the version of NFS; the last one
		// is as good as any.
		return cause{fmt.Sprintf("TLS handshake failed (%s): %s", e.Reason, oneLine(e.Error)), e.Hint, true}
	}
	switch {
	case refusedByExport(o, events) && a.xprtsec == mountinfo.Mutual:
		return cause{"the server refuses this host, though both have authenticated each other by TLS",
			"on the server: does the export include this host, and does it say xprtsec=mtls or xprtsec=tls:mtls?", true}
	case refusedByExport(o, events):
		return cause{"the server refuses this host, though the connection is encrypted",
			"on the server: does the export include this host? With xprtsec=mtls it wants a certificate: rpctls-client-setup FILE.bundle gives this host one", true}
	case says(o.said, saysNobody):
		c := cause{"nobody answers the kernel's request for a TLS handshake", "systemctl enable --now rpctlscd", true}
		switch {
		case errors.Is(asking, control.ErrNotRunning):
			c.text += ": rpctlscd is not running"
		case asking == nil:
			c.text += ", though rpctlscd is running: in another network namespace?"
			c.hint = "run rpctlscd in the network namespace of the mount"
		}
		return c
	case says(o.said, saysNoTLS) && len(events) == 0:
		return cause{"the server does not offer TLS, or not this version of NFS",
			"a Linux server needs kernel 6.4 or later, and rpctlssd (or tlshd)", false}
	case errors.Is(asking, control.ErrNotRunning) && says(o.said, saysDenied):
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
