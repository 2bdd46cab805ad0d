// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/san"
	"rpctls/certs/store"
	"rpctls/internal/durable"
	"rpctls/rpctlsctl/cli"
)

// An Env is what the commands need of their surroundings.
type Env struct {
	Now func() time.Time
	// Built is a time before which no clock is believed.
	Built time.Time
	// Patience is how long to wait for another process.
	Patience time.Duration
	// KeyGroup is the group that may read private keys, 0 for none.
	KeyGroup func() int
	// Here returns this host's full name and its addresses.
	Here func() ([]string, error)
	// Addresses returns the addresses alone.
	Addresses func() ([]string, error)
	// Hostname returns this host's short name.
	Hostname func() string
	// Step is asked before each step of a change; nil but in tests.
	Step func(op, path string) error
	// Passphrase asks for one on the terminal.
	Passphrase func(prompt string) (string, error)
	// PassphraseCost is that of trying one.
	PassphraseCost int
}

// New returns the command.
func New(env Env) *cobra.Command {
	var o options
	s := func(cmd *cobra.Command) *session { return newSession(env, o, cmd) }
	cmd := cli.Group("cert", "make, install and renew certificates",
		initCmd(s), issueCmd(s, certs.ServerAuth), issueCmd(s, certs.ClientAuth),
		requestCmd(s), signCmd(s), importCmd(s), trustCmd(s),
		renewCmd(s), revokeCmd(s), crlCmd(s),
		listCmd(s), showCmd(s), bundleCmd(s))
	flags := cmd.PersistentFlags()
	flags.StringVar(&o.dir, "dir", "/etc/rpctls", "this host's `directory`")
	flags.StringVar(&o.ca, "ca-dir", "", "the CA's `directory` (default \"ca\" in --dir)")
	flags.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and change nothing")
	return cmd
}

type options struct {
	dir, ca string
	dryRun  bool
}

// A session is one run of one command.
type session struct {
	env   Env
	out   io.Writer
	err   io.Writer
	disk  *durable.Disk
	dir   string
	caDir string

	unsolved int // notes of what a person has to do
}

// sessions makes the session of a command, once its flags are known.
type sessions func(*cobra.Command) *session

func newSession(env Env, o options, cmd *cobra.Command) *session {
	s := &session{env: env, out: cmd.OutOrStdout(), err: cmd.ErrOrStderr(), dir: o.dir, caDir: o.ca}
	if s.caDir == "" {
		s.caDir = filepath.Join(s.dir, "ca")
	}
	s.disk = &durable.Disk{DryRun: o.dryRun, Report: s.report, Step: env.Step}
	return s
}

// past tells what was done, for each verb of a change.
var past = map[string]string{"write": "wrote", "remove": "removed", "make directory": "made directory", "link": "linked",
	"make": "made", "issue": "issued", "revoke": "revoked", "install": "installed", "renew": "renewed", "trust": "trusted"}

// did says that something was done, or would be.
func (s *session) did(verb, format string, args ...any) {
	text := past[verb]
	if s.disk.DryRun {
		text = "would " + verb
	}
	fmt.Fprintf(s.out, "%s %s\n", text, fmt.Sprintf(format, args...))
}

// report tells of changes to files. Directories are told of only before they
// are made: afterwards the files in them say enough.
func (s *session) report(c durable.Change) {
	if c.Verb == "make directory" && !s.disk.DryRun || s.internal(c.Path) {
		return
	}
	s.did(c.Verb, "%s", c.Path)
}

// internal are the files that are a CA's own business.
func (s *session) internal(path string) bool {
	return strings.HasPrefix(path, filepath.Join(s.caDir, "issued")+"/")
}

func (s *session) printf(format string, args ...any) { fmt.Fprintf(s.out, format, args...) }

// note says on standard error what is worth knowing.
func (s *session) note(format string, args ...any) {
	fmt.Fprintf(s.err, "note: %s\n", fmt.Sprintf(format, args...))
}

func (s *session) now() time.Time { return s.env.Now() }

func (s *session) store() *store.Store {
	return &store.Store{Dir: s.dir, Disk: s.disk, Group: s.env.KeyGroup(), Patience: s.env.Patience}
}

func (s *session) caEnv() ca.Env {
	return ca.Env{Disk: s.disk, Now: s.env.Now, Built: s.env.Built, Patience: s.env.Patience, PublishCRL: s.crlDir()}
}

// crlDir is where the daemons find CRLs.
func (s *session) crlDir() string { return filepath.Join(s.dir, "crl") }

// open opens the CA for changes.
func (s *session) open() (*ca.CA, error) {
	c, err := ca.Open(s.caEnv(), s.caDir)
	if err != nil {
		return nil, explain(err)
	}
	for _, line := range c.Repaired {
		s.note("%s: %s", s.caDir, line)
	}
	return c, nil
}

func (s *session) read() (*ca.Books, error) {
	b, err := ca.Read(s.caDir)
	return b, explain(err)
}

// explain adds what to do about errors of the packages below.
func explain(err error) error {
	for _, e := range []struct {
		is   error
		hint string
	}{
		{ca.ErrNone, "rpctlsctl cert init makes one; --ca-dir names another directory"},
		{ca.ErrExists, "rpctlsctl cert show shows it"},
		{ca.ErrClock, "set the clock (timedatectl, chronyc makestep), then do it again"},
		{durable.ErrLocked, "wait for the other rpctlsctl, then do it again"},
		{store.ErrOtherTrust, "--trust add trusts it as well, --trust replace it alone, --trust keep changes nothing there"},
		{store.ErrNone, "rpctlsctl cert list shows what there is"},
	} {
		if errors.Is(err, e.is) {
			return cli.Hint(err, "%s", e.hint)
		}
	}
	return err
}

