// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessionscmd

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"rpctls/internal/sessions"
	"rpctls/internal/sockdiag"
	"rpctls/ktls"
)

// An Entry is a session in a listing. The fields are documented in rpctlsctl(8).
type Entry struct {
	ID       string         `json:"id"`
	Role     string         `json:"role"`
	PeerName string         `json:"peer_name,omitempty"`
	Peer     netip.AddrPort `json:"peer"`
	Local    netip.AddrPort `json:"local"`
	State    string         `json:"state"`

	TLS    string `json:"tls"`
	Cipher string `json:"cipher"`
	TX     string `json:"tx"`
	RX     string `json:"rx"`

	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`

	Began       *time.Time            `json:"began,omitempty"`
	Mutual      *bool                 `json:"mutual,omitempty"`
	Certificate *sessions.Certificate `json:"certificate,omitempty"`
	Daemon      string                `json:"daemon,omitempty"`

	socket sockdiag.ID
}

// info is the entry as selectors know it.
func (e Entry) info() sessions.Info {
	i := sessions.Info{Name: e.ID, Role: e.Role, PeerName: e.PeerName, Local: e.Local, Peer: e.Peer, Certificate: e.Certificate}
	return i
}

// A listing is the sessions of this host at a time.
type listing struct {
	entries []Entry
	daemons map[string]*daemon
	now     time.Time
}

func (l *listing) close() {
	for _, d := range l.daemons {
		d.close()
	}
}

// list asks the daemons first and the kernel then: a session that the kernel shows
// and its daemon has just set up is known in nearly all cases.
func (h host) list(ctx context.Context, dir string) (*listing, error) {
	servers, err := h.servers()
	if err != nil {
		return nil, err
	}
	clients, err := h.clients()
	if err != nil {
		return nil, err
	}
	l := &listing{daemons: make(map[string]*daemon), now: h.now()}
	for name := range daemons {
		l.daemons[name] = ask(ctx, dir, name)
	}
	sockets, err := h.sockets()
	if err != nil {
		l.close()
		return nil, err
	}
	for _, s := range sockets {
		if e, ok := l.entry(s, servers, clients); ok {
			l.entries = append(l.entries, e)
		}
	}
	slices.SortFunc(l.entries, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Role, b.Role), a.Peer.Compare(b.Peer), cmp.Compare(a.socket.Cookie, b.socket.Cookie))
	})
	return l, nil
}

// entry describes a socket, if it is a session of NFS: a daemon has set it up, or
// one of its ports says so.
func (l *listing) entry(s sockdiag.Socket, servers, clients []uint16) (Entry, bool) {
	e := Entry{
		ID: sessions.Name(s.ID), Peer: s.Remote, Local: s.Local, State: s.State.String(),
		TLS: version(s.TLS.Version), TX: s.TLS.TX.String(), RX: s.TLS.RX.String(),
		BytesIn: s.Received, BytesOut: s.Acked, socket: s.ID,
	}
	if s.TLS.Cipher != 0 {
		e.Cipher = ktls.Cipher(s.TLS.Cipher).String()
	}
	for name, d := range l.daemons {
		i, ok := d.known[e.ID]
		if ok && i.Peer == s.Remote && i.Local == s.Local {
			e.Role, e.PeerName, e.Certificate, e.Daemon = i.Role, i.PeerName, i.Certificate, name
			e.Began, e.Mutual = &i.Began, &i.Mutual
			return e, true
		}
	}
	switch {
	case slices.Contains(servers, s.Local.Port()):
		e.Role = "server"
	case slices.Contains(clients, s.Remote.Port()):
		e.Role = "client"
	default:
		return Entry{}, false
	}
	return e, true
}

func version(v uint16) string {
	switch v {
	case 0:
		return ""
	case 0x0303:
		return "1.2"
	case 0x0304:
		return "1.3"
	}
	return fmt.Sprintf("%#04x", v)
}

// The columns, for people.

func (e Entry) peer() string {
	if e.PeerName != "" {
		return e.PeerName + " " + e.Peer.String()
	}
	return e.Peer.String()
}

func (e Entry) ktls() string {
	mode := e.TX
	if e.RX != e.TX {
		mode = "tx " + e.TX + ", rx " + e.RX
	}
	if e.TLS == "" {
		return mode
	}
	return e.TLS + " " + mode
}

func (e Entry) age(now time.Time) string {
	if e.Began == nil {
		return "-"
	}
	d := now.Sub(*e.Began)
	switch {
	case d < 0:
		return "-" // the clock was set back
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

func size(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	f, unit := float64(n), 0
	for f >= 999.5 && unit < len("KMGTPE") {
		f /= 1024
		unit++
	}
	if f < 9.95 {
		return fmt.Sprintf("%.1f%c", f, "KMGTPE"[unit-1])
	}
	return fmt.Sprintf("%.0f%c", f, "KMGTPE"[unit-1])
}

// fingerprintShown is how much of it a table has: enough for "sessions kill".
const fingerprintShown = 16

func (e Entry) subject() (subject, fingerprint string) {
	switch {
	case e.Daemon == "":
		return "?", "-"
	case e.Certificate == nil:
		return "none", "-"
	}
	f := e.Certificate.Fingerprint
	return e.Certificate.Subject, f[:min(len(f), fingerprintShown)]
}
