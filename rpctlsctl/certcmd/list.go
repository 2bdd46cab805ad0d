// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/ca/index"
	"rpctls/certs/intake"
	"rpctls/certs/san"
	"rpctls/rpctlsctl/cli"
)

// An Entry is one certificate in a listing. The fields are documented in
// docs/certificates.md.
type Entry struct {
	Serial      string     `json:"serial"`
	Kind        string     `json:"kind"`
	State       string     `json:"state"`
	Names       []string   `json:"names"`
	Issuer      string     `json:"issuer"`
	NotBefore   *time.Time `json:"not_before,omitempty"`
	NotAfter    time.Time  `json:"not_after"`
	Fingerprint string     `json:"sha256"`
	IssuedAt    *time.Time `json:"issued_at,omitempty"`
	RevokedAt   *time.Time `json:"revoked_at,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	InstalledAs string     `json:"installed_as,omitempty"`
	KeyWaits    bool       `json:"key_waits,omitempty"`

	Permits []string `json:"permits,omitempty"` // of a CA

	text string // Names for people
	CRL  *CRL   `json:"crl,omitempty"` // of a CA
}

// A CRL is the state of a CA's CRL.
type CRL struct {
	Number     int64     `json:"number"`
	ThisUpdate time.Time `json:"this_update"`
	NextUpdate time.Time `json:"next_update"`
	Revoked    int       `json:"revoked"`
}

func listCmd(open sessions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list what the CA has issued and what is installed here",
		Args:  cli.Args(0, 0, "none"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := open(cmd)
			entries, err := s.list()
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(s.out, entries)
			}
			if len(entries) == 0 {
				s.printf("nothing was issued in %s, nothing is installed in %s\n", s.caDir, s.dir)
				return nil
			}
			w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "SERIAL\tKIND\tSTATE\tUNTIL\tINSTALLED\tNAMES")
			for _, e := range entries {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Serial, e.Kind, e.State, date(e.NotAfter), dash(e.InstalledAs), strings.ReplaceAll(e.text, ", ", " "))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs")
	return cmd
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// list returns what the CA has issued, the oldest first, then what is installed
// here and was issued elsewhere.
func (s *session) list() ([]Entry, error) {
	entries := []Entry{} // in JSON an empty list, not null
	books, err := ca.Read(s.caDir)
	if err != nil && !errors.Is(err, ca.ErrNone) {
		return nil, err
	}
	installed := make(map[string]string) // fingerprint to name
	var foreign []Entry
	names, err := s.store().Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		chain, err := s.store().Chain(name)
		if err != nil {
			s.note("%v", err)
			continue
		}
		if books != nil {
			if _, ours := books.Lookup(chain[0]); ours {
				installed[certs.Fingerprint(chain[0])] = name
				continue
			}
		}
		e := s.entryOf(chain[0])
		e.InstalledAs = name
		foreign = append(foreign, e)
	}
	if books != nil {
		for _, c := range books.Certificates() {
			e := s.entry(books, c)
			e.InstalledAs = installed[c.Fingerprint]
			entries = append(entries, e)
		}
	}
	return append(entries, foreign...), nil
}

// entry is for a certificate in the books.
func (s *session) entry(b *ca.Books, c ca.Certificate) Entry {
	e := Entry{
		Serial: c.Serial, Kind: c.Purpose.String(), State: string(c.State(s.now())), Names: c.Names.Strings(),
		Issuer: certs.Subject(b.Cert), NotAfter: c.NotAfter, Fingerprint: c.Fingerprint, IssuedAt: &c.IssuedAt,
		Reason: c.Reason, KeyWaits: b.HasKey(c.Serial),
	}
	e.text = c.Names.String()
	if !c.RevokedAt.IsZero() {
		e.RevokedAt = &c.RevokedAt
	}
	return e
}

// entryOf is for any certificate, as far as it speaks for itself.
func (s *session) entryOf(cert *x509.Certificate) Entry {
	e := Entry{
		Serial: index.SerialOf(cert.SerialNumber), Kind: kindOf(cert), State: string(ca.Valid),
		Names: append([]string{}, san.Known(cert).Strings()...), text: san.Known(cert).String(), Issuer: certs.Printable(cert.Issuer.String()),
		NotBefore: &cert.NotBefore, NotAfter: cert.NotAfter, Fingerprint: certs.Fingerprint(cert),
	}
	if e.Kind == "ca" {
		e.text = certs.Subject(cert)
		e.Names = []string{e.text}
	}
	switch now := s.now(); {
	case now.After(cert.NotAfter):
		e.State = string(ca.Expired)
	case now.Before(cert.NotBefore):
		e.State = "not yet valid"
	}
	return e
}

func kindOf(cert *x509.Certificate) string {
	server, client := certs.ServerAuth.Allows(cert), certs.ClientAuth.Allows(cert)
	switch {
	case cert.BasicConstraintsValid && cert.IsCA:
		return "ca"
	case server && client:
		return "both"
	case server:
		return "server"
	case client:
		return "client"
	}
	return "other"
}

func showCmd(open sessions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show [NAME|SERIAL|FILE]",
		Short: "show the CA, what it issued for a name, or the certificates in a file",
		Args:  cli.Args(0, 1, "at most one name, serial number or file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			entries, err := s.show(args)
			if err != nil {
				return err
			}
			if asJSON {
				return cli.JSON(s.out, entries)
			}
			for i, e := range entries {
				if i > 0 {
					s.printf("\n")
				}
				s.print(e)
			}
			return nil
		},
		ValidArgsFunction: completeNamesAndFiles(open),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "for programs")
	return cmd
}

func (s *session) show(args []string) ([]Entry, error) {
	if len(args) == 1 {
		if _, err := os.Stat(args[0]); err == nil || strings.Contains(args[0], "/") {
			return s.showFile(args[0])
		}
	}
	books, err := s.read()
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		e := s.entryOf(books.Cert)
		e.Permits = books.Permits()
		if l := books.CRL; l != nil {
			e.CRL = &CRL{l.Number.Int64(), l.ThisUpdate, l.NextUpdate, len(l.RevokedCertificateEntries)}
		}
		return []Entry{e}, nil
	}
	found := books.Find(args[0])
	if len(found) == 0 {
		return nil, cli.Hint(fmt.Errorf("the CA has issued nothing for %q", args[0]), "rpctlsctl cert list shows what there is")
	}
	var entries []Entry
	for _, c := range found {
		e := s.entry(books, c)
		if cert, err := books.Copy(c.Serial); err == nil {
			e.NotBefore = &cert.NotBefore
		}
		entries = append(entries, e)
	}
	return entries, nil
}

func (s *session) showFile(path string) ([]Entry, error) {
	data, err := readInput(path)
	if err != nil {
		return nil, err
	}
	var m intake.Material
	if err := m.Add(path, data); err != nil {
		return nil, err
	}
	if len(m.Certificates()) == 0 {
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	var entries []Entry
	for _, cert := range m.Certificates() {
		entries = append(entries, s.entryOf(cert))
	}
	return entries, nil
}

func (s *session) print(e Entry) {
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(w, "%s\t%s\n", key, value)
		}
	}
	when := func(t *time.Time) string {
		if t == nil {
			return ""
		}
		return t.UTC().Format(time.RFC3339)
	}
	line("names", e.text)
	line("kind", e.Kind)
	state := e.State
	if e.RevokedAt != nil {
		state += " since " + when(e.RevokedAt) + ", " + e.Reason
	}
	line("state", state)
	line("from", when(e.NotBefore))
	line("until", when(&e.NotAfter))
	line("issuer", e.Issuer)
	line("serial", e.Serial)
	line("SHA-256", e.Fingerprint)
	line("permits", strings.Join(e.Permits, ", "))
	if e.CRL != nil {
		line("CRL", fmt.Sprintf("number %d, until %s, %d revoked", e.CRL.Number, when(&e.CRL.NextUpdate), e.CRL.Revoked))
	}
	if e.KeyWaits {
		line("key", "waits for rpctlsctl cert bundle")
	}
	w.Flush()
}
