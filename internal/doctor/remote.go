// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"context"
	"fmt"
	"strings"
	"time"

	"rpctls/internal/nfsclient"
	"rpctls/internal/probe"
	"rpctls/internal/reason"
	"rpctls/internal/why"
	"rpctls/ktls"
	"rpctls/rpc"
)

// remote goes the way of a mount.
func remote(ctx context.Context, x *exam) string {
	id, err := x.identity()
	if err != nil {
		x.found(err.Error(), cause(reason.NamedIdentity, ""))
		return ""
	}
	if id == nil && x.Security == Mutual {
		x.found(x.ClientConfig+" has no `certificate` for "+x.Server, cause(reason.NoIdentity, ""))
		return ""
	}
	view := x.client.Loaded.View(x.Server)
	cred, err := (&rpc.AuthSysParms{MachineName: x.sys.Hostname()}).Cred()
	if err != nil {
		cred = rpc.OpaqueAuth{}
	}
	r := x.sys.Probe(ctx, probe.Options{
		Host: x.Server, Port: x.Port, Export: x.Export, Identity: id, Verify: view.Verify, Limit: x.Limit, Cred: cred,
	})
	x.report.Probe = r
	if !r.Resolve.OK {
		x.found(r.Resolve.Error, why.Fault(reason.FaultName, x.Server, r.Port))
		return ""
	}
	best, fault, warnings := Judge(r, x.Security)
	for _, f := range append(fault, warnings...) {
		f.Check = x.now
		x.report.Findings = append(x.report.Findings, f)
	}
	x.faulty[x.now] = len(fault) > 0
	if best < 0 || len(fault) > 0 {
		return ""
	}
	return strings.Join(r.Addresses[best].Summary(), "; ")
}

// Judge says what is wrong with what a probe has found, for a mount that asks for
// want: at most one fault. Where it goes best is where the mount goes; what is
// worse elsewhere may delay it. best is the place of that address, or -1.
func Judge(r *probe.Result, want Security) (best int, fault, warnings []Finding) {
	c := court{r, want}
	if !r.Resolve.OK {
		return -1, []Finding{finding(Fault, r.Resolve.Error, why.Fault(reason.FaultName, r.Host, r.Port))}, nil
	}
	best = -1
	verdicts := make([]verdict, len(r.Addresses))
	for i, a := range r.Addresses {
		verdicts[i] = c.judge(a)
		verdicts[i].evidence = a.Address.String() + ": " + why.Evidence(verdicts[i].evidence)
		if best < 0 || verdicts[i].stage > verdicts[best].stage {
			best = i
		}
	}
	if best < 0 {
		return best, nil, nil
	}
	if v := verdicts[best]; v.cause.What != "" {
		return best, []Finding{finding(Fault, v.evidence, v.cause)}, nil
	}
	for _, v := range verdicts {
		if v.cause.What != "" {
			v.cause.What = "another address of the server is of no use: " + v.cause.What
			warnings = append(warnings, finding(Warning, v.evidence, v.cause))
		}
	}
	return best, nil, warnings
}

func finding(l Level, evidence string, c why.Cause) Finding {
	return Finding{Check: "server", Level: l, What: c.What, Evidence: evidence, Where: string(c.Where), Command: c.Command}
}

// A court judges one result.
type court struct {
	r    *probe.Result
	want Security
}

// A verdict is what there is to say of one address, and how far it went.
type verdict struct {
	stage    int
	evidence string
	cause    why.Cause // What is empty: nothing is wrong
}

// The stages.
const (
	atConnect = iota
	atNull
	atProbe
	atHandshake
	atSession
	atExport
	through
)

// cause is that of a handshake, or says the reason at least.
func cause(r reason.Reason, text string) why.Cause {
	if c, ok := why.Handshake(r, text); ok {
		return c
	}
	return why.Cause{What: fmt.Sprintf("the TLS handshake fails (%s)", r), Where: why.OnServer, Command: "journalctl -u rpctlssd"}
}

// judge finds the first step that did not go as the mount needs it.
func (c court) judge(a probe.Address) verdict {
	for i, s := range []*probe.Step{a.Connect, a.Null, a.AuthTLS} {
		if s != nil && !s.OK {
			return verdict{atConnect + i, s.Error, why.Fault(reason.Fault(s.Reason), c.r.Host, c.r.Port)}
		}
	}
	plain := a.Anonymous
	if plain == nil { // the probe always says more
		return verdict{atProbe, "no session", why.Cause{What: "the server could not be probed"}}
	}
	if !plain.Handshake.OK {
		return c.handshake(plain.Handshake)
	}
	if a.Mutual == nil {
		return c.withoutCertificate(plain)
	}
	return c.withCertificate(plain, a.Mutual)
}

