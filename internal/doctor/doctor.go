// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"context"
	"slices"
	"strings"
	"time"

	"rpctls/internal/probe"
	"rpctls/internal/why"
)

// A Level says what a finding means.
type Level string

// The levels.
const (
	Fault   Level = "fault"   // this is why it does not work
	Warning Level = "warning" // it works, and will not always
)

// A Finding is something wrong.
type Finding struct {
	Check    string `json:"check"`
	Level    Level  `json:"level"`
	What     string `json:"what"`
	Evidence string `json:"evidence,omitempty"`
	// Where is where Command is to be run; empty: here.
	Where   string `json:"where,omitempty"`
	Command string `json:"command,omitempty"`
}

// A State says what became of a check.
type State string

// The states.
const (
	OK      State = "ok"
	Wrong   State = "wrong"   // there are faults
	Skipped State = "skipped" // something that it rests on is wrong, or it does not apply
)

// An Outcome is what became of one check.
type Outcome struct {
	Check string `json:"check"`
	Looks string `json:"looks"` // at what
	State State  `json:"state"`
	Note  string `json:"note,omitempty"`
}

// A Report is all that was found.
type Report struct {
	Host     string    `json:"host"`
	Server   string    `json:"server,omitempty"` // with the export, if one was asked for
	Time     time.Time `json:"time"`
	Checks   []Outcome `json:"checks"`
	Findings []Finding `json:"findings"`
	// Mount is a command that would do, if nothing is wrong and an export was
	// asked for.
	Mount string        `json:"mount,omitempty"`
	Probe *probe.Result `json:"probe,omitempty"`
}

// Faults reports whether there is anything that does not work.
func (r *Report) Faults() bool {
	return slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Level == Fault })
}

// Security is what a mount asks for.
type Security string

// What mounts ask for, as options of mount.nfstls and nfs(5).
const (
	Prefer    Security = "tls"         // with a certificate if there is one and it is asked for
	Mutual    Security = "mtls"        // with a certificate
	Anonymous Security = "xprtsec=tls" // without one
)

// Options say what to look at.
type Options struct {
	ClientConfig string // path; usually /etc/rpctls/rpctlscd.toml
	ServerConfig string
	User         string // as whom the daemons read their files

	Server   string // of a mount that does not work; empty: this host alone
	Port     uint16 // 0: that of NFS
	Export   string
	Security Security
	Identity string        // that the mount names; empty: the usual one
	Limit    time.Duration // of each step on the network; 0: probe's
}

// A check is one of the list.
type check struct {
	name, looks string
	after       []string // checks that must not have found a fault
	run         func(context.Context, *exam) (note string)
}

// An exam is a run of the list.
type exam struct {
	Options
	sys    System
	report *Report
	now    string // the check that runs
	faulty map[string]bool

	client *Client // what the client's files hold
	server *Server
	group  uint32
	talk   Talk // with rpctlscd; nil: not running
}

// found reports a fault.
func (x *exam) found(evidence string, c why.Cause) { x.add(Fault, evidence, c) }

func (x *exam) warn(evidence string, c why.Cause) { x.add(Warning, evidence, c) }

func (x *exam) add(l Level, evidence string, c why.Cause) {
	x.report.Findings = append(x.report.Findings, Finding{x.now, l, c.What, evidence, string(c.Where), c.Command})
	if l == Fault {
		x.faulty[x.now] = true
	}
}

// Run makes all checks that apply.
func Run(ctx context.Context, sys System, o Options) *Report {
	x := &exam{Options: o, sys: sys, faulty: make(map[string]bool), report: &Report{Time: sys.Now(), Host: sys.Hostname(), Findings: []Finding{}}}
	if o.Server != "" {
		x.report.Server = o.Server
		if o.Export != "" {
			x.report.Server += ":" + o.Export
		}
	}
	for _, c := range x.list() {
		out := Outcome{Check: c.name, Looks: c.looks, State: OK}
		if i := slices.IndexFunc(c.after, func(name string) bool { return x.faulty[name] }); i >= 0 {
			out.State, out.Note = Skipped, "after "+c.after[i]
			x.faulty[c.name] = true // and so is what rests on it
		} else {
			x.now = c.name
			out.Note = c.run(ctx, x)
			if x.faulty[c.name] {
				out.State = Wrong
			}
		}
		x.report.Checks = append(x.report.Checks, out)
	}
	x.weigh()
	if x.faultless() {
		x.report.Mount = x.mountCommand()
	}
	return x.report
}

// weigh takes back what would be a second cause: whoever answers the kernel, a
// server that this host cannot get through to remains one.
func (x *exam) weigh() {
	if !x.faulty["server"] {
		return
	}
	for i := range x.report.Findings {
		if f := &x.report.Findings[i]; f.Check == "rivals" {
			f.Level = Warning
		}
	}
	// What the fault shows already needs no warning.
	r := x.report
	r.Findings = slices.DeleteFunc(r.Findings, func(w Finding) bool {
		return w.Level == Warning && slices.ContainsFunc(r.Findings, func(f Finding) bool {
			return f.Level == Fault && strings.HasSuffix(f.Evidence, w.Evidence)
		})
	})
}

func (x *exam) faultless() bool { return !x.report.Faults() }

// list are the checks for what this host is, in order.
func (x *exam) list() []check {
	base := []string{"kernel", "handshakes", "clock"}
	list := []check{
		{"kernel", "TLS in the kernel", nil, kernel},
		{"handshakes", "the kernel's handshake family", []string{"kernel"}, handshakes},
		{"clock", "this host's clock", nil, clock},
	}
	client, server := x.roles()
	if client {
		list = append(list,
			check{"client-files", x.ClientConfig + " and what it names", base, clientFiles},
			check{"client-dates", "certificates and CRLs of the client", []string{"client-files"}, clientDates},
			check{"client-agent", "rpctlscd", []string{"client-files"}, clientAgent},
		)
	}
	if server {
		list = append(list,
			check{"nfsd", "threads of nfsd", nil, threads},
			check{"server-files", x.ServerConfig + " and what it names", base, serverFiles},
			check{"server-dates", "certificates and CRLs of the server", []string{"server-files"}, serverDates},
			check{"server-agent", "rpctlssd", []string{"server-files"}, serverAgent},
			check{"exports", "/var/lib/nfs/etab", []string{"server-files"}, exports},
		)
	}
	list = append(list, check{"rivals", "other programs that answer the kernel", []string{"handshakes"}, others})
	if x.Server == "" {
		list = append(list, check{"namespaces", "NFS in other network namespaces", []string{"handshakes"}, namespaces})
	}
	if x.Server != "" {
		list = append(list, check{"server", "the way to " + x.report.Server, []string{"client-agent", "client-dates"}, remote})
		list = append(list, check{"history", "what rpctlscd remembers of that server", []string{"server"}, lately})
	}
	return list
}

// roles says what is to be looked at: with a server given, this is a client.
func (x *exam) roles() (client, server bool) {
	if x.Server != "" {
		return true, false
	}
	n, err := x.sys.Threads()
	server = err == nil && n > 0 || x.sys.Exists(x.ServerConfig)
	client = x.sys.Exists(x.ClientConfig)
	return client || !server, server
}
