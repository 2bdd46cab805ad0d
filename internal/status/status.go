// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package status

import (
	"errors"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/certs"
	"rpctls/certs/san"
	"rpctls/internal/keylog"
	"rpctls/internal/metrics"
	"rpctls/ktls"
)

// Op is the request for a [Daemon] on the control socket.
const Op = "status"

// Bounds of an answer, which has to fit into a line of the control socket.
const (
	maxList     = 64 // identities, CRLs, trusts
	maxSubjects = 16 // of one trust
	maxNames    = 16 // of one identity
	maxText     = 512
)

// A Daemon is what a daemon says of itself.
type Daemon struct {
	Daemon  string    `json:"daemon"` // "rpctlscd" or "rpctlssd"
	Role    string    `json:"role"`   // "client" or "server"
	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Since   time.Time `json:"since"`

	Accept     Accept     `json:"accept"`
	Handshakes Handshakes `json:"handshakes"`
	// Upcalls count what the kernel asked for and what became of it.
	Upcalls metrics.Upcalls `json:"upcalls"`

	Configuration string `json:"configuration"` // path of the file
	// Generation counts what has been loaded: 1 is what it began with.
	Generation uint64 `json:"generation"`
	// Reload is the latest attempt to load something anew; nil: there was none.
	Reload *Reload `json:"reload,omitempty"`

	Inventory
	// Warnings are what is or will soon be wrong with it, one line each.
	Warnings []string `json:"warnings"`
	// Rivals are the netlink ports of other programs in the kernel's group,
	// often the numbers of their processes.
	Rivals []uint32 `json:"rivals"`
	Kernel Kernel   `json:"kernel"`
	// KeyLog: a process is being given TLS secrets; nil: none is.
	KeyLog *keylog.State `json:"key_log,omitempty"`
	// Namespaces are the network namespaces that are served beside the daemon's
	// own. Handshakes and Upcalls count all of them.
	Namespaces []Namespace `json:"namespaces,omitempty"`
}

// A Namespace is a network namespace that is served.
type Namespace struct {
	Name       string   `json:"name"`
	InProgress int      `json:"in_progress"`
	Limit      int      `json:"limit"` // the most requests in progress
	Rivals     []uint32 `json:"rivals,omitempty"`
}

// Accept is the thread that takes requests from the kernel.
type Accept struct {
	// Scheduling is "SCHED_FIFO 1", "nice -20" or "normal"; empty before the
	// daemon is ready.
	Scheduling string `json:"scheduling"`
	Limit      int    `json:"limit"` // the most requests in progress
}

// Handshakes are counts since the daemon began.
type Handshakes struct {
	InProgress int    `json:"in_progress"`
	HalfOpen   int    `json:"half_open"` // of those: the peer has said nothing yet
	Succeeded  uint64 `json:"succeeded"`
	Failed     uint64 `json:"failed"`
	// Reasons are those that occurred, with their counts.
	Reasons map[string]uint64 `json:"reasons"`
}

// Count sums up counters.
func (h *Handshakes) Count(counts []metrics.Count) {
	h.Reasons = make(map[string]uint64)
	for _, c := range counts {
		h.Reasons[c.Reason] += c.Count
		if c.Reason == "ok" {
			h.Succeeded += c.Count
		} else {
			h.Failed += c.Count
		}
	}
}

// A Reload is an attempt to load something anew.
type Reload struct {
	Time    time.Time       `json:"time"`
	Trigger metrics.Trigger `json:"trigger"`
	OK      bool            `json:"ok"`
	Error   string          `json:"error,omitempty"` // why what was loaded before stays
}

// An Inventory is what a configuration has loaded.
type Inventory struct {
	Identities []Identity `json:"identities"`
	Trust      []Trust    `json:"trust"`
	CRLs       []CRL      `json:"crls"`
}

// An Identity is a certificate of this host's.
type Identity struct {
	// Use says when it is shown: "default", "server PATTERNS" for some servers,
	// "name PATTERNS" for clients that ask for such a name, "mount NAME" for
	// mounts that name it.
	Use         string    `json:"use"`
	Subject     string    `json:"subject"`
	Names       []string  `json:"names"`
	Fingerprint string    `json:"fingerprint"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
	DaysLeft    int       `json:"days_left"` // whole days; negative: since so many
	Certificate string    `json:"certificate"`
	// Error says why it is of no use; all else but Use is empty then.
	Error string `json:"error,omitempty"`
}

// Default is the use of what is for everybody else.
const Default = "default"

// A Trust is whom to believe.
type Trust struct {
	Use      string   `json:"use"` // as in Identity
	Anchors  int      `json:"anchors"`
	Subjects []string `json:"subjects"` // the first of them
}

// A CRL is a list of revoked certificates.
type CRL struct {
	Path       string    `json:"path"`
	Issuer     string    `json:"issuer"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	AgeSeconds int64     `json:"age_seconds"`
	Stale      bool      `json:"stale"`
	Revoked    int       `json:"revoked"` // how many it lists
}