func (c court) handshake(s probe.Step) verdict {
	return verdict{atHandshake, s.Error, cause(reason.Reason(s.Reason), s.Error)}
}

// withoutCertificate judges a session for a mount that shows none.
func (c court) withoutCertificate(s *probe.Session) verdict {
	if v, bad := c.first(s); bad {
		return v
	}
	return c.export(s, why.ExportWantsCertificate)
}

// withCertificate judges both sessions of a mount that shows one if it is asked.
func (c court) withCertificate(plain, s *probe.Session) verdict {
	if !s.Handshake.OK {
		return c.handshake(s.Handshake)
	}
	if v, bad := c.first(s); bad {
		if r := reason.Reason(s.Null.Reason); (r == reason.Closed || r == reason.Reset) && plain.Null != nil && plain.Null.OK {
			v.cause = why.Alert(ktls.AlertCertificateUnknown)
			v.evidence += ", though it talks to those who show none"
		}
		return v
	}
	if !s.Shown {
		if c.want == Mutual {
			return verdict{atSession, "no certificate request in the handshake", cause(reason.NotAsked, "")}
		}
		return c.export(s, why.ExportWantsCertificate)
	}
	refusal := why.ExportRefusesTLS
	if plain.Export != nil && plain.Export.OK {
		refusal = why.ExportRefusesMutual
	}
	return c.export(s, refusal)
}

// first judges the first call over TLS: a server refuses a certificate only then.
func (c court) first(s *probe.Session) (verdict, bool) {
	if s.Null == nil || s.Null.OK {
		return verdict{}, false
	}
	return verdict{atSession, s.Null.Error, cause(reason.Reason(s.Null.Reason), s.Null.Error)}, true
}

// export judges what became of listing it. refusal is the cause if it does not let
// this session in.
func (c court) export(s *probe.Session, refusal why.Cause) verdict {
	l := s.Export
	if l == nil || l.OK {
		return verdict{stage: through}
	}
	v := verdict{stage: atExport, evidence: l.Error}
	switch l.Status {
	case nfsclient.ErrWrongSec.String():
		v.cause = refusal
	case nfsclient.ErrNoEnt.String():
		v.cause = why.NoExport(c.r.Export)
	case nfsclient.ErrPerm.String():
		v.cause = why.ExportWantsPort
	case nfsclient.ErrAccess.String():
		// Rights of a directory, which a mount does not need.
		return verdict{stage: through}
	case "":
		v.cause = why.Cause{What: "the server does not answer NFS over TLS (" + l.Reason + ")", Where: why.OnServer, Command: "journalctl -u rpctlssd"}
	default:
		v.cause = why.Cause{What: "the server does not list the export (" + l.Status + ")", Where: why.OnServer, Command: "exportfs -v"}
	}
	return v
}

// lately compares with what rpctlscd has seen: if all is well now, a mount may
// still have failed a moment ago.
func lately(_ context.Context, x *exam) string {
	if x.talk == nil {
		return ""
	}
	defer x.talk.Close()
	events, err := latest(x.talk, x.Server)
	if err != nil {
		return err.Error()
	}
	if len(events) == 0 {
		return "no handshake yet"
	}
	e := events[len(events)-1]
	note := fmt.Sprintf("last handshake at %s: %s", e.Time.UTC().Format(time.RFC3339), e.Reason)
	if e.OK() || x.sys.Now().Sub(e.Time) > recently {
		return note
	}
	c := cause(reason.Reason(e.Reason), e.Error)
	c.What = "a moment ago a mount failed, though all is well now: " + c.What
	x.warn(fmt.Sprintf("rpctlscd, %s: %s: %s", e.Time.UTC().Format(time.RFC3339), e.Reason, oneLine(e.Error)), c)
	return note
}

// recently bounds the age of a failure that is worth a word.
const recently = time.Hour

// mountCommand is what would do.
func (x *exam) mountCommand() string {
	if x.Server == "" || x.Export == "" || x.report.Probe == nil {
		return ""
	}
	option := string(x.Security)
	for _, a := range x.report.Probe.Addresses {
		if a.Mutual != nil && a.Mutual.Shown && a.Mutual.Export != nil && a.Mutual.Export.OK && x.Security == Prefer {
			option = string(Mutual)
		}
	}
	if x.Identity != "" {
		option = "tlscertname=" + x.Identity
	}
	host := x.Server
	if strings.Contains(host, ":") && !strings.HasPrefix(host, "[") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("mount -t nfstls -o %s %s:%s /mnt", option, host, x.Export)
}
