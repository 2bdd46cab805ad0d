// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/store"
	"rpctls/rpctlsctl/cli"
)

// caSoon is how long before the CA's end one is told: every host has to learn
// of the next.
const caSoon = 365 * 24 * time.Hour

// caUrgent is when certificates begin to be shorter than they should be.
const caUrgent = ca.DefaultDays * 24 * time.Hour

func renewCmd(open sessions) *cobra.Command {
	var keep, due, strict bool
	var days int
	var out string
	cmd := &cobra.Command{
		Use:   "renew {NAME|SERIAL | --due}",
		Short: "issue a certificate once more, with new dates",
		Long: `Issue a certificate once more for the same names, with a new private key. If it
is installed on this host it is replaced there, and the daemons notice; mounts
are not disturbed. The former one stays valid until it expires.

With --due everything is renewed that the CA on this host has issued for this
host and that has less than a third of its life left, and the CRL likewise. That
is what the timer runs; where there is nothing to do it does nothing. What will
expire and cannot be renewed here is told; with --strict that is a failure.`,
		Example: "  rpctlsctl cert renew --due\n  rpctlsctl cert renew client1.example.com && rpctlsctl cert bundle client1.example.com",
		Args:    cli.Args(0, 1, "one name or serial number, or --due"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			switch {
			case due == (len(args) == 1):
				return cli.Usagef("want either one name or serial number, or --due")
			case due:
				if err := s.renewDue(keep, days); err != nil || !strict || s.unsolved == 0 {
					return err
				}
				return cli.Hint(fmt.Errorf("what will expire and cannot be renewed here: %d", s.unsolved), "the notes say which, and where")
			case strict:
				return cli.Usagef("--strict is for --due")
			}
			return s.renewOne(args[0], keep, days, out)
		},
		ValidArgsFunction: completeNames(open),
	}
	f := cmd.Flags()
	f.BoolVar(&due, "due", false, "renew what is due on this host")
	f.BoolVar(&strict, "strict", false, "with --due, fail if something will expire that cannot be renewed here")
	f.BoolVar(&keep, "keep-key", false, "certify the same key again")
	f.IntVar(&days, "days", 0, "its lifetime (default: that of the former one)")
	f.StringVarP(&out, "output", "o", "", "`file` for a certificate whose key is elsewhere (default: NAME.pem)")
	return cmd
}

// order is for the same as a certificate.
func order(c ca.Certificate, days int) ca.Order {
	if days == 0 {
		days = max(1, int(c.NotAfter.Sub(c.IssuedAt).Round(24*time.Hour)/(24*time.Hour)))
	}
	return ca.Order{Purpose: c.Purpose, Names: c.Names, Days: days}
}

func (s *session) renewOne(what string, keep bool, days int, out string) error {
	st := s.store()
	release, err := st.Lock()
	if err != nil {
		return explain(err)
	}
	defer release()
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	former, err := one(unrevoked(c.Find(what)), what, s.now())
	if err != nil {
		return err
	}
	as, err := installedAs(&c.Books, st, former.Purpose, former.Names)
	if err != nil {
		return err
	}
	if as != "" {
		return s.renewInstalled(st, c, as, former, keep, days)
	}
	o := order(former, days)
	key, err := keyOf(c, st, "", former.Serial)
	switch {
	case err != nil:
		return err
	case key == nil && !keep:
		return cli.Hint(fmt.Errorf("the private key of %s was made elsewhere", former.Serial),
			"have a new request signed, or certify the same key with --keep-key")
	case key == nil:
		return s.renewElsewhere(c, o, former, out)
	case keep:
		o.Signer = key
	}
	o.StoreKey = true
	d, err := c.Draft(o)
	if err != nil {
		return explain(err)
	}
	defer d.Discard()
	if err := d.Commit(); err != nil {
		return err
	}
	s.issued(o, d)
	return c.ForgetKey(former.Serial)
}

// renewElsewhere certifies a key again that only the host has.
func (s *session) renewElsewhere(c *ca.CA, o ca.Order, former ca.Certificate, out string) error {
	copied, err := c.Copy(former.Serial)
	if err != nil {
		return err
	}
	o.Public = copied.PublicKey
	if out == "" {
		out = former.Names.First() + ".pem"
	}
	if err := refuseExisting(out, false); err != nil {
		return err
	}
	return s.sign(c, o, out)
}

func (s *session) renewInstalled(st *store.Store, c *ca.CA, as string, former ca.Certificate, keep bool, days int) error {
	o := order(former, days)
	if keep {
		key, err := keyOf(c, st, as, former.Serial)
		if err != nil {
			return err
		}
		o.Signer = key
	}
	// Whom the host trusts was decided when the identity was installed.
	return s.install(st, c, as, o, store.TrustKeep)
}

