// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package metrics

import (
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Op is the request for an [Answer] on a daemon's sockets.
const Op = "metrics"

// Directory is where the daemons whose runtime directory is given answer this
// request, and nothing else, to whoever may enter it. It is apart from the
// runtime directory, because the group of that may read private keys.
func Directory(runtime string) string { return filepath.Clean(runtime) + "-exporter" }

// Path is a daemon's socket in that directory.
func Path(directory, daemon string) string { return filepath.Join(directory, daemon+".metrics") }

// MaxExpiries is how many identities, and how many CRLs, an answer names.
const MaxExpiries = 64

// An Answer is what "metrics" is answered.
type Answer struct {
	Role    string    `json:"role"` // "client" or "server"
	Version string    `json:"version"`
	Since   time.Time `json:"since"`

	Handshakes []Count     `json:"handshakes,omitempty"` // those that are not zero
	Bounds     []float64   `json:"bounds"`               // of the histograms, seconds
	Durations  []Durations `json:"durations"`
	InProgress int         `json:"in_progress"`
	HalfOpen   int         `json:"half_open"`
	Limit      int         `json:"limit"` // of what is in progress
	Upcalls    Upcalls     `json:"upcalls"`
	Reloads    []Reload    `json:"reloads"`
	Rivals     int         `json:"rivals"` // other programs that answer the kernel

	// KeyLog: a process is being given TLS secrets.
	KeyLog bool `json:"keylog_active"`

	Identities []Expiry `json:"identities,omitempty"`
	CRLs       []Expiry `json:"crls,omitempty"`

	// Threads are nfsd's, on a server that could be asked.
	Threads *int `json:"nfsd_threads,omitempty"`
	// Sessions are those that the daemon knows to be alive, if it does.
	Sessions *int `json:"sessions,omitempty"`
}

// A Count is one counter of handshakes. The result follows from the reason.
type Count struct {
	Reason string `json:"reason"`
	Cipher string `json:"cipher"`
	Group  string `json:"group"`
	Count  uint64 `json:"count"`
}

// Durations is one histogram.
type Durations struct {
	Result string `json:"result"`
	Part   Part   `json:"part"`
	// Counts are of what is up to each bound and above the one before, and of
	// what is above all: one more than there are bounds.
	Counts []uint64 `json:"counts"`
	Sum    float64  `json:"sum"` // seconds
}

// Upcalls count what the kernel asked for; see [rpctls/upcall.Stats].
type Upcalls struct {
	Announced  uint64 `json:"announced"`
	Accepted   uint64 `json:"accepted"`
	Adopted    uint64 `json:"adopted"`
	HandedOver uint64 `json:"handed_over"`
	Refused    uint64 `json:"refused"`
	Lost       uint64 `json:"lost"`
	Overflows  uint64 `json:"overflows"`
}

// A Reload is one counter of reloads.
type Reload struct {
	Trigger Trigger `json:"trigger"`
	Outcome string  `json:"outcome"`
	Count   uint64  `json:"count"`
}

// An Expiry is when something that the configuration names runs out.
type Expiry struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"`
}

// maxName bounds a name, in bytes.
const maxName = 256

// Expiries makes of a list what an answer may hold: sorted by name, each name
// once, with the time that comes first, and of too many those that run out first.
// It changes the list.
func Expiries(list []Expiry) []Expiry {
	for i := range list {
		if len(list[i].Name) > maxName {
			list[i].Name = list[i].Name[:maxName]
		}
	}
	byTime := func(a, b Expiry) int { return a.At.Compare(b.At) }
	byName := func(a, b Expiry) int { return strings.Compare(a.Name, b.Name) }
	slices.SortFunc(list, byTime)
	slices.SortStableFunc(list, byName)
	list = slices.CompactFunc(list, func(a, b Expiry) bool { return a.Name == b.Name })
	slices.SortFunc(list, byTime)
	list = list[:min(len(list), MaxExpiries)]
	slices.SortFunc(list, byName)
	return list
}
