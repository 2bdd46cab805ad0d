// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/bundle"
	"rpctls/certs/ca"
	"rpctls/certs/intake"
	"rpctls/certs/san"
	"rpctls/certs/store"
	"rpctls/rpctlsctl/cli"
)

type importFlags struct {
	installFlags
	bundle, key, passphrase, kind string
	anchors, names                []string
}

func importCmd(open sessions) *cobra.Command {
	var f importFlags
	cmd := &cobra.Command{
		Use:   "import {FILE... | --bundle FILE}",
		Short: "install what a CA has issued elsewhere",
		Long: `Install a certificate on this host: the answer to "rpctlsctl cert request", what an
existing CA has issued, or a bundle. The files, in PEM or DER and in any order, hold
the certificate, those above it and the CA's; the private key is among them, given
with --key, or waiting from the request. What ends the chain becomes trusted.

Nothing is installed unless all is well: the key fits, the chain is complete, every
issuer is a CA, the names are there, the extended key usage and the dates are right.`,
		Example: "  rpctlsctl cert import nfs.pem intermediate.pem root.pem\n  rpctlsctl cert import --bundle client1.bundle",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			if (len(args) == 0) == (f.bundle == "") {
				return cli.Usagef("want either files or --bundle")
			}
			mode, err := f.check()
			if err != nil {
				return err
			}
			return s.imports(args, f, mode)
		},
	}
	f.register(cmd, "")
	cmd.Flags().Lookup("as").Usage += " (default: server or client)"
	g := cmd.Flags()
	g.StringVar(&f.bundle, "bundle", "", "a `file` that rpctlsctl cert bundle has made")
	g.StringVar(&f.passphrase, "passphrase-file", "", "`file` whose first line is the bundle's passphrase (default: ask)")
	g.StringVar(&f.key, "key", "", "`file` with the private key")
	g.StringArrayVar(&f.anchors, "ca", nil, "`file` with the CA to trust, if it is not self-signed (may be repeated)")
	g.StringArrayVar(&f.names, "name", nil, "the certificate must hold this `name` (may be repeated; default: those of the request)")
	g.StringVar(&f.kind, "kind", "", "it is for a `server` or client (default: what the certificate says)")
	completeWords(cmd, "kind", certs.ServerAuth.String(), certs.ClientAuth.String())
	return cmd
}

func (s *session) imports(args []string, f importFlags, mode store.TrustMode) error {
	w := intake.Wanted{Now: s.now()}
	var err error
	if f.kind != "" {
		if w.Purpose, err = certs.ParsePurpose(f.kind); err != nil {
			return cli.Usagef("--kind: %w", err)
		}
	}
	if w.Names, err = san.Parse(f.names...); err != nil {
		return cli.Usagef("--name: %w", err)
	}
	if err := ca.CheckClock(w.Now, s.env.Built); err != nil {
		return explain(err)
	}
	var m intake.Material
	if err := s.gather(&m, args, f); err != nil {
		return err
	}
	if w.Anchors, err = readAnchors(&m, f.anchors); err != nil {
		return err
	}
	st := s.store()
	release, err := st.Lock()
	if err != nil {
		return explain(err)
	}
	defer release()
	if w.Known, err = st.Trusted(); err != nil {
		return err
	}
	waiting, err := s.findKey(st, &m, f.as)
	if err != nil {
		return err
	}
	if waiting != nil {
		if w.Names.Len() == 0 {
			w.Names = waiting.CSR.Names
		}
		if w.Purpose == 0 {
			w.Purpose = waiting.CSR.Purpose
		}
	}
	id, err := m.Judge(w)
	if err != nil {
		return refusal(err)
	}
	for _, line := range id.Notes {
		s.note("%s", line)
	}
	as := f.as
	switch {
	case as != "":
	case waiting != nil:
		as = waiting.Name
	default:
		as = id.Purpose.String()
	}
	if err := s.importInto(st, as, id, f.force, mode); err != nil {
		return err
	}
	if waiting != nil && waiting.Name == as {
		return st.RemoveRequest(as)
	}
	return nil
}

// refusal shows all that is wrong, a line for each.
func refusal(err error) error {
	if r, ok := errors.AsType[*intake.Refusal](err); ok {
		return cli.Hint(problems{r}, "nothing was installed")
	}
	return err
}

type problems struct{ *intake.Refusal }

func (p problems) Unwrap() error { return p.Refusal }

// Lines returns one line for each problem.
func (p problems) Lines() []string {
	var lines []string
	for _, problem := range p.Problems {
		lines = append(lines, string(problem))
	}
	return lines
}

