// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rpctls/certs/ca"
	"rpctls/certs/ca/index"
	"rpctls/internal/durable"
	"rpctls/rpctlsctl/cli"
)

func revokeCmd(open sessions) *cobra.Command {
	var all bool
	var reason string
	reasons := slices.Sorted(maps.Keys(index.Reasons))
	cmd := &cobra.Command{
		Use:   "revoke NAME|SERIAL...",
		Short: "revoke certificates and make the CRL that says so",
		Long: `Revoke certificates, for good, and make a new CRL. It is published in the directory
"crl" of --dir, where the daemons of this host find it within seconds and refuse
the revoked peer at its next handshake. To other hosts it must be brought.`,
		Example: "  rpctlsctl cert revoke client1.example.com --reason keyCompromise",
		Args:    cli.Args(1, -1, "names or serial numbers"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			if !slices.Contains(reasons, reason) {
				return cli.Usagef("--reason %q is none of %s", reason, strings.Join(reasons, ", "))
			}
			return s.revoke(args, reason, all)
		},
		ValidArgsFunction: completeNames(open),
	}
	f := cmd.Flags()
	f.StringVar(&reason, "reason", "unspecified", "`why`: "+strings.Join(reasons, ", "))
	f.BoolVar(&all, "all", false, "revoke all certificates of that name that have not expired")
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(reasons, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (s *session) revoke(args []string, reason string, all bool) error {
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	var chosen []ca.Certificate
	for _, what := range args {
		found := c.Find(what)
		if len(found) == 0 {
			_, err := one(nil, what, s.now())
			return err
		}
		// What has expired is revoked only if it is named by its number.
		live := slices.DeleteFunc(unrevoked(found), func(c ca.Certificate) bool {
			return c.State(s.now()) == ca.Expired && !strings.HasPrefix(c.Serial, strings.ToLower(what))
		})
		switch {
		case len(live) == 0:
			s.printf("%s has no certificate that could be revoked: %s\n", what, states(found, s.now()))
		case len(live) > 1 && !all:
			return cli.Hint(ambiguous(live, what), "name one by its serial number, or all with --all")
		}
		chosen = append(chosen, live...)
	}
	if len(chosen) == 0 {
		return nil
	}
	var serials []string
	for _, c := range chosen {
		serials = append(serials, c.Serial)
	}
	if err := c.Revoke(serials, reason); err != nil {
		return explain(err)
	}
	for _, c := range chosen {
		s.did("revoke", "%s (%s, %s)", c.Serial, c.Purpose, c.Names)
	}
	for _, serial := range serials {
		if err := c.ForgetKey(serial); err != nil { // nobody shall fetch it any more
			return err
		}
	}
	s.crlState(&c.Books)
	if as, err := installedAs(&c.Books, s.store(), chosen[0].Purpose, chosen[0].Names); err == nil && as != "" {
		s.note("%s on this host is among them or has the same names", as)
	}
	return nil
}

func states(found []ca.Certificate, now time.Time) string {
	var list []string
	for _, c := range found {
		list = append(list, fmt.Sprintf("%s is %s", c.Serial, c.State(now)))
	}
	return strings.Join(list, ", ")
}

func (s *session) crlState(b *ca.Books) {
	s.printf("CRL: number %v, until %s\n", b.CRL.Number, date(b.CRL.NextUpdate))
}

func crlCmd(open sessions) *cobra.Command {
	var days int
	var out string
	cmd := &cobra.Command{
		Use:   "crl",
		Short: "make a new CRL",
		Long: `Make the list of revoked certificates anew, with the next number, and publish it in
the directory "crl" of --dir. Hosts that are configured with a CRL refuse everybody
when it has run out, so it is also made by the timer ("rpctlsctl cert renew --due")
when a third of its time is left.`,
		Args: cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := open(cmd)
			if days < 1 || days > 366 {
				return cli.Usagef("--days %d: want 1 to 366", days)
			}
			c, err := s.open()
			if err != nil {
				return err
			}
			defer c.Close()
			if err := c.MakeCRL(time.Duration(days) * 24 * time.Hour); err != nil {
				return explain(err)
			}
			s.crlState(&c.Books)
			if out == "" {
				return nil
			}
			data := pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: c.CRL.Raw})
			return s.disk.WriteFile(out, data, durable.Attr{Mode: 0o644})
		},
	}
	cmd.Flags().IntVar(&days, "days", int(ca.DefaultCRLLifetime/(24*time.Hour)), "how long it is good for")
	cmd.Flags().StringVarP(&out, "output", "o", "", "write a copy to this `file`, in PEM")
	return cmd
}
