// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"rpctls/certs"
	"rpctls/internal/why"
)

// kernel tries TLS, which loads the module if it can be.
func kernel(_ context.Context, x *exam) string {
	err := x.sys.KernelTLS()
	if err == nil {
		return "Linux " + x.sys.Release()
	}
	release := x.sys.Release()
	evidence := []string{err.Error()}
	c := why.KernelTLS
	switch config := x.kernelConfig(release, "CONFIG_TLS"); config {
	case "":
	case "m", "y":
		evidence = append(evidence, "CONFIG_TLS="+config)
	default:
		evidence = append(evidence, "CONFIG_TLS is not set")
		c.Command = "boot a kernel with CONFIG_TLS"
	}
	if x.sys.Exists("/lib/modules/" + release) {
		if deps, err := x.sys.Read("/lib/modules/" + release + "/modules.dep"); err == nil && !strings.Contains(string(deps), "/net/tls/tls.ko") {
			evidence = append(evidence, "no module tls in /lib/modules/"+release)
		}
	} else {
		evidence = append(evidence, "there is no /lib/modules/"+release+": the kernel's package was replaced while it ran?")
		c.Command = "reboot"
	}
	x.found(strings.Join(evidence, "; "), c)
	return ""
}

// kernelConfig returns "y", "m", "n", or "" if it cannot be known.
func (x *exam) kernelConfig(release, option string) string {
	text, err := x.sys.Read("/boot/config-" + release)
	if err != nil {
		return ""
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(option) + `=([ym])$`).FindSubmatch(text)
	if m == nil {
		return "n"
	}
	return string(m[1])
}

func handshakes(_ context.Context, x *exam) string {
	group, err := x.sys.Group()
	if err != nil {
		x.found(err.Error(), why.Cause{What: "this kernel asks nobody for TLS handshakes", Command: "boot Linux 6.4 or later, with CONFIG_NET_HANDSHAKE"})
		return ""
	}
	x.group = group
	return ""
}

func clock(_ context.Context, x *exam) string {
	now, built := x.sys.Now(), x.sys.Built()
	if now.Before(built) {
		x.found("rpctls was made after "+built.UTC().Format(time.RFC3339), why.Clock(now))
		return ""
	}
	return now.UTC().Format(time.RFC3339)
}

// filesCause says what to do about files that cannot be loaded.
func filesCause(daemon, config, setup string, err error) why.Cause {
	c := why.Cause{What: daemon + " cannot load its files", Command: daemon + " -check -config " + config}
	var path *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist) && errors.As(err, &path) && path.Path == config:
		return why.Cause{What: daemon + " is not configured", Command: setup}
	case errors.Is(err, certs.ErrKeyPermission):
		c.What = daemon + " does not take a private key that others can read or write"
		if m := readPath.FindStringSubmatch(err.Error()); m != nil {
			c.Command = "chmod 0600 " + m[1]
			if strings.Contains(err.Error(), "run chown") {
				c.Command = "chown root " + m[1]
			}
		}
	case errors.Is(err, fs.ErrPermission) && errors.As(err, &path):
		c.What = daemon + " may not read a file of its own"
		c.Command = fmt.Sprintf("chgrp rpctls %[1]s && chmod 0640 %[1]s", path.Path)
	}
	return c
}

var readPath = regexp.MustCompile(`read (/[^:]+): `)

func clientFiles(_ context.Context, x *exam) string {
	c, err := x.sys.Client(x.ClientConfig, x.User)
	if err != nil {
		x.found(oneLine(err.Error()), filesCause(clientDaemon, x.ClientConfig, "rpctls-client-setup FILE.bundle", err))
		return ""
	}
	x.client = c
	return ""
}

func serverFiles(_ context.Context, x *exam) string {
	s, err := x.sys.Server(x.ServerConfig, x.User)
	if err != nil {
		x.found(oneLine(err.Error()), filesCause(serverDaemon, x.ServerConfig, "rpctls-server-setup", err))
		return ""
	}
	x.server = s
	return ""
}

// soon is when an end is a warning: as the daemons have it.
const soon = 14 * 24 * time.Hour

// dates looks at an identity of this host.
func (x *exam) dates(id *certs.Identity) {
	now := x.sys.Now()
	evidence := fmt.Sprintf("%s (%s): valid from %s to %s", id.CertificatePath(), id.Subject(),
		id.NotBefore().UTC().Format(time.RFC3339), id.NotAfter().UTC().Format(time.RFC3339))
	renew := func(what string) why.Cause { return why.Cause{What: what, Command: "rpctlsctl cert renew --due"} }
	switch {
	case now.After(id.NotAfter()):
		x.found(evidence, renew("this host's certificate has expired"))
	case now.Before(id.NotBefore()):
		x.found(evidence, why.Cause{What: "this host's certificate is not valid yet: the clock, or that of its CA, is wrong", Command: "timedatectl"})
	case id.NotAfter().Sub(now) < soon:
		x.warn(evidence, renew(fmt.Sprintf("this host's certificate expires in %d days", (id.NotAfter().Sub(now)+12*time.Hour)/(24*time.Hour))))
	}
}

// stale looks at CRLs. With a server given, whether one matters is seen there.
func (x *exam) stale(t *certs.Trust) {
	lines, refused := t.Stale(x.sys.Now())
	for _, line := range lines {
		c := why.Cause{What: "a CRL has run out", Where: "on the CA's host", Command: "rpctlsctl cert crl -o crl.pem, and copy that here"}
		if refused && x.Server == "" {
			c.What += ", and whoever it is about is refused"
			x.found(line, c)
			continue
		}
		x.warn(line, c)
	}
}

