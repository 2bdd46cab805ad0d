// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"crypto/x509"
	"fmt"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/intake"
	"rpctls/certs/store"
	"rpctls/rpctlsctl/cli"
)

func trustCmd(open sessions) *cobra.Command {
	var trust string
	cmd := &cobra.Command{
		Use:   "trust FILE...",
		Short: "trust CAs without having a certificate of theirs",
		Long: `Trust the CAs in these files (PEM or DER): "ca.pem" in --dir holds them then, and
peers that they have certified are believed. What a host needs that mounts with
TLS and has no certificate of its own.`,
		Example: "  rpctlsctl cert trust ca.pem",
		Args:    cli.Args(1, -1, "files"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			mode, err := store.ParseTrustMode(trust)
			if err != nil {
				return cli.Usagef("--trust: %w", err)
			}
			return s.trust(args, mode)
		},
	}
	cmd.Flags().StringVar(&trust, "trust", "", "what to do if this host trusts other CAs: `add`, replace or keep")
	completeTrust(cmd)
	return cmd
}

func (s *session) trust(paths []string, mode store.TrustMode) error {
	if err := ca.CheckClock(s.now(), s.env.Built); err != nil {
		return explain(err)
	}
	var anchors []*x509.Certificate
	for _, path := range paths {
		found, err := s.readCAs(path)
		if err != nil {
			return err
		}
		anchors = append(anchors, found...)
	}
	st := s.store()
	release, err := st.Lock()
	if err != nil {
		return explain(err)
	}
	defer release()
	trust, err := st.StageTrust(mode, anchors...)
	if err != nil {
		return explain(err)
	}
	if trust == nil {
		s.printf("%s: nothing to do\n", st.TrustPath())
		return nil
	}
	defer trust.Discard()
	if err := trust.Publish(); err != nil {
		return err
	}
	for _, cert := range anchors {
		s.did("trust", "%s, until %s, SHA-256 %s", certs.Subject(cert), date(cert.NotAfter), certs.Fingerprint(cert))
	}
	return nil
}

// readCAs reads the CAs in a file. A certificate that is not a CA's, or not
// valid now, is an error, and so is a private key.
func (s *session) readCAs(path string) ([]*x509.Certificate, error) {
	data, err := readInput(path)
	if err != nil {
		return nil, err
	}
	var m intake.Material
	if err := m.Add(path, data); err != nil {
		return nil, err
	}
	switch {
	case m.Keys() > 0:
		return nil, cli.Hint(fmt.Errorf("%s holds a private key, which nobody needs in order to trust a CA", path),
			"rpctlsctl cert import --bundle %s, if it is a bundle", path)
	case len(m.Certificates()) == 0:
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	for _, cert := range m.Certificates() {
		if _, err := certs.NewTrust([]*x509.Certificate{cert}); err != nil {
			return nil, cli.Hint(fmt.Errorf("%s: %w", path, err), "want the certificate of a CA, not that of a host")
		}
		switch {
		case s.now().After(cert.NotAfter):
			return nil, fmt.Errorf("%s: %s expired %s", path, certs.Subject(cert), date(cert.NotAfter))
		case s.now().Before(cert.NotBefore):
			return nil, cli.Hint(fmt.Errorf("%s: %s is not valid before %s", path, certs.Subject(cert), date(cert.NotBefore)), "is the clock right?")
		}
	}
	return m.Certificates(), nil
}
