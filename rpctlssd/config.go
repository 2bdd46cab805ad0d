// SPDX-License-Identifier: BSD-3-Clause

package rpctlssd

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"rpctls/internal/config"
	"rpctls/internal/names"
	"rpctls/internal/policy"
)

// ClientCertificate says whether clients are asked for a certificate.
type ClientCertificate string

// The policies.
const (
	CertificateNone    ClientCertificate = "none"    // not asked
	CertificateRequest ClientCertificate = "request" // asked; one that is sent must verify
	CertificateRequire ClientCertificate = "require" // asked; without one the handshake fails
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *ClientCertificate) UnmarshalText(b []byte) error {
	w, err := config.Word(b, string(CertificateNone), string(CertificateRequest), string(CertificateRequire))
	*c = ClientCertificate(w)
	return err
}

// file is a configuration file as decoded.
type file struct {
	config.Common
	ClientCertificate   *policyValue          `toml:"client_certificate"`
	FirstRecordTimeout  *config.DurationValue `toml:"first_record_timeout"`
	Identity            []fileIdentity        `toml:"identity"`
	RequireAddressMatch *bool                 `toml:"require_address_match"`
	AddressNames        *[]names.Pattern      `toml:"address_names"`
	policy.File
}

type fileIdentity struct {
	Match       []names.Pattern  `toml:"match"`
	Certificate config.PathValue `toml:"certificate"`
	PrivateKey  config.PathValue `toml:"private_key"`
}

type policyValue = config.Value[ClientCertificate, *ClientCertificate]

// A Config is the server's configuration.
type Config struct {
	config.Settings
	ClientCertificate  ClientCertificate
	FirstRecordTimeout time.Duration
	Identities         []IdentityConfig // first match wins
	// Rules say who is wanted among those who verify, in the order of the files.
	Rules []policy.Rule
	// RequireAddressMatch: a client is where its certificate says. AddressNames
	// are clients whose names are looked up before they come.
	RequireAddressMatch bool
	AddressNames        []string
}

// An IdentityConfig is a further identity, for clients that ask for one of its
// names (server_name, RFC 6066 section 3).
type IdentityConfig struct {
	Match       []names.Pattern
	Certificate config.Path
	PrivateKey  config.Path
}

// defaultFirstRecord is how long a client may take to send its ClientHello, while
// one nfsd thread does nothing else. One that is not busy sends it within a round
// trip; when a hundred come back at once from a slow machine, the last takes more
// than a second. nfsd waits five for the whole handshake, and whoever is waited
// for in vain is given up far sooner ([halfopen.Table]).
const defaultFirstRecord = 3 * time.Second

// Load reads the configuration at path and its drop-ins.
func Load(path string) (Config, error) {
	c := Config{Settings: config.Defaults(), FirstRecordTimeout: defaultFirstRecord}
	var asking *ClientCertificate
	err := config.Load(path, func(_ string, f file) error {
		c.Merge(f.Common)
		if f.ClientCertificate != nil {
			asking = &f.ClientCertificate.V
		}
		if f.FirstRecordTimeout != nil {
			c.FirstRecordTimeout = time.Duration(f.FirstRecordTimeout.V)
		}
		c.Rules = append(c.Rules, f.Rules()...)
		if f.RequireAddressMatch != nil {
			c.RequireAddressMatch = *f.RequireAddressMatch
		}
		if f.AddressNames != nil {
			c.AddressNames = nil
			for _, n := range *f.AddressNames {
				if n.IsAddress() || strings.HasPrefix(n.String(), "*") {
					return fmt.Errorf("address_names: %q is not the name of one host", n)
				}
				c.AddressNames = append(c.AddressNames, n.String())
			}
		}
		for i, id := range f.Identity {
			if len(id.Match) == 0 {
				return fmt.Errorf("identity %d: match is missing", i+1)
			}
			ic := IdentityConfig{id.Match, id.Certificate.V, id.PrivateKey.V}
			if ic.Certificate == "" {
				return fmt.Errorf("identity %d: certificate is missing", i+1)
			}
			if err := config.Pair(ic.Certificate, ic.PrivateKey); err != nil {
				return fmt.Errorf("identity %d: %w", i+1, err)
			}
			c.Identities = append(c.Identities, ic)
		}
		return nil
	})
	if err != nil {
		return Config{}, err
	}
	if err := c.finish(asking); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *Config) finish(asking *ClientCertificate) error {
	if err := config.Pair(c.Certificate, c.PrivateKey); err != nil {
		return err
	}
	if c.Certificate == "" {
		return errors.New("certificate is missing: a server needs one")
	}
	switch {
	case asking != nil:
		c.ClientCertificate = *asking
	case c.Trust != "":
		c.ClientCertificate = CertificateRequest
	default:
		c.ClientCertificate = CertificateNone
	}
	if c.ClientCertificate != CertificateNone && c.Trust == "" {
		return fmt.Errorf("client_certificate = %q needs trust: which CAs may vouch for clients?", c.ClientCertificate)
	}
	if c.ClientCertificate == CertificateNone && c.Trust != "" {
		return errors.New(`trust is set but client_certificate = "none" never uses it`)
	}
	if len(c.CRL) > 0 && c.Trust == "" {
		return errors.New("crl is set but trust is not")
	}
	if err := c.CheckNamespaces(); err != nil {
		return err
	}
	for i, n := range c.Spaces {
		switch in := c.In(n); {
		case n.Trust != "" && c.ClientCertificate == CertificateNone:
			return fmt.Errorf(`namespace %d: trust is set but client_certificate = "none" never uses it`, i+1)
		case len(in.CRL) > 0 && in.Trust == "":
			return fmt.Errorf("namespace %d: crl is set but trust is not", i+1)
		}
	}
	return c.checkPolicy()
}

// in is the configuration of the namespaces that a block is about. One with a
// certificate of its own shows no other.
func (c Config) in(n config.Namespace) Config {
	c.Settings = c.Settings.In(n)
	if n.Certificate != "" {
		c.Identities = nil
	}
	return c
}

// checkPolicy refuses rules that say nothing, or cannot do what they say.
func (c *Config) checkPolicy() error {
	rules, err := policy.New(c.Rules)
	if err != nil {
		return err
	}
	if c.ClientCertificate == CertificateNone {
		if r := rules.CertificateRule(); r != nil {
			return fmt.Errorf("%v: it is about certificates, and clients are not asked for one", r)
		}
		if c.RequireAddressMatch {
			return errors.New("require_address_match is set, and clients are not asked for a certificate")
		}
	}
	if len(c.AddressNames) > 0 && !c.RequireAddressMatch {
		return errors.New("address_names is set but require_address_match is not")
	}
	return nil
}
