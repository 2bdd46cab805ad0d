// SPDX-License-Identifier: BSD-3-Clause

package certcmd

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"rpctls/certs/bundle"
	"rpctls/internal/durable"
	"rpctls/rpctlsctl/cli"
)

func bundleCmd(open sessions) *cobra.Command {
	var encrypt, force, forget bool
	var passphraseFile, out string
	cmd := &cobra.Command{
		Use:   "bundle NAME|SERIAL",
		Short: "put CA, certificate and key of a host into one file",
		Long: `Put into one file what a host needs: the CA, its certificate and its private key.
The host installs it with "rpctlsctl cert import --bundle FILE". With --encrypt a
passphrase protects it; it is an age file then.`,
		Example: "  rpctlsctl cert bundle client1.example.com --encrypt -o client1.bundle",
		Args:    cli.Args(1, 1, "one name or serial number"),
		RunE: func(cmd *cobra.Command, args []string) error {
			s := open(cmd)
			if out == "" {
				out = args[0] + ".bundle"
			}
			if err := refuseExisting(out, force); err != nil {
				return err
			}
			passphrase := ""
			if encrypt || passphraseFile != "" {
				var err error
				if passphrase, err = s.newPassphrase(passphraseFile); err != nil {
					return err
				}
			}
			return s.bundle(args[0], out, passphrase, forget)
		},
		ValidArgsFunction: completeNames(open),
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "`file` to write (default: NAME.bundle)")
	f.BoolVar(&encrypt, "encrypt", false, "encrypt it with a passphrase")
	f.StringVar(&passphraseFile, "passphrase-file", "", "`file` whose first line is the passphrase (default: ask); implies --encrypt")
	f.BoolVar(&forget, "forget-key", false, "remove the private key from the CA's directory afterwards")
	f.BoolVar(&force, "force", false, "replace the file")
	return cmd
}

// bundle writes the file. An empty passphrase leaves it in clear.
func (s *session) bundle(what, out, passphrase string, forget bool) error {
	c, err := s.open()
	if err != nil {
		return err
	}
	defer c.Close()
	found, err := one(unrevoked(c.Find(what)), what, s.now())
	if err != nil {
		return err
	}
	if s.now().After(found.NotAfter) {
		return cli.Hint(fmt.Errorf("%s expired %s", found.Serial, date(found.NotAfter)), "rpctlsctl cert renew %s", what)
	}
	if !c.HasKey(found.Serial) {
		return cli.Hint(fmt.Errorf("the private key of %s (%s) is not here: it was made elsewhere, installed on this host, or forgotten", found.Serial, found.Names),
			"rpctlsctl cert %s --install=false %s --again issues one for a bundle", found.Purpose, found.Names.First())
	}
	key, err := c.Key(found.Serial)
	if err != nil {
		return err
	}
	cert, err := c.Copy(found.Serial)
	if err != nil {
		return err
	}
	text, err := bundle.Encode(key, []*x509.Certificate{cert}, c.Cert)
	if err != nil {
		return err
	}
	defer clear(text)
	data := text
	if passphrase != "" && !s.disk.DryRun {
		if data, err = bundle.Encrypt(text, passphrase, s.env.PassphraseCost); err != nil {
			return err
		}
	}
	if err := s.disk.WriteFile(out, data, durable.Attr{Mode: 0o600}); err != nil {
		return err
	}
	if passphrase == "" {
		s.note("%s holds a private key in clear: keep it secret on its way (--encrypt helps)", out)
	}
	if forget {
		return c.ForgetKey(found.Serial)
	}
	return nil
}

// newPassphrase asks twice.
func (s *session) newPassphrase(path string) (string, error) {
	first, err := s.passphrase(path, "passphrase for the bundle: ")
	if err != nil || path != "" {
		return first, err
	}
	if first == "" {
		return "", errors.New("an empty passphrase protects nothing")
	}
	second, err := s.passphrase("", "once more: ")
	if err == nil && first != second {
		err = errors.New("the passphrases differ")
	}
	return first, err
}

func firstLine(path string, data []byte) (string, error) {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 {
		return "", fmt.Errorf("%s: no passphrase in the first line", path)
	}
	return string(line), nil
}
