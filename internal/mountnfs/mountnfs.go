// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package mountnfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rpctls/internal/clientask"
	"rpctls/internal/control"
	"rpctls/internal/mountinfo"
	"rpctls/internal/version"
)

// Exit codes of mount(8).
const (
	exitOK        = 0
	exitUsage     = 1
	exitSystem    = 2
	exitInterrupt = 8
	exitFail      = 32
)

// names by which the real helper is called, and this program in its place.
var inPlaceOf = []string{"mount.nfs", "mount.nfs4", "umount.nfs", "umount.nfs4"}

// A program is one call of the helper.
type program struct {
	argv           []string
	name           string // as it is called
	stdout, stderr io.Writer
	real           []string // where the real helper may be
}

// Main is the mount helper, and the unmount helper; which of them, argv[0] says.
// It returns the exit code, unless the real helper takes the place of this
// process.
func Main(argv []string) int {
	if len(argv) == 0 {
		argv = []string{"mount.nfstls"}
	}
	p := &program{argv: argv, name: filepath.Base(argv[0]), stdout: os.Stdout, stderr: os.Stderr, real: realHelpers()}
	return p.run()
}

func (p *program) run() int {
	// Both: with the set-user-ID bit on this file, which a chmod of mount.nfs
	// reaches by the link, a user would be half of root.
	root := os.Getuid() == 0 && os.Geteuid() == 0
	if isWatcher(p.argv) {
		if !root {
			return p.fail(exitUsage, errors.New("only root can watch a mount"), "")
		}
		return p.watch()
	}
	unmount := strings.HasPrefix(p.name, "umount")
	standsIn := slices.Contains(inPlaceOf, p.name)
	c, err := parseArgs(p.argv[1:])
	// Whatever is not about TLS is not for us, whatever is wrong with it.
	if unmount || standsIn && !ours(c.options) {
		return p.passOn()
	}
	switch {
	case err != nil:
		return p.usageError(err)
	case c.help:
		p.usage()
		return exitOK
	case c.version:
		fmt.Fprintln(p.stdout, p.name, version.String())
		return exitOK
	}
	w, err := parseOptions(c.options)
	if err != nil {
		return p.usageError(err)
	}
	if !root {
		// mount(8) has given up its rights: this is a mount by a user, which
		// only what fstab says can allow, and the real helper reads it there.
		return p.fail(exitUsage, errors.New("tls, mtls and tlscertname are for root"), "for mounts by users, write xprtsec=tls or xprtsec=mtls into /etc/fstab")
	}
	real, err := findReal(p.real)
	if err != nil {
		return p.noHelper(err)
	}
	if w.remount {
		return p.remount(real, c, w)
	}
	return p.mount(real, c, w)
}

// passOn makes the real helper of this process.
func (p *program) passOn() int {
	real, err := findReal(p.real)
	if err != nil {
		return p.noHelper(err)
	}
	argv := slices.Clone(p.argv)
	argv[0] = asHelper(argv[0])
	return p.fail(exitSystem, become(real, argv), "")
}

func (p *program) noHelper(err error) int {
	return p.fail(exitSystem, err, "install nfs-common or nfs-utils")
}

// fail says what is wrong and what to do.
func (p *program) fail(code int, err error, hint string) int {
	fmt.Fprintf(p.stderr, "%s: %s\n", p.name, oneLine(err.Error()))
	if e, ok := errors.AsType[*control.Error](err); ok && hint == "" {
		hint = e.Hint
	}
	if hint != "" {
		fmt.Fprintf(p.stderr, "hint: %s\n", oneLine(hint))
	}
	return code
}

func (p *program) usageError(err error) int {
	return p.fail(exitUsage, err, p.name+" --help")
}

func (p *program) usage() {
	fmt.Fprintf(p.stdout, `%[1]s: mount an NFS file system over TLS

usage: %[1]s remotetarget dir [-rvVwfnsh] [-o options]
       mount -t nfstls [-o options] remotetarget dir

options, beside those of nfs(5):
  tls               encrypted; with this host's certificate if it has one and the
                    server asks for it. This is the default
  mtls              encrypted, and both sides show a certificate
  tlscertname=NAME  mtls, with the identity of that name (rpctlsctl cert list)

  -r, -w            read-only, read-write
  -v                say more
  -f                do everything but the mount
  -n                do not write to /etc/mtab
  -s                tolerate unknown options
  -V, -h            print the version, this text

Nothing is ever mounted in clear. The exit code is that of mount(8).
`, p.name)
}

// remount checks what a remount cannot change, and leaves the rest to the real
// helper.
func (p *program) remount(real string, c commandLine, w wish) int {
	where, err := look(c.dir, "")
	if err != nil {
		return p.fail(exitSystem, err, "")
	}
	if m, found, _, err := where.top(); err != nil {
		return p.fail(exitSystem, err, "")
	} else if found && (!m.TLS() || w.policy == onlyMutual && m.XprtSec != mountinfo.Mutual) {
		return p.fail(exitFail, fmt.Errorf("%s is mounted with xprtsec=%s, which a remount cannot change", where.dir, m.XprtSec), "unmount it and mount it anew")
	}
	return p.fail(exitSystem, become(real, p.helperArgs(c, w.rest)), "")
}