// renewDue goes on after a failure: what can be renewed is.
func (s *session) renewDue(keep bool, days int) error {
	st := s.store()
	names, err := st.Names()
	if err != nil {
		return err
	}
	if _, err := ca.Read(s.caDir); errors.Is(err, ca.ErrNone) {
		s.printf("no CA in %s: nothing is renewed here\n", s.caDir)
		for _, name := range names {
			s.foreign(st, name)
		}
		return s.foreignCRLs("")
	}
	release, err := st.Lock()
	if err != nil {
		return explain(err)
	}
	defer release()
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	var failed []error
	for _, name := range names {
		if err := s.renewIfDue(st, c, name, keep, days); err != nil {
			failed = append(failed, fmt.Errorf("renew %s: %w", name, err))
		}
	}
	if c.CRLDue(s.now()) {
		if err := c.MakeCRL(ca.DefaultCRLLifetime); err != nil {
			failed = append(failed, fmt.Errorf("make CRL: %w", explain(err)))
		}
	}
	if c.CRL != nil {
		s.printf("CRL: number %v, until %s\n", c.CRL.Number, date(c.CRL.NextUpdate))
	}
	if left := c.Cert.NotAfter.Sub(s.now()); left < caSoon {
		tell := s.note
		if left < caUrgent {
			tell = s.unsolvedNote
		}
		tell("%s expires in %d days: make a new CA and let every host trust both", certs.Subject(c.Cert), left/(24*time.Hour))
	}
	s.othersDue(st, c)
	failed = append(failed, s.foreignCRLs(c.PublishedCRL(s.crlDir())))
	return errors.Join(failed...)
}

// foreignCRLs tells of CRLs on this host that run out, and that others have to
// renew: with that the daemons refuse whoever their CAs have certified.
func (s *session) foreignCRLs(own string) error {
	if _, err := os.Stat(s.crlDir()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	paths, err := certs.ListCRLs(s.crlDir())
	if err != nil {
		return err
	}
	for _, path := range paths {
		if path == own {
			continue
		}
		lines, err := certs.CRLWarnings(path, s.now())
		if err != nil {
			lines = []string{err.Error()}
		}
		for _, line := range lines {
			s.unsolvedNote("%s: bring a newer one there", line)
		}
	}
	return nil
}

// unsolvedNote is a note of what a person has to do, and soon.
func (s *session) unsolvedNote(format string, args ...any) {
	s.unsolved++
	s.note(format, args...)
}

// othersDue tells of certificates that were issued for other hosts and soon
// expire, if none was issued since. Whether their hosts are still there is not
// known here: it is no failure.
func (s *session) othersDue(st *store.Store, c *ca.CA) {
	all := c.Certificates()
	for i, have := range all {
		if have.State(s.now()) != ca.Valid || !ca.Due(have.IssuedAt, have.NotAfter, s.now()) {
			continue
		}
		newer := slices.ContainsFunc(all[i+1:], func(n ca.Certificate) bool {
			return n.Purpose == have.Purpose && n.Names.Equal(have.Names) && n.RevokedAt.IsZero()
		})
		if as, err := installedAs(&c.Books, st, have.Purpose, have.Names); newer || err != nil || as != "" {
			continue
		}
		s.note("%s of %s expires %s: renew it and bring it there, or let it expire", have.Serial, have.Names, date(have.NotAfter))
	}
}

func (s *session) renewIfDue(st *store.Store, c *ca.CA, name string, keep bool, days int) error {
	chain, err := st.Chain(name)
	if err != nil {
		return err
	}
	have, ours := c.Lookup(chain[0])
	switch {
	case !ours:
		s.foreign(st, name)
		return nil
	case !have.RevokedAt.IsZero():
		s.unsolvedNote("%s is revoked since %s and is not renewed", name, date(have.RevokedAt))
		return nil
	case !ca.Due(have.IssuedAt, have.NotAfter, s.now()):
		life := have.NotAfter.Sub(have.IssuedAt)
		s.printf("%s: until %s, due %s\n", name, date(have.NotAfter), date(have.NotAfter.Add(-life/3)))
		return nil
	}
	return s.renewInstalled(st, c, name, have, keep, days)
}

// foreign tells of an identity that another CA has issued.
func (s *session) foreign(st *store.Store, name string) {
	chain, err := st.Chain(name)
	if err != nil {
		s.note("%v", err)
		return
	}
	leaf := chain[0]
	text := fmt.Sprintf("%s: until %s, issued by %s elsewhere", name, date(leaf.NotAfter), certs.Printable(leaf.Issuer.String()))
	if ca.NotYet(leaf.NotBefore, s.now()) {
		s.unsolvedNote("%s: it begins only %s", text, date(leaf.NotBefore))
		return
	}
	if ca.Due(leaf.NotBefore, leaf.NotAfter, s.now()) {
		s.unsolvedNote("%s: it is time to renew it there", text)
		return
	}
	s.printf("%s\n", text)
}
