// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package policycmd

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/internal/policy"
	"rpctls/internal/reason"
	"rpctls/rpctlsctl/cli"
	"rpctls/rpctlssd"
)

const defaultConfig = "/etc/rpctls/rpctlssd.toml"

// patience bounds the look-ups of one test.
const patience = 15 * time.Second

// New returns the command.
func New(now func() time.Time) *cobra.Command {
	return cli.Group("policy", "whom rpctlssd lets in, and by which rule", testCmd(now), showCmd())
}

// A Rule is one of the policy, for programs. The fields are documented in
// rpctlsctl(8).
type Rule struct {
	Number int            `json:"number"`
	Action policy.Action  `json:"action"`
	Name   string         `json:"name,omitempty"`
	Place  string         `json:"place"`
	Fields []policy.Field `json:"fields,omitempty"` // of show
	Misses string         `json:"misses,omitempty"` // of test
}

func ruleOf(number int, r *policy.Rule) Rule {
	return Rule{Number: number, Action: r.Action, Name: r.Name, Place: r.Place}
}

// A Verdict is what is printed about a client.
type Verdict struct {
	Allowed     bool          `json:"allowed"`
	Reason      reason.Reason `json:"reason"`
	Why         string        `json:"why"`
	Subject     string        `json:"subject,omitempty"`
	Fingerprint string        `json:"sha256,omitempty"`
	From        string        `json:"from,omitempty"`
	// Rule decided; nil if none did. Rules are those that were asked before, with
	// the field that each is missed by.
	Rule  *Rule  `json:"rule,omitempty"`
	Rules []Rule `json:"rules"`
}

// A Listing is what is printed about a policy.
type Listing struct {
	Rules               []Rule        `json:"rules"`
	Default             policy.Action `json:"default"`
	RequireAddressMatch bool          `json:"require_address_match"`
	AddressNames        []string      `json:"address_names,omitempty"`
}

