// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"rpctls/certs"
	"rpctls/certs/ca"
	"rpctls/certs/csr"
	"rpctls/certs/san"
	"rpctls/certs/store"
	"rpctls/internal/durable"
	"rpctls/rpctlsctl/cli"
)

func requestCmd(open sessions) *cobra.Command {
	var nf nameFlags
	var as string
	var force bool
	cmd := &cobra.Command{
		Use:   "request {server|client} NAME...",
		Short: "make a key and a request to another CA",
		Long: `Make a private key and a certificate signing request for this host. Both wait in
the directory "request" until "rpctlsctl cert import" installs the answer; what is
installed stays in use meanwhile.`,
		Example:   "  rpctlsctl cert request server nfs.example.com",
		Args:      cli.Args(1, -1, "server or client, and names"),
		ValidArgs: []string{"server", "client"},
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			p, err := certs.ParsePurpose(args[0])
			if err != nil {
				return cli.Usagef("%w", err)
			}
			names, err := nf.names(s, args[1:])
			if err != nil {
				return err
			}
			if as == "" {
				as = p.String()
			}
			if err := store.CheckName(as); err != nil {
				return cli.Usagef("--as: %w", err)
			}
			return s.request(as, p, names, force)
		},
	}
	nf.register(cmd)
	cmd.Flags().StringVar(&as, "as", "", "it is for the identity `NAME` (default: server or client)")
	cmd.Flags().BoolVar(&force, "force", false, "give up a request that waits for an answer, and its key")
	return cmd
}

func (s *session) request(as string, p certs.Purpose, names san.Names, force bool) error {
	st := s.store()
	release, err := st.Lock()
	if err != nil {
		return explain(err)
	}
	defer release()
	waiting, err := st.LoadRequest(as)
	switch {
	case errors.Is(err, store.ErrNone):
	case err == nil && waiting.CSR.Purpose == p && waiting.CSR.Names.Equal(names) && !force:
		s.printf("a request for it waits already: %s\n", waiting.Path)
		return nil
	case !force:
		if err == nil {
			err = fmt.Errorf("a request for %s waits already: %s", waiting.CSR.Names, waiting.Path)
		}
		return cli.Hint(err, "import the answer, or give it up with --force")
	default:
		if err := st.RemoveRequest(as); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	data, err := csr.Create(p, names, key)
	if err != nil {
		return err
	}
	if err := st.SaveRequest(as, data, key); err != nil {
		return err
	}
	s.printf("next: let the CA sign it, then rpctlsctl cert import FILE...\n")
	return nil
}

func signCmd(open sessions) *cobra.Command {
	var (
		yes      bool
		expected []string
		kind     string
		days     int
		out      string
		force    bool
	)
	cmd := &cobra.Command{
		Use:   "sign FILE",
		Short: "sign a request that a host has made",
		Long: `Sign a certificate signing request (PEM or DER). Its names are shown and must be
confirmed, by --yes or by naming each with --name: who can have names signed that
are not his can pose as others. The answer holds the certificate and the CA's.`,
		Example: "  rpctlsctl cert sign request.csr --name nfs2.example.com -o nfs2.pem",
		Args:    cli.Args(1, 1, "one file"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			data, err := readInput(args[0])
			if err != nil {
				return err
			}
			r, err := csr.Parse(data)
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			o := ca.Order{Purpose: r.Purpose, Names: r.Names, Public: r.Key, Days: days}
			if kind != "" {
				if o.Purpose, err = certs.ParsePurpose(kind); err != nil {
					return cli.Usagef("--kind: %w", err)
				}
			}
			if o.Purpose == 0 {
				return cli.Hint(fmt.Errorf("%s does not say whether it is for a server or a client", args[0]), "say it with --kind")
			}
			if r.Purpose != 0 && o.Purpose != r.Purpose {
				return fmt.Errorf("%s asks for a %s's certificate, not a %s's", args[0], r.Purpose, o.Purpose)
			}
			s.printf("%s asks for a %s's certificate for %s\n", args[0], o.Purpose, r.Names)
			if err := confirm(r.Names, expected, yes); err != nil {
				return err
			}
			if out == "" {
				out = strings.TrimSuffix(args[0], filepath.Ext(args[0])) + ".pem"
			}
			if err := refuseExisting(out, force); err != nil {
				return err
			}
			c, err := s.open()
			if err != nil {
				return err
			}
			defer c.Close()
			return s.sign(c, o, out)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&yes, "yes", false, "sign whatever names it asks for")
	f.StringArrayVar(&expected, "name", nil, "it must ask for this `name`, and for no other than these (may be repeated)")
	f.StringVar(&kind, "kind", "", "`server` or client, if the request does not say")
	completeWords(cmd, "kind", certs.ServerAuth.String(), certs.ClientAuth.String())
	f.IntVar(&days, "days", ca.DefaultDays, "its lifetime")
	f.StringVarP(&out, "output", "o", "", "`file` for the answer (default: the request's, ending in .pem)")
	f.BoolVar(&force, "force", false, "replace that file")
	return cmd
}

// confirm compares what is asked for with what is expected.
func confirm(asked san.Names, expected []string, yes bool) error {
	if len(expected) == 0 {
		if yes {
			return nil
		}
		return cli.Hint(errors.New("the names are not confirmed, and nothing is signed"), "if all are the host's own: --yes, or --name for each")
	}
	names, err := san.Parse(expected...)
	if err != nil {
		return cli.Usagef("--name: %w", err)
	}
	if !names.Equal(asked) {
		return fmt.Errorf("it asks for %s, not for %s: nothing is signed", asked, names)
	}
	return nil
}

// sign issues a certificate for a key that is elsewhere, into a file.
func (s *session) sign(c *ca.CA, o ca.Order, out string) error {
	d, err := c.Draft(o)
	if err != nil {
		return explain(err)
	}
	defer d.Discard()
	staged, err := s.disk.Stage(out, chainPEM(d, c), durable.Attr{Mode: 0o644})
	if err != nil {
		return err
	}
	defer staged.Discard()
	if err := d.Commit(); err != nil {
		return err
	}
	s.issued(o, d)
	return staged.Publish()
}

// chainPEM is what a host imports: its certificate and the CA's.
func chainPEM(d *ca.Draft, c *ca.CA) []byte {
	var out bytes.Buffer
	for _, cert := range []*x509.Certificate{d.Cert, c.Cert} {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// maxInput bounds what is read, in bytes.
const maxInput = 2 << 20

// readInput reads a file that the user has named.
func readInput(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxInput {
		return nil, fmt.Errorf("%s: not a regular file of at most %d MiB", path, maxInput>>20)
	}
	return os.ReadFile(path)
}
