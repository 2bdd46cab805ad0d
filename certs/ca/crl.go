// SPDX-License-Identifier: BSD-3-Clause

package ca

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"rpctls/certs/ca/index"
	"rpctls/internal/durable"
)

// DefaultCRLLifetime is how long a CRL is good for. A server that has only an
// older one refuses clients, so it must outlast a holiday.
const DefaultCRLLifetime = 30 * 24 * time.Hour

// MakeCRL makes a CRL with the next number.
func (c *CA) MakeCRL(lifetime time.Duration) error { return c.makeCRL(lifetime, nil) }

// makeCRL records new revocations and makes the CRL with them. Whatever may
// fail for want of space comes before the index, whatever comes after it can be
// done again from the index.
func (c *CA) makeCRL(lifetime time.Duration, revoked []index.Entry) error {
	now := c.env.now()
	if err := c.checkClock(now); err != nil {
		return err
	}
	if now.After(c.Cert.NotAfter) {
		return c.expired()
	}
	list, err := c.signCRL(c.index.CRLNumber()+1, now, now.Add(lifetime), revoked)
	if err != nil {
		return err
	}
	file, err := c.env.Disk.Stage(filepath.Join(c.Dir, crlFile), encode("X509 CRL", list.Raw), durable.Attr{Mode: 0o644})
	if err != nil {
		return err
	}
	defer file.Discard()
	published, err := c.stagePublished(list)
	if err != nil {
		return err
	}
	defer published.Discard()
	if err := c.record(append(revoked, crlEntry(now, list))...); err != nil {
		return err
	}
	c.CRL = list
	if err := file.Publish(); err != nil {
		return err
	}
	return published.Publish()
}

// A published CRL is the copy in Env.PublishCRL; without that there is none.
type published struct {
	file *durable.Staged
	ca   *CA
}

// PublishedCRL is where the copy is. Every CA has a name of its own there.
func (b *Books) PublishedCRL(dir string) string {
	return filepath.Join(dir, "ca-"+index.SerialOf(b.Cert.SerialNumber)[:16]+".pem")
}

func (c *CA) stagePublished(list *x509.RevocationList) (p published, err error) {
	p.ca = c
	if c.env.PublishCRL == "" {
		return p, nil
	}
	if err := c.env.Disk.Mkdir(c.env.PublishCRL, 0o755); err != nil {
		return p, err
	}
	p.file, err = c.env.Disk.Stage(c.PublishedCRL(c.env.PublishCRL), encode("X509 CRL", list.Raw), durable.Attr{Mode: 0o644})
	if err != nil {
		p.Discard()
	}
	return p, err
}

func (p published) Publish() error {
	if p.file == nil {
		return nil
	}
	return p.file.Publish()
}

func (p published) Discard() {
	if p.file != nil {
		p.file.Discard()
	}
	if dir := p.ca.env.PublishCRL; dir != "" {
		p.ca.env.Disk.RemoveEmpty(dir)
	}
}

// publishMissing makes the copy anew if it is not that of the CRL, as after a
// crash between the two, or when it was removed.
func (c *CA) publishMissing() error {
	dir := c.env.PublishCRL
	if dir == "" || c.CRL == nil {
		return nil
	}
	if err := c.env.Disk.Sweep(dir); err != nil {
		return err
	}
	data, err := os.ReadFile(c.PublishedCRL(dir))
	if err == nil && bytes.Equal(data, encode("X509 CRL", c.CRL.Raw)) {
		return nil
	}
	p, err := c.stagePublished(c.CRL)
	if err != nil {
		return err
	}
	defer p.Discard()
	return p.Publish()
}

func (c *CA) expired() error {
	return fmt.Errorf("the CA in %s expired %s: make a new one in another directory", c.Dir, c.Cert.NotAfter.UTC().Format(time.DateOnly))
}

func (c *CA) checkClock(now time.Time) error {
	if err := CheckClock(now, c.env.Built); err != nil {
		return err
	}
	return checkClock(now, c.Cert.NotBefore, "the CA was made")
}

func crlEntry(now time.Time, list *x509.RevocationList) index.Entry {
	return index.Entry{Time: now, Event: index.CRL, Serial: list.Number.String(), Kind: index.KindCRL, NotAfter: list.NextUpdate}
}

// signCRL lists every revocation there ever was: a certificate that has expired
// is revoked still for whoever's clock is wrong, and the lists of a site stay
// short.
func (c *CA) signCRL(number int64, now, nextUpdate time.Time, more []index.Entry) (*x509.RevocationList, error) {
	template := &x509.RevocationList{
		Number:     big.NewInt(number),
		ThisUpdate: later(now.Add(-skew), c.Cert.NotBefore),
		NextUpdate: nextUpdate,
	}
	for _, e := range append(append([]index.Entry(nil), c.index.Entries...), more...) {
		if e.Event != index.Revoked {
			continue
		}
		serial, ok := new(big.Int).SetString(e.Serial, 16)
		if !ok {
			return nil, fmt.Errorf("internal error: serial number %s", strconv.Quote(e.Serial))
		}
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: serial, RevocationTime: e.Time, ReasonCode: index.Reasons[e.Reason]})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, c.Cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign CRL: %w", err)
	}
	return x509.ParseRevocationList(der)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