func clientDates(_ context.Context, x *exam) string {
	if x.Server == "" {
		for _, id := range x.client.Loaded.Identities() {
			x.dates(id)
		}
		for _, t := range x.client.Loaded.Trusts() {
			x.stale(t)
		}
		return ""
	}
	if id, err := x.identity(); id != nil {
		x.dates(id)
	} else if err != nil {
		return err.Error()
	}
	x.stale(x.client.Loaded.View(x.Server).Trust)
	return ""
}

// identity is what the mount shows; nil: nothing.
func (x *exam) identity() (*certs.Identity, error) {
	if x.Identity != "" {
		return x.client.Loaded.Named(x.Identity)
	}
	if x.Security == Anonymous {
		return nil, nil
	}
	return x.client.Loaded.View(x.Server).Identity, nil
}

// names makes sure that clients can know a server by a name of this host. Which one
// they use is theirs to say, so it is a warning.
func (x *exam) names(id *certs.Identity) {
	have := x.sys.Names()
	if len(have) == 0 {
		return
	}
	for _, name := range have {
		if id.Leaf().VerifyHostname(name) == nil {
			return
		}
		// A host often knows the first label of its name only.
		for _, dns := range id.Leaf().DNSNames {
			if strings.HasPrefix(strings.ToLower(dns), strings.ToLower(name)+".") {
				return
			}
		}
	}
	x.warn(fmt.Sprintf("%s (%s) is for none of %s", id.CertificatePath(), id.Subject(), strings.Join(have[:min(len(have), 8)], ", ")),
		why.Cause{What: "the server's certificate is for none of the names and addresses of this host", Command: "rpctlsctl cert server --here"})
}

func serverDates(_ context.Context, x *exam) string {
	for i, id := range x.server.Loaded.Identities() {
		x.dates(id)
		if i == 0 {
			x.names(id)
		}
	}
	if t := x.server.Loaded.Trust(); t != nil {
		x.stale(t)
	}
	return ""
}

// agent makes sure that a daemon runs, here.
func (x *exam) agent(ctx context.Context, daemon, config string, notRunning why.Cause) Talk {
	dir := runtimeDirectory(config)
	talk, err := x.sys.Dial(ctx, dir, daemon)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			x.warn(err.Error(), why.Cause{What: daemon + " cannot be asked by this user", Command: "run it as root"})
			return nil
		}
		x.found(err.Error(), why.Cause{What: daemon + " does not answer", Command: "systemctl restart " + daemon})
		return nil
	}
	sockets := x.sys.Recorded(filepath.Join(dir, daemon+".lock"))
	members, merr := x.sys.Members(x.group)
	if talk == nil {
		evidence := "nobody listens on " + filepath.Join(dir, daemon+".sock")
		for _, m := range members {
			if !slices.Contains(sockets, m) {
				if p := x.sys.Program(m); p != "" {
					evidence += "; " + p + " answers the kernel"
				}
			}
		}
		x.found(evidence, notRunning)
		return nil
	}
	if merr == nil && len(sockets) > 0 && !slices.ContainsFunc(sockets, func(s uint32) bool { return slices.Contains(members, s) }) {
		x.found(fmt.Sprintf("its socket is not in group %d of this network namespace", x.group), why.OtherNamespace)
	}
	return talk
}

func clientAgent(ctx context.Context, x *exam) string {
	if x.talk = x.agent(ctx, clientDaemon, x.ClientConfig, why.NotRunning); x.talk != nil && x.Server == "" {
		x.talk.Close()
	}
	return ""
}

func serverAgent(ctx context.Context, x *exam) string {
	c := why.Cause{What: "nobody answers nfsd's request for a TLS handshake: rpctlssd is not running", Command: "systemctl enable --now rpctlssd"}
	if talk := x.agent(ctx, serverDaemon, x.ServerConfig, c); talk != nil {
		talk.Close()
	}
	return ""
}

func threads(_ context.Context, x *exam) string {
	n, err := x.sys.Threads()
	if err != nil || n == 0 {
		evidence := "nfsd has no threads"
		if err != nil {
			evidence = err.Error()
		}
		x.found(evidence, why.Cause{What: "the NFS server does not run", Command: "systemctl enable --now nfs-server"})
		return ""
	}
	return fmt.Sprintf("%d threads", n)
}

// others looks for programs that are neither of ours.
func others(_ context.Context, x *exam) string {
	members, err := x.sys.Members(x.group)
	if err != nil {
		return err.Error()
	}
	ours := make(map[uint32]bool)
	for _, d := range [][2]string{{clientDaemon, x.ClientConfig}, {serverDaemon, x.ServerConfig}} {
		for _, inode := range x.sys.Recorded(filepath.Join(runtimeDirectory(d[1]), d[0]+".lock")) {
			ours[inode] = true
		}
	}
	slices.Sort(members)
	var programs []string
	for _, m := range slices.Compact(members) {
		if ours[m] {
			continue
		}
		p := x.sys.Program(m)
		if p == "" {
			p = fmt.Sprintf("a program with socket %d", m)
		}
		if name, _, _ := strings.Cut(p, " "); name == clientDaemon || name == serverDaemon {
			continue // ours, with a configuration that was not named
		}
		programs = append(programs, p)
	}
	if len(programs) == 0 {
		return ""
	}
	c := why.Rival
	if !strings.HasPrefix(programs[0], "tlshd ") {
		c.Command = "ss -pA netlink"
	}
	x.found(strings.Join(programs, ", "), c)
	return ""
}

// oneLine makes one line of a text.
func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
