// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/rpctlsctl/cli"
)

func initCmd(open sessions) *cobra.Command {
	var o ca.Options
	var ifMissing bool
	cmd := &cobra.Command{
		Use:   "init",
		Short: "make a CA",
		Long: `Make a CA in a directory of its own. Every host that trusts it (ca.pem) believes
what it certifies, so its private key (ca.key) is worth a backup in a safe place.
With --permit it can certify only names in those domains and networks, whoever
may get hold of the key.`,
		Example: "  rpctlsctl cert init --permit example.com --permit 192.0.2.0/24",
		Args:    cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := open(cmd)
			if o.CommonName == "" {
				o.CommonName = defaultName(s.env.Hostname())
			}
			books, err := ca.Init(s.caEnv(), s.caDir, o)
			if errors.Is(err, ca.ErrExists) && ifMissing {
				if books, err = s.read(); err != nil {
					return err
				}
				s.printf("%s is there already, until %s: %s\n", certs.Subject(books.Cert), date(books.Cert.NotAfter), s.caDir)
				return nil
			}
			if err != nil {
				return explain(err)
			}
			s.did("make", "%s, until %s: %s", certs.Subject(books.Cert), date(books.Cert.NotAfter), s.caDir)
			if permits := books.Permits(); len(permits) > 0 {
				s.printf("it certifies only %s\n", strings.Join(permits, ", "))
			}
			if !s.disk.DryRun {
				s.printf("SHA-256 %s\n", certs.Fingerprint(books.Cert))
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.CommonName, "name", "", "its `name` (default \"rpctls CA of \" and this host's)")
	f.StringArrayVar(&o.Permit, "permit", nil, "certify only names in this `domain or network` (may be repeated)")
	f.IntVar(&o.Years, "years", ca.DefaultLifetime, "its lifetime")
	f.BoolVar(&ifMissing, "if-missing", false, "leave a CA that is there as it is, without an error")
	return cmd
}

// defaultName fits what a common name can hold.
func defaultName(host string) string {
	name := "rpctls CA of " + certs.Printable(host)
	return name[:min(len(name), 64)]
}
