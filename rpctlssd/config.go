// SPDX-License-Identifier: BSD-3-Clause

package rpctlssd

import (
	"errors"
	"fmt"
	"time"

	"rpctls/internal/config"
	"rpctls/internal/names"
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
	ClientCertificate  *policyValue          `toml:"client_certificate"`
	FirstRecordTimeout *config.DurationValue `toml:"first_record_timeout"`
	Identity           []fileIdentity        `toml:"identity"`
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
}

// An IdentityConfig is a further identity, for clients that ask for one of its
// names (server_name, RFC 6066 section 3).
type IdentityConfig struct {
	Match       []names.Pattern
	Certificate config.Path
	PrivateKey  config.Path
}

// defaultFirstRecord is how long a client may take to send its ClientHello. A
// real one sends it within one round trip of the server's STARTTLS, and while
// we wait one nfsd thread does nothing else.
const defaultFirstRecord = time.Second

// Load reads the configuration at path and its drop-ins.
func Load(path string) (Config, error) {
	c := Config{Settings: config.Defaults(), FirstRecordTimeout: defaultFirstRecord}
	var policy *ClientCertificate
	err := config.Load(path, func(_ string, f file) error {
		c.Merge(f.Common)
		if f.ClientCertificate != nil {
			policy = &f.ClientCertificate.V
		}
		if f.FirstRecordTimeout != nil {
			c.FirstRecordTimeout = time.Duration(f.FirstRecordTimeout.V)
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
	if err := c.finish(policy); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

func (c *Config) finish(policy *ClientCertificate) error {
	if err := config.Pair(c.Certificate, c.PrivateKey); err != nil {
		return err
	}
	if c.Certificate == "" {
		return errors.New("certificate is missing: a server needs one")
	}
	switch {
	case policy != nil:
		c.ClientCertificate = *policy
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
	return nil
}