// Kernel is what is known of the kernel.
type Kernel struct {
	Release string `json:"release"`
	// TLS is "ok", or why there is no kernel TLS.
	TLS string `json:"tls"`
	// Ciphers are those that were tried, each "ok" or why not; empty where
	// trying is not permitted, as in the sandbox of the units.
	Ciphers map[string]string `json:"ciphers,omitempty"`
	// Threads are nfsd's; nil: not asked, or it does not answer.
	Threads *int `json:"nfsd_threads,omitempty"`
}

// The word for what is well.
const fine = "ok"

// ProbeKernel tries what can be tried without a change to the kernel: where its
// TLS is not loaded, it is not loaded by this.
func ProbeKernel() Kernel {
	k := Kernel{TLS: fine}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		k.Release = unix.ByteSliceToString(u.Release[:])
	}
	if err := ktls.Loaded(); err != nil {
		k.TLS = bounded(err.Error())
		return k
	}
	caps, err := ktls.Probe()
	switch {
	case errors.Is(err, unix.EAFNOSUPPORT): // no connections here, and it is loaded
		return k
	case err != nil:
		k.TLS = bounded(err.Error())
		return k
	case caps.ULP != nil:
		k.TLS = bounded(caps.ULP.Error())
		return k
	}
	k.Ciphers = make(map[string]string)
	for _, c := range ktls.Ciphers() {
		k.Ciphers[c.String()] = fine
		if err := caps.Usable(c); err != nil {
			k.Ciphers[c.String()] = bounded(err.Error())
		}
	}
	return k
}

// Works reports whether TLS does.
func (k Kernel) Works() bool { return k.TLS == fine }

// AddIdentity adds an identity; nil adds nothing.
func (i *Inventory) AddIdentity(use string, id *certs.Identity, now time.Time) {
	if id == nil || len(i.Identities) == maxList {
		return
	}
	names := []string{}
	for _, n := range san.Known(id.Leaf()).Strings() {
		if len(names) < maxNames {
			names = append(names, certs.Printable(n))
		}
	}
	i.Identities = append(i.Identities, Identity{
		Use: bounded(use), Subject: id.Subject(), Names: names, Fingerprint: id.Fingerprint(),
		NotBefore: id.NotBefore().UTC(), NotAfter: id.NotAfter().UTC(), DaysLeft: days(id.NotAfter().Sub(now)), Certificate: id.CertificatePath(),
	})
}

// AddBroken adds an identity that cannot be shown.
func (i *Inventory) AddBroken(use string, err error) {
	if len(i.Identities) < maxList {
		i.Identities = append(i.Identities, Identity{Use: bounded(use), Names: []string{}, Error: bounded(err.Error())})
	}
}

// AddTrust adds anchors, and those CRLs that are not there yet; nil adds nothing.
func (i *Inventory) AddTrust(use string, t *certs.Trust, now time.Time) {
	if t == nil || len(i.Trust) == maxList {
		return
	}
	i.Trust = append(i.Trust, Trust{Use: bounded(use), Anchors: t.Len(), Subjects: t.Subjects(maxSubjects)})
	for _, c := range t.CRLs() {
		known := func(o CRL) bool { return o.Path == c.Where && o.ThisUpdate.Equal(c.ThisUpdate) }
		if len(i.CRLs) == maxList || slices.ContainsFunc(i.CRLs, known) {
			continue
		}
		i.CRLs = append(i.CRLs, CRL{
			Path: bounded(c.Where), Issuer: c.Issuer, ThisUpdate: c.ThisUpdate.UTC(), NextUpdate: c.NextUpdate.UTC(),
			AgeSeconds: int64(now.Sub(c.ThisUpdate).Seconds()), Stale: now.After(c.NextUpdate), Revoked: c.Revoked,
		})
	}
}

// Expiries returns when identities and CRLs run out, the first first.
func (i Inventory) Expiries() (identities, crls []metrics.Expiry) {
	for _, id := range i.Identities {
		if id.Error == "" {
			identities = append(identities, metrics.Expiry{Name: id.Use, At: id.NotAfter})
		}
	}
	for _, c := range i.CRLs {
		crls = append(crls, metrics.Expiry{Name: c.Path, At: c.NextUpdate})
	}
	return metrics.Expiries(identities), metrics.Expiries(crls)
}

// days are whole ones, towards the past: what has expired an hour ago has -1.
func days(d time.Duration) int {
	n := int(d / (24 * time.Hour))
	if d < 0 {
		n--
	}
	return n
}

func bounded(s string) string {
	if len(s) > maxText {
		return s[:maxText] + "…"
	}
	return s
}

// Fill makes lists that are empty of those that are missing, so that a reader of
// the JSON always finds a list.
func (d *Daemon) Fill() {
	if d.Identities == nil {
		d.Identities = []Identity{}
	}
	if d.Trust == nil {
		d.Trust = []Trust{}
	}
	if d.CRLs == nil {
		d.CRLs = []CRL{}
	}
	if d.Warnings == nil {
		d.Warnings = []string{}
	}
	if d.Rivals == nil {
		d.Rivals = []uint32{}
	}
}