func testCmd(now func() time.Time) *cobra.Command {
	var config, from string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "test [CERT]",
		Short: "say whether a client would be let in, and by which rule",
		Long: `Read rpctlssd's configuration as the daemon does, and say whether it lets in a
client that sends the certificates in the file CERT (PEM, its own first) from an
address; without CERT, a client without a certificate. The daemon is not asked, and
may have loaded something else.`,
		Example: "  rpctlsctl policy test client.pem --from 192.0.2.7",
		Args:    cli.Args(0, 1, "at most one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			var addr netip.Addr
			if from != "" {
				var err error
				if addr, err = netip.ParseAddr(from); err != nil {
					return cli.Usagef("--from: %q is not an IP address", from)
				}
			}
			if len(args) == 0 && from == "" {
				return cli.Usagef("neither a certificate nor --from")
			}
			var chain []*x509.Certificate
			if len(args) == 1 {
				var err error
				if chain, err = readChain(args[0]); err != nil {
					return err
				}
			}
			c, err := rpctlssd.Load(config)
			if err != nil {
				return err
			}
			judge, err := rpctlssd.NewJudge(c, new(certs.Files))
			if err != nil {
				return err
			}
			if from == "" && judge.NeedsSource() {
				return cli.Usagef("it matters in %s where a client is: --from ADDRESS", config)
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			v := test(ctx, judge, chain, addr, now())
			if asJSON {
				err = cli.JSON(cmd.OutOrStdout(), v)
			} else {
				err = v.print(cmd.OutOrStdout())
			}
			if err != nil || v.Allowed {
				return err
			}
			return cli.Hint(fmt.Errorf("refused (%s): %s", v.Reason, v.Why), "%s", hint(v.Reason))
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", defaultConfig, "rpctlssd's configuration `file`")
	f.StringVar(&from, "from", "", "the client's `address`")
	f.BoolVar(&asJSON, "json", false, "for programs")
	return cmd
}

// hint leaves out the one that leads here.
func hint(r reason.Reason) string {
	if r == reason.Policy {
		return "rpctlsctl policy show lists the rules"
	}
	return r.Hint()
}

// test judges a client and finds out what each rule says.
func test(ctx context.Context, judge *rpctlssd.Judge, chain []*x509.Certificate, from netip.Addr, now time.Time) Verdict {
	err := judge.Judge(ctx, chain, from, now)
	v := Verdict{Allowed: err == nil, Reason: reason.Of(err), Rules: []Rule{}}
	var leaf *x509.Certificate
	if len(chain) > 0 {
		leaf = chain[0]
		v.Subject, v.Fingerprint = certs.Subject(leaf), certs.Fingerprint(leaf)
	}
	if from.IsValid() {
		v.From = from.String()
	}
	if err != nil {
		v.Why = err.Error()
	}
	switch v.Reason {
	case reason.OK, reason.Policy, reason.AddressMismatch, reason.AddressUnknown:
	default:
		return v // it did not come to the rules
	}
	p := judge.Policy()
	d := p.Decide(leaf, from)
	misses := p.Misses(leaf, from)
	for i := range p.Rules() {
		r := ruleOf(i+1, &p.Rules()[i])
		if d.Number == i+1 {
			v.Rule = &r
			break
		}
		if misses[i] == "" {
			break // not asked: the decision was made before the rules
		}
		r.Misses = misses[i]
		v.Rules = append(v.Rules, r)
	}
	if err == nil {
		v.Why = d.Why
		if judge.RequiresAddress() && leaf != nil {
			v.Why += ", and its address is one of its certificate's"
		}
	}
	return v
}

func (r *Rule) String() string {
	s := fmt.Sprintf("%d  %s", r.Number, r.Action)
	if r.Name != "" {
		s += " '" + r.Name + "'"
	}
	return s + " (" + r.Place + ")"
}

func (v *Verdict) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	who := "without a certificate"
	if v.Subject != "" {
		who = v.Subject + ", SHA-256 " + v.Fingerprint
	}
	if v.From != "" {
		who += ", from " + v.From
	}
	fmt.Fprintf(w, "client\t%s\n", who)
	for _, r := range v.Rules {
		fmt.Fprintf(w, "rule\t%s: no, by %s\n", r.String(), r.Misses)
	}
	if v.Rule != nil {
		fmt.Fprintf(w, "rule\t%s: decides\n", v.Rule.String())
	}
	verdict := "let in"
	if !v.Allowed {
		verdict = "refused, reason " + string(v.Reason)
	}
	fmt.Fprintf(w, "verdict\t%s: %s\n", verdict, v.Why)
	return w.Flush()
}

func showCmd() *cobra.Command {
	var config string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "list the rules in order",
		Args:  cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := rpctlssd.Load(config)
			if err != nil {
				return err
			}
			p, err := policy.New(c.Rules)
			if err != nil {
				return err
			}
			l := Listing{Rules: []Rule{}, Default: p.Default(), RequireAddressMatch: c.RequireAddressMatch, AddressNames: c.AddressNames}
			for i := range p.Rules() {
				r := ruleOf(i+1, &p.Rules()[i])
				r.Fields = p.Rules()[i].Fields()
				l.Rules = append(l.Rules, r)
			}
			if asJSON {
				return cli.JSON(cmd.OutOrStdout(), l)
			}
			return l.print(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", defaultConfig, "rpctlssd's configuration `file`")
	f.BoolVar(&asJSON, "json", false, "for programs")
	return cmd
}

func (l *Listing) print(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(l.Rules) > 0 {
		fmt.Fprintln(w, "RULE\tACTION\tNAME\tPLACE\tWHOM")
	}
	for _, r := range l.Rules {
		name := r.Name
		if name == "" {
			name = "-"
		}
		var whom []string
		for _, f := range r.Fields {
			whom = append(whom, f.Name+" "+strings.Join(f.Values, " or "))
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", r.Number, r.Action, name, r.Place, strings.Join(whom, "; "))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	rest := "whoever no rule matches is let in"
	if l.Default == policy.Deny {
		rest = "whoever no rule matches is refused"
	}
	if len(l.Rules) == 0 {
		rest = "there are no rules: whoever verifies is let in"
	}
	if l.RequireAddressMatch {
		rest += "; a client's address must be one of its certificate's"
	}
	_, err := fmt.Fprintln(out, rest)
	return err
}

// Limits of a file with a chain.
const (
	maxFile  = 1 << 20
	maxChain = 10
)

// readChain reads certificates in PEM, and leaves out private keys, or one in
// DER.
func readChain(path string) ([]*x509.Certificate, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s: over %d bytes", path, maxFile)
	}
	chain, err := parseChain(data)
	clear(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return chain, nil
}

func parseChain(data []byte) (chain []*x509.Certificate, err error) {
	add := func(der []byte) error {
		if len(chain) == maxChain {
			return fmt.Errorf("more than %d certificates", maxChain)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("not a certificate: %s", certs.Printable(err.Error()))
		}
		chain = append(chain, cert)
		return nil
	}
	if len(data) > 0 && data[0] == 0x30 { // a SEQUENCE
		err = add(data)
		return chain, err
	}
	err = certs.DecodePEM(data, func(_ int, block *pem.Block) error {
		if block.Type != "CERTIFICATE" {
			clear(block.Bytes)
			return nil
		}
		return add(block.Bytes)
	})
	if err != nil {
		return nil, err
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
	}
	return chain, nil
}
