// SPDX-License-Identifier: BSD-3-Clause

package rpctlscd

import (
	"errors"
	"fmt"

	"rpctls/certs"
	"rpctls/internal/config"
	"rpctls/internal/names"
	"rpctls/internal/pin"
)

// Reconnect says what the kernel hears when a mount that worked cannot be
// verified any more.
type Reconnect string

// The policies.
const (
	// ReconnectRetry answers ETIMEDOUT, paced: hard mounts hang until trust
	// is restored and lose nothing.
	ReconnectRetry Reconnect = "retry"
	// ReconnectFail answers EACCES: applications get an error at once.
	ReconnectFail Reconnect = "fail"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Reconnect) UnmarshalText(b []byte) error {
	w, err := config.Word(b, string(ReconnectRetry), string(ReconnectFail))
	*r = Reconnect(w)
	return err
}

// file is a configuration file as decoded.
type file struct {
	config.Common
	Reconnect         *reconnectValue   `toml:"reconnect"`
	Server            []fileServer      `toml:"server"`
	IdentityDirectory *config.PathValue `toml:"identity_directory"`
	Identity          []fileIdentity    `toml:"identity"`
}

type fileIdentity struct {
	Name        string           `toml:"name"`
	Certificate config.PathValue `toml:"certificate"`
	PrivateKey  config.PathValue `toml:"private_key"`
}

type fileServer struct {
	Match       []names.Pattern     `toml:"match"`
	Certificate config.PathValue    `toml:"certificate"`
	PrivateKey  config.PathValue    `toml:"private_key"`
	Trust       config.TrustValue   `toml:"trust"`
	CRL         *[]config.PathValue `toml:"crl"`
	Pin         []pin.Pin           `toml:"pin"`
}

type reconnectValue = config.Value[Reconnect, *Reconnect]

// A Config is the client's configuration.
type Config struct {
	config.Settings
	Reconnect Reconnect
	Servers   []ServerConfig // first match wins
	// IdentityDirectory holds identities that mounts can name, as rpctlsctl
	// keeps them; it may be absent. Identities are others, which go first.
	IdentityDirectory config.Path
	Identities        []IdentityConfig
}

// An IdentityConfig is an identity that a mount can name.
type IdentityConfig struct {
	Name        string
	Certificate config.Path
	PrivateKey  config.Path
}

// defaultIdentities is where rpctlsctl keeps a host's identities.
const defaultIdentities = "/etc/rpctls/identity"

// maxIdentities bounds the identities that can be named.
const maxIdentities = 256

// A ServerConfig is what differs for some servers. What it does not set is as
// for all.
type ServerConfig struct {
	Match       []names.Pattern
	Certificate config.Path
	PrivateKey  config.Path
	Trust       config.Trust
	CRL         *[]config.Path // nil: as for all; empty: none
	Pin         []pin.Pin
}

// Load reads the configuration at path and its drop-ins.
func Load(path string) (Config, error) {
	c := Config{Settings: config.Defaults(), Reconnect: ReconnectRetry, IdentityDirectory: defaultIdentities}
	err := config.Load(path, func(_ string, f file) error {
		c.Merge(f.Common)
		config.Set(&c.Reconnect, f.Reconnect)
		config.Set(&c.IdentityDirectory, f.IdentityDirectory)
		for i, id := range f.Identity {
			ic := IdentityConfig{id.Name, id.Certificate.V, id.PrivateKey.V}
			if err := c.checkIdentity(ic); err != nil {
				return fmt.Errorf("identity %d: %w", i+1, err)
			}
			c.Identities = append(c.Identities, ic)
		}
		for i, s := range f.Server {
			sc := ServerConfig{s.Match, s.Certificate.V, s.PrivateKey.V, s.Trust.V, nil, s.Pin}
			if s.CRL != nil {
				crl := config.Paths(*s.CRL)
				sc.CRL = &crl
			}
			if len(sc.Match) == 0 {
				return fmt.Errorf("server %d: match is missing", i+1)
			}
			if err := config.Pair(sc.Certificate, sc.PrivateKey); err != nil {
				return fmt.Errorf("server %d: %w", i+1, err)
			}
			if s.Pin != nil && len(s.Pin) == 0 {
				return fmt.Errorf("server %d: pin is empty: leave it out to have none", i+1)
			}
			c.Servers = append(c.Servers, sc)
		}
		return nil
	})
	if err != nil {
		return Config{}, err
	}
	if err := c.finish(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// checkIdentity verifies an identity against those that there are.
func (c *Config) checkIdentity(ic IdentityConfig) error {
	switch {
	case ic.Name == "":
		return errors.New("name is missing")
	case ic.Certificate == "":
		return errors.New("certificate is missing")
	case ic.PrivateKey == "":
		return errors.New("private_key is missing")
	case len(c.Identities) == maxIdentities:
		return fmt.Errorf("more than %d", maxIdentities)
	}
	for _, other := range c.Identities {
		if other.Name == ic.Name {
			return fmt.Errorf("there are two called %q", ic.Name)
		}
	}
	return certs.CheckName(ic.Name)
}

func (c *Config) finish() error {
	if err := config.Pair(c.Certificate, c.PrivateKey); err != nil {
		return err
	}
	if c.Trust == "" {
		return errors.New(`trust is missing: which CAs may vouch for servers? (a file, a directory or "system")`)
	}
	return c.CheckNamespaces()
}
