// SPDX-License-Identifier: BSD-3-Clause

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rpctls/certs"
	"rpctls/certs/ca/index"
	"rpctls/certs/san"
	"rpctls/internal/durable"
)

// DefaultLifetime of a CA, in years: roots are replaced by hand, on every host.
const DefaultLifetime = 10

// ErrExists is wrapped when a CA is there already.
var ErrExists = errors.New("a CA is there already")

// An Env is what a CA needs of its surroundings.
type Env struct {
	Disk *durable.Disk
	Now  func() time.Time
	// Built is a time that has passed: none before it is believed.
	Built time.Time
	// Patience is how long to wait for another process.
	Patience time.Duration
	// PublishCRL, if not empty, is a directory for a copy of every CRL, where
	// those can read it who shall know nothing else of the CA. It is made if
	// need be.
	PublishCRL string
}

// now is in whole seconds, as certificates are.
func (e Env) now() time.Time { return e.Now().UTC().Truncate(time.Second) }

// Options describe a new CA.
type Options struct {
	// CommonName is its subject. It should tell it from other CAs.
	CommonName string
	// Permit are the domains and networks whose names it may certify:
	// "example.com" (with all below it), "192.0.2.0/24". Empty: all.
	Permit []string
	// Years are its lifetime; 0 is DefaultLifetime.
	Years int
}

// Init makes a CA in dir, which must not exist or be empty.
func Init(env Env, dir string, o Options) (*Books, error) {
	now := env.now()
	if err := CheckClock(now, env.Built); err != nil {
		return nil, err
	}
	template, err := rootTemplate(o, now)
	if err != nil {
		return nil, err
	}
	if err := env.Disk.Mkdir(filepath.Dir(dir), 0o755); err != nil {
		return nil, err
	}
	if !env.Disk.DryRun { // then the directory may not be there to lock
		release, err := durable.Lock(filepath.Dir(dir), env.Patience)
		if err != nil {
			return nil, err
		}
		defer release()
		for _, dir := range []string{filepath.Dir(dir), env.PublishCRL} {
			if dir == "" {
				continue
			}
			if err := env.Disk.Sweep(dir); err != nil {
				return nil, err
			}
		}
	}
	if err := vacant(dir); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("internal error: CA certificate: %w", err)
	}
	c := &CA{Books: Books{Dir: dir, Cert: cert, index: new(index.Index)}, env: env, key: key}
	if c.CRL, err = c.signCRL(1, now, now.Add(DefaultCRLLifetime), nil); err != nil {
		return nil, err
	}
	published, err := c.stagePublished(c.CRL)
	if err != nil {
		return nil, err
	}
	defer published.Discard()
	// The directory appears when all is in it: there is no CA by halves.
	err = env.Disk.MakeDir(dir, 0o755, c.fill)
	if err != nil {
		return nil, fmt.Errorf("make CA in %s: %w", dir, err)
	}
	if err := published.Publish(); err != nil {
		return nil, fmt.Errorf("the CA in %s is made, but its CRL is not published: %w", dir, err) // the next Open does it
	}
	return &c.Books, nil
}

// vacant reports whether a CA may be made in dir.
func vacant(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) == 0:
		return nil
	}
	if cert, err := readCert(filepath.Join(dir, certFile)); err == nil {
		return fmt.Errorf("%s: %w (%s, until %s)", dir, ErrExists, certs.Subject(cert), cert.NotAfter.UTC().Format(time.DateOnly))
	}
	return fmt.Errorf("%s is not empty, and what is in it is not a CA", dir)
}

// fill writes a new CA's files to dir.
func (c *CA) fill(dir string, disk *durable.Disk) error {
	now := c.env.now()
	key, err := encodeKey(c.key)
	if err != nil {
		return err
	}
	defer clear(key)
	var lines []byte
	for _, e := range []index.Entry{
		{Time: now, Event: index.Issued, Serial: index.SerialOf(c.Cert.SerialNumber), Kind: index.KindCA,
			NotAfter: c.Cert.NotAfter, Fingerprint: certs.Fingerprint(c.Cert)},
		crlEntry(now, c.CRL),
	} {
		line, err := c.index.Add(e)
		if err != nil {
			return err
		}
		lines = append(lines, line...)
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{keyFile, key, 0o600},
		{certFile, encode("CERTIFICATE", c.Cert.Raw), 0o644},
		{crlFile, encode("X509 CRL", c.CRL.Raw), 0o644},
		{indexFile, lines, 0o600},
	} {
		if err := disk.WriteFile(filepath.Join(dir, f.name), f.data, durable.Attr{Mode: f.mode}); err != nil {
			return err
		}
	}
	return disk.Mkdir(filepath.Join(dir, issuedDir), 0o700)
}

func rootTemplate(o Options, now time.Time) (*x509.Certificate, error) {
	name := strings.TrimSpace(o.CommonName)
	if name == "" || len(name) > 64 || certs.Printable(name) != name {
		return nil, fmt.Errorf("%q does not serve as the name of a CA: want 1 to 64 printable ASCII characters", o.CommonName)
	}
	years := o.Years
	if years == 0 {
		years = DefaultLifetime
	}
	if years < 1 || years > 50 {
		return nil, fmt.Errorf("lifetime of %d years: want 1 to 50", years)
	}
	t := &x509.Certificate{
		SerialNumber:          index.NewSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-skew),
		NotAfter:              now.AddDate(years, 0, 0),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it certifies hosts, never another CA
	}
	return t, constrain(t, o.Permit)
}

// constrain adds name constraints (RFC 5280 section 4.2.1.10). A constraint on
// host names says nothing of addresses, and the other way round: of the kind
// that is not permitted at all, everything is excluded.
func constrain(t *x509.Certificate, permit []string) error {
	if len(permit) == 0 {
		return nil
	}
	for _, p := range permit {
		domain, network, err := parsePermit(p)
		if err != nil {
			return fmt.Errorf("permit %q: %w", p, err)
		}
		if network != nil {
			t.PermittedIPRanges = append(t.PermittedIPRanges, network)
		} else {
			t.PermittedDNSDomains = append(t.PermittedDNSDomains, domain)
		}
	}
	t.PermittedDNSDomainsCritical = true
	if len(t.PermittedIPRanges) == 0 {
		t.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
	if len(t.PermittedDNSDomains) == 0 {
		t.ExcludedDNSDomains = []string{""}
	}
	return nil
}

// parsePermit returns a domain or a network.
func parsePermit(s string) (domain string, network *net.IPNet, err error) {
	prefix, err := netip.ParsePrefix(s)
	if addr, addrErr := netip.ParseAddr(strings.Trim(s, "[]")); addrErr == nil {
		prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err == nil && prefix.IsValid() {
		if prefix != prefix.Masked() || prefix.Addr().Is4In6() {
			return "", nil, fmt.Errorf("is %v meant?", prefix.Masked())
		}
		return "", &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}, nil
	}
	names, err := san.Parse("dns:" + strings.TrimPrefix(strings.TrimPrefix(s, "*"), "."))
	if err != nil || strings.Contains(names.First(), "*") {
		return "", nil, errors.New("neither a domain such as example.com nor a network such as 192.0.2.0/24")
	}
	return names.First(), nil, nil
}

// Permits returns what the CA may certify, as Options.Permit has it.
func (b *Books) Permits() []string {
	permits := append([]string(nil), b.Cert.PermittedDNSDomains...)
	for _, network := range b.Cert.PermittedIPRanges {
		permits = append(permits, network.String())
	}
	return permits
}