// names are those of the arguments, and of the flags --user and --here.
type nameFlags struct {
	users     []string
	here      bool
	addresses bool
}

func (f *nameFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.users, "user", nil, "a FreeBSD server shall map it to `user@domain`")
	cmd.Flags().BoolVar(&f.here, "here", false, "add this host's full name and its addresses")
	cmd.Flags().BoolVar(&f.addresses, "addresses", false, "add this host's addresses")
}

func (f *nameFlags) names(s *session, args []string) (san.Names, error) {
	texts := slices.Clone(args)
	if f.here {
		here, err := s.env.Here()
		if err != nil {
			return san.Names{}, cli.Hint(err, "give the names on the command line instead of --here")
		}
		texts = append(texts, here...)
	} else if f.addresses {
		addrs, err := s.env.Addresses()
		if err != nil {
			return san.Names{}, err
		}
		texts = append(texts, addrs...)
	}
	for _, user := range f.users {
		texts = append(texts, "user:"+strings.TrimPrefix(user, "user:"))
	}
	names, err := san.Parse(texts...)
	if err != nil {
		return names, cli.Usagef("%w", err)
	}
	if len(names.Hosts()) == 0 {
		return names, cli.Hint(cli.Usagef("no host name or address"), "give the names by which the host is known, or --here")
	}
	return names, nil
}

// one picks the certificate that a person means by a name: the newest of those
// that are for the same. The books are in order. Where a clock was ahead for a
// while they name some that begin in years; these count only if there is no other.
func one(found []ca.Certificate, what string, now time.Time) (ca.Certificate, error) {
	if len(found) == 0 {
		return ca.Certificate{}, cli.Hint(fmt.Errorf("the CA has issued no certificate for %q that is not revoked", what), "rpctlsctl cert list shows what there is")
	}
	newest := found[0]
	for _, c := range found[1:] {
		if c.Purpose != newest.Purpose || !c.Names.Equal(newest.Names) {
			return ca.Certificate{}, ambiguous(found, what)
		}
		if !ca.NotYet(c.IssuedAt, now) || ca.NotYet(newest.IssuedAt, now) {
			newest = c
		}
	}
	return newest, nil
}

func ambiguous(found []ca.Certificate, what string) error {
	var list []string
	for _, c := range found {
		list = append(list, fmt.Sprintf("%s (%s, %s, until %s)", c.Serial, c.Purpose, c.Names, date(c.NotAfter)))
	}
	return cli.Hint(fmt.Errorf("%q stands for several: %s", what, strings.Join(list, "; ")), "name one by its serial number")
}

// unrevoked leaves out what is revoked.
func unrevoked(found []ca.Certificate) []ca.Certificate {
	return slices.DeleteFunc(slices.Clone(found), func(c ca.Certificate) bool { return !c.RevokedAt.IsZero() })
}

func date(t time.Time) string { return t.UTC().Format(time.DateOnly) }

// refuseExisting is for files that the user has named.
func refuseExisting(path string, force bool) error {
	if _, err := os.Lstat(path); err == nil && !force {
		return cli.Hint(fmt.Errorf("%s exists", path), "--force replaces it, -o names another file")
	}
	return nil
}

// completeNames offers the names in the CA's books to the shell.
func completeNames(s sessions) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		books, err := ca.Read(s(cmd).caDir)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, c := range books.Certificates() {
			if c.RevokedAt.IsZero() {
				names = append(names, c.Names.Hosts()...)
			}
		}
		slices.Sort(names)
		return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNamesAndFiles offers files besides, for commands that take either. A
// shell offers files of its own only where it is offered nothing, so they are
// among what it is offered.
func completeNamesAndFiles(s sessions) cobra.CompletionFunc {
	names := completeNames(s)
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		list, directive := names(cmd, args, begun)
		if len(args) > 0 {
			return list, directive
		}
		list = slices.DeleteFunc(list, func(name string) bool { return !strings.HasPrefix(name, begun) })
		dir, _ := filepath.Split(begun)
		files, err := os.ReadDir(cmp.Or(dir, "."))
		if err != nil {
			return list, directive
		}
		hidden := strings.HasPrefix(begun[len(dir):], ".")
		for _, f := range files {
			name := dir + f.Name()
			if !strings.HasPrefix(name, begun) || strings.HasPrefix(f.Name(), ".") && !hidden {
				continue
			}
			if info, err := os.Stat(name); err == nil && info.IsDir() {
				name += "/"
			}
			list = append(list, name)
			if strings.HasSuffix(name, "/") {
				directive |= cobra.ShellCompDirectiveNoSpace
			}
		}
		return list, directive
	}
}

// completeWords offers words as the value of a flag.
func completeWords(cmd *cobra.Command, flag string, words ...string) {
	complete := cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
	if err := cmd.RegisterFlagCompletionFunc(flag, complete); err != nil {
		panic("internal error: " + err.Error()) // there is no such flag
	}
}

// completeTrust offers what --trust takes.
func completeTrust(cmd *cobra.Command) {
	completeWords(cmd, "trust", string(store.TrustAdd), string(store.TrustReplace), string(store.TrustKeep))
}
