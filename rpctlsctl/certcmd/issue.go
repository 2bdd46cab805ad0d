// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/san"
	"rpctls/certs/store"
	"rpctls/rpctlsctl/cli"
)

// installFlags are those of commands that install an identity.
type installFlags struct {
	as    string
	trust string
	force bool
}

func (f *installFlags) register(cmd *cobra.Command, as string) {
	cmd.Flags().StringVar(&f.as, "as", as, "install it as `NAME`.pem and NAME.key in --dir")
	cmd.Flags().StringVar(&f.trust, "trust", "", "what to do if this host trusts other CAs: `add`, replace or keep")
	cmd.Flags().BoolVar(&f.force, "force", false, "replace an identity that another CA has issued")
	completeTrust(cmd)
}

func (f *installFlags) check() (store.TrustMode, error) {
	if f.as != "" {
		if err := store.CheckName(f.as); err != nil {
			return "", cli.Usagef("--as: %w", err)
		}
	}
	mode, err := store.ParseTrustMode(f.trust)
	if err != nil {
		return "", cli.Usagef("--trust: %w", err)
	}
	return mode, nil
}

func issueCmd(open sessions, p certs.Purpose) *cobra.Command {
	var (
		nf      nameFlags
		inf     installFlags
		days    int
		install bool
		again   bool
	)
	cmd := &cobra.Command{
		Use:   p.String() + " NAME...",
		Short: "issue a " + p.String() + "'s certificate",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			names, err := nf.names(s, args)
			if err != nil {
				return err
			}
			mode, err := inf.check()
			if err != nil {
				return err
			}
			o := ca.Order{Purpose: p, Names: names, Days: days}
			if install {
				return s.issueHere(o, inf, mode, again)
			}
			return s.issueAway(o, again)
		},
	}
	switch p {
	case certs.ServerAuth:
		cmd.Long = `Issue a certificate for an NFS server and install it on this host, with the CA as
one to trust. Clients must mount by one of its names: host names and addresses,
given here, or this host's own with --here. With --install=false it stays with
the CA, for "rpctlsctl cert bundle".`
		cmd.Example = "  rpctlsctl cert server nfs.example.com 192.0.2.1\n  rpctlsctl cert server --here"
	default:
		cmd.Long = `Issue a certificate for an NFS client. It stays with the CA until "rpctlsctl cert
bundle" fetches it, or is installed on this host with --install.`
		cmd.Example = "  rpctlsctl cert client client1.example.com && rpctlsctl cert bundle client1.example.com"
	}
	nf.register(cmd)
	inf.register(cmd, p.String())
	f := cmd.Flags()
	f.IntVar(&days, "days", ca.DefaultDays, "its lifetime")
	f.BoolVar(&install, "install", p == certs.ServerAuth, "install it on this host")
	f.BoolVar(&again, "again", false, "issue another even if there is a good one")
	return cmd
}

// good reports whether a certificate is what is ordered and has time left.
func (s *session) good(c ca.Certificate, o ca.Order) bool {
	return c.State(s.now()) == ca.Valid && c.Purpose == o.Purpose && c.Names.Equal(o.Names) &&
		!ca.Due(c.IssuedAt, c.NotAfter, s.now())
}

// issueAway issues a certificate that waits with the CA, together with its key.
func (s *session) issueAway(o ca.Order, again bool) error {
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	for _, have := range c.Certificates() {
		if !again && s.good(have, o) && c.HasKey(have.Serial) {
			s.printf("a %s's certificate for %s is there already, until %s: %s\n", o.Purpose, o.Names, date(have.NotAfter), have.Serial)
			return nil
		}
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
	return nil
}

func (s *session) issued(o ca.Order, d *ca.Draft) {
	serial := d.Serial()
	if s.disk.DryRun {
		serial = "(serial number)"
	}
	s.did("issue", "a %s's certificate for %s, until %s: %s", o.Purpose, o.Names, date(d.Cert.NotAfter), serial)
}

// issueHere issues a certificate and installs it on this host.
func (s *session) issueHere(o ca.Order, f installFlags, mode store.TrustMode, again bool) error {
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
	current, err := st.Chain(f.as)
	switch {
	case errors.Is(err, store.ErrNone):
	case err != nil && !f.force:
		return cli.Hint(err, "--force replaces what is there")
	case err == nil:
		have, ours := c.Lookup(current[0])
		if !ours && !f.force {
			return cli.Hint(fmt.Errorf("%s was issued by %s, not by the CA in %s", st.CertPath(f.as), certs.Printable(current[0].Issuer.String()), s.caDir),
				"--force replaces it, --as installs under another name")
		}
		if _, loadErr := st.Load(f.as); ours && loadErr == nil && s.good(have, o) && !again {
			return s.alreadyInstalled(st, c, f.as, have, mode)
		}
	}
	return s.install(st, c, f.as, o, mode)
}

// alreadyInstalled makes sure of the trust, which may be missing yet.
func (s *session) alreadyInstalled(st *store.Store, c *ca.CA, as string, have ca.Certificate, mode store.TrustMode) error {
	trust, err := st.StageTrust(mode, c.Cert)
	if err != nil {
		return explain(err)
	}
	if trust != nil {
		defer trust.Discard()
		if err := trust.Publish(); err != nil {
			return err
		}
	}
	s.printf("a %s's certificate for %s is installed already, until %s: %s\n", have.Purpose, have.Names, date(have.NotAfter), st.CertPath(as))
	return nil
}

// install issues a certificate into an identity of this host. Everything that
// takes room on the disk is done before the certificate counts as issued.
func (s *session) install(st *store.Store, c *ca.CA, as string, o ca.Order, mode store.TrustMode) error {
	trust, err := st.StageTrust(mode, c.Cert)
	if err != nil {
		return explain(err)
	}
	if trust != nil {
		defer trust.Discard()
	}
	d, err := c.Draft(o)
	if err != nil {
		return explain(err)
	}
	defer d.Discard()
	staged, err := st.Stage(as, []*x509.Certificate{d.Cert}, d.Key)
	if err != nil {
		return err
	}
	defer staged.Discard()
	if err := d.Commit(); err != nil {
		return err
	}
	s.issued(o, d)
	if trust != nil {
		if err := trust.Publish(); err != nil {
			return notInstalled(err)
		}
	}
	return notInstalled(staged.Publish())
}

func notInstalled(err error) error {
	if err == nil {
		return nil
	}
	return cli.Hint(fmt.Errorf("issued, but not installed: %w", err), "do it again: another certificate will be issued")
}

// keyOf returns the private key of a certificate in the books: where it is
// installed, or where it waits; nil if it is elsewhere.
func keyOf(c *ca.CA, st *store.Store, as, serial string) (crypto.Signer, error) {
	if as != "" {
		id, err := st.Load(as)
		if err != nil {
			return nil, err
		}
		return id.Key, nil
	}
	if c.HasKey(serial) {
		return c.Key(serial)
	}
	return nil, nil
}

// installedAs finds the identity of this host that is for the same as a
// certificate of the CA, "" if there is none.
func installedAs(b *ca.Books, st *store.Store, p certs.Purpose, names san.Names) (string, error) {
	all, err := st.Names()
	if err != nil {
		return "", err
	}
	for _, name := range all {
		chain, err := st.Chain(name)
		if err != nil {
			continue // of no help, and not asked for
		}
		if c, ours := b.Lookup(chain[0]); ours && c.Purpose == p && c.Names.Equal(names) {
			return name, nil
		}
	}
	return "", nil
}