func (s *session) gather(m *intake.Material, args []string, f importFlags) error {
	for _, path := range args {
		data, err := readInput(path)
		if err != nil {
			return err
		}
		if err := m.Add(path, data); err != nil {
			return err
		}
	}
	if f.bundle != "" {
		data, err := readInput(f.bundle)
		if err != nil {
			return err
		}
		if bundle.Encrypted(data) {
			passphrase, err := s.passphrase(f.passphrase, "passphrase of "+f.bundle+": ")
			if err != nil {
				return err
			}
			if data, err = bundle.Decrypt(data, passphrase); err != nil {
				return fmt.Errorf("%s: %w", f.bundle, err)
			}
		}
		if err := m.Add(f.bundle, data); err != nil {
			return err
		}
	}
	if f.key != "" {
		data, err := readInput(f.key)
		if err != nil {
			return err
		}
		return m.Add(f.key, data)
	}
	return nil
}

// readAnchors reads the CAs that are named, and makes them part of the material.
func readAnchors(m *intake.Material, paths []string) ([]*x509.Certificate, error) {
	var anchors []*x509.Certificate
	for _, path := range paths {
		data, err := readInput(path)
		if err != nil {
			return nil, err
		}
		var am intake.Material
		if err := am.Add(path, data); err != nil {
			return nil, err
		}
		for _, cert := range am.Certificates() {
			if _, err := certs.NewTrust([]*x509.Certificate{cert}); err != nil {
				return nil, fmt.Errorf("%s: %w", path, err)
			}
			anchors = append(anchors, cert)
		}
		if len(am.Certificates()) == 0 {
			return nil, fmt.Errorf("%s: no certificate", path)
		}
	}
	return anchors, nil
}

// findKey looks for the private key that the material lacks: that of a request,
// which it returns, or the one that is installed, if the certificate is a new
// one for the same.
func (s *session) findKey(st *store.Store, m *intake.Material, as string) (*store.Request, error) {
	requests, installed := []string{as}, []string{as}
	if as == "" {
		var err error
		if requests, err = st.Requests(); err != nil {
			return nil, err
		}
		if installed, err = st.Names(); err != nil {
			return nil, err
		}
	}
	var waiting []*store.Request
	for _, name := range requests {
		r, err := st.LoadRequest(name)
		if errors.Is(err, store.ErrNone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m.HasCertificateFor(r.Key.Public()) {
			if m.Keys() == 0 {
				m.AddKey(r.Path, r.Key)
			}
			return r, nil
		}
		waiting = append(waiting, r)
	}
	if m.Keys() > 0 {
		return nil, nil
	}
	for _, name := range installed {
		if id, err := st.Load(name); err == nil && m.HasCertificateFor(id.Key.Public()) {
			m.AddKey(id.KeyPath, id.Key)
			return nil, nil
		}
	}
	if len(waiting) == 1 {
		// It is meant, and does not fit: let that be said.
		m.AddKey(waiting[0].Path, waiting[0].Key)
		return waiting[0], nil
	}
	return nil, nil
}

// importInto installs what has been judged.
func (s *session) importInto(st *store.Store, as string, id *intake.Identity, force bool, mode store.TrustMode) error {
	trust, err := st.StageTrust(mode, id.Anchor)
	if err != nil {
		return explain(err)
	}
	if trust != nil {
		defer trust.Discard()
	}
	if st.Same(as, id.Chain, id.Key) {
		if trust != nil {
			return trust.Publish()
		}
		s.printf("it is installed already: %s\n", st.CertPath(as))
		return nil
	}
	if err := mayReplace(st, as, id, force); err != nil {
		return err
	}
	staged, err := st.Stage(as, id.Chain, id.Key)
	if err != nil {
		return err
	}
	defer staged.Discard()
	leaf := id.Chain[0]
	if trust != nil {
		if err := trust.Publish(); err != nil {
			return err
		}
	}
	if err := staged.Publish(); err != nil {
		return err
	}
	s.did("install", "a %s's certificate for %s, until %s", id.Purpose, san.Known(leaf), date(leaf.NotAfter))
	return nil
}

// mayReplace protects an identity that is for something else. A new certificate
// of the same CA, or for the same names, is what one expects.
func mayReplace(st *store.Store, as string, id *intake.Identity, force bool) error {
	chain, err := st.Chain(as)
	if errors.Is(err, store.ErrNone) || force {
		return nil
	}
	if err != nil {
		return cli.Hint(err, "--force replaces what is there")
	}
	former, leaf := chain[0], id.Chain[0]
	if former.Issuer.String() == leaf.Issuer.String() || san.Known(leaf).Has(san.Known(former)) {
		return nil
	}
	return cli.Hint(fmt.Errorf("%s is for %s, issued by %s", st.CertPath(as), san.Known(former), certs.Printable(former.Issuer.String())),
		"--force replaces it, --as installs under another name")
}

// passphrase reads one from a file, or asks for it.
func (s *session) passphrase(path, prompt string) (string, error) {
	if path == "" {
		return s.env.Passphrase(prompt)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	return firstLine(path, data)
}