// helperArgs are the real helper's arguments.
func (p *program) helperArgs(c commandLine, options []string) []string {
	argv := append([]string{asHelper(p.argv[0]), c.spec, c.dir}, c.flags...)
	if len(options) > 0 {
		argv = append(argv, "-o", strings.Join(options, ","))
	}
	return argv
}

// mount mounts.
func (p *program) mount(real string, c commandLine, w wish) int {
	where, err := look(c.dir, mountinfo.HostOf(c.spec))
	if err != nil {
		return p.fail(exitSystem, err, "")
	}
	daemon := ask(context.Background(), c.spec)
	defer daemon.close()
	have, err := daemon.identities()
	anonymous := false // for want of somebody to ask
	switch {
	case w.identity != "":
		if err == nil {
			err = named(have, w.identity)
		}
		if err != nil {
			return p.fail(exitFail, fmt.Errorf("tlscertname=%s: %w", w.identity, err), hintNames(have))
		}
	case err == nil || w.policy != preferMutual || w.serial != "":
		// It does not depend on the answer.
	case errors.Is(err, control.ErrNotRunning):
		anonymous = true // another daemon may answer the kernel
	default:
		// Not knowing is no reason to be content with less.
		return p.fail(exitFail, fmt.Errorf("%s: cannot find out whether this host has a certificate for that server: %w", c.spec, err),
			"journalctl -u rpctlscd; -o mtls or xprtsec=tls would say which it shall be")
	}
	attempts := w.attempts(have.Default)
	for i, a := range attempts {
		o, code := p.try(real, c, w, a, where, daemon)
		if code == exitOK && anonymous {
			p.note(c, "without a certificate of this host: rpctlscd is not running")
		}
		if code >= 0 {
			return code
		}
		events := daemon.events(a.xprtsec == mountinfo.Mutual)
		why := explain(o, a, events, daemon)
		if i+1 < len(attempts) && !o.interrupted {
			switch {
			case notAsked(events):
				p.note(c, "the server does not ask for a certificate: trying without")
				continue
			case refusedByExport(o, events):
				p.note(c, "the export does not take this host with its certificate: trying without")
				continue
			}
		}
		if o.interrupted {
			p.stderr.Write([]byte(o.said))
			return exitInterrupt
		}
		if !why.known || c.verbose {
			p.stderr.Write([]byte(o.said))
		}
		if why.text != "" {
			p.fail(o.code, fmt.Errorf("%s: %s", c.spec, why.text), why.hint)
		}
		return o.code
	}
	return exitFail // there always is an attempt
}

func (p *program) note(c commandLine, text string) {
	fmt.Fprintf(p.stderr, "%s: %s: %s\n", p.name, c.spec, text)
}

// named makes sure that there is an identity before the kernel asks for it.
func named(have clientask.Identities, name string) error {
	for _, n := range have.Named {
		if n.Name != name {
			continue
		}
		if n.Error != "" {
			return errors.New(n.Error)
		}
		return nil
	}
	return errors.New("this host has no identity of that name")
}

func hintNames(have clientask.Identities) string {
	var names []string
	for _, n := range have.Named {
		if n.Error == "" && len(names) < 8 {
			names = append(names, n.Name)
		}
	}
	if len(names) == 0 {
		return "rpctlsctl cert client --as NAME or cert import --as NAME makes one; is rpctlscd running?"
	}
	return "there are: " + strings.Join(names, ", ")
}

// try makes one attempt. The code is the exit code, or negative if the attempt
// has failed and the outcome says how.
func (p *program) try(real string, c commandLine, w wish, a attempt, where *place, daemon *agent) (outcome, int) {
	var serial int32
	if a.xprtsec == mountinfo.Mutual && w.serial == "" && !c.fake {
		var err error
		if serial, err = daemon.present(a.identity); err != nil {
			return outcome{}, p.fail(exitFail, fmt.Errorf("%s: %w", c.spec, err), "")
		}
	}
	in := func(start func() error) error { return start() }
	if w.clientID {
		in = func(start func() error) error { return inUTS(a, start) }
	}
	o, err := runHelper(real, p.helperArgs(c, w.options(a, serial)), in, func() bool { return daemon.hopeless(a.xprtsec == mountinfo.Mutual) })
	if err != nil {
		return o, p.fail(exitSystem, err, "")
	}
	defer o.alive.Close()
	if c.fake {
		if o.code != exitOK {
			return o, -1
		}
		p.stderr.Write([]byte(o.said))
		return o, exitOK
	}
	// Whatever the code: a helper that could not write to mtab, or got a signal,
	// may have mounted before.
	mounted, err := where.verify(a.xprtsec)
	if o.code != exitOK && !mounted && err == nil {
		return o, -1
	}
	p.stderr.Write([]byte(o.said))
	switch {
	case err != nil:
		return o, p.fail(exitFail, err, hintWeak)
	case o.code != exitOK && o.interrupted:
		return o, exitInterrupt
	case mounted:
		return o, o.code
	}
	return o, p.background(c, a, where, daemon, o)
}

const hintWeak = "another mount of that server is in its way: unmount that one, or please report this"
