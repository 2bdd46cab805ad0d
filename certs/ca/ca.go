// SPDX-License-Identifier: BSD-3-Clause

package ca

import (
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rpctls/certs"
	"rpctls/certs/ca/index"
	"rpctls/internal/durable"
)

// A CA is one that can act: it holds the lock of its directory and its key.
// Close gives both up.
type CA struct {
	Books
	// Repaired says, one line each, what an earlier crash had left.
	Repaired []string

	env     Env
	key     crypto.Signer
	release func()
	failed  error // an append that may have left part of a line
}

// Open opens the CA in dir for changes, and mends what a crash may have left.
func Open(env Env, dir string) (*CA, error) {
	if _, err := readCert(filepath.Join(dir, certFile)); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNone)
	}
	release, err := durable.Lock(dir, env.Patience)
	if err != nil {
		return nil, err
	}
	c, err := open(env, dir)
	if err != nil {
		release()
		return nil, err
	}
	c.release = release
	return c, nil
}

func open(env Env, dir string) (*CA, error) {
	books, err := Read(dir)
	if err != nil {
		return nil, err
	}
	c := &CA{Books: *books, env: env}
	if c.key, err = readKey(filepath.Join(dir, keyFile)); err != nil {
		return nil, err
	}
	if !equal(c.key.Public(), c.Cert.PublicKey) {
		return nil, fmt.Errorf("%s does not belong to %s", filepath.Join(dir, keyFile), filepath.Join(dir, certFile))
	}
	if err := c.repair(); err != nil {
		return nil, fmt.Errorf("repair CA in %s: %w", dir, err)
	}
	return c, nil
}

// Close ends the use of the CA.
func (c *CA) Close() { c.release() }

func readKey(path string) (crypto.Signer, error) {
	data, err := new(certs.Files).ReadKey(path)
	if err != nil {
		return nil, err
	}
	key, err := certs.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func encodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	defer clear(der)
	return encode("PRIVATE KEY", der), nil
}

func equal(a, b crypto.PublicKey) bool {
	key, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(b)
}

func (c *CA) repair() error {
	if torn := len(c.index.Torn); torn > 0 {
		if err := c.env.Disk.Truncate(filepath.Join(c.Dir, indexFile), c.index.Size); err != nil {
			return err
		}
		c.index.Torn = nil
		c.repaired("the last line of the index was cut short by a crash and is dropped (%d bytes); what it told never happened", torn)
	}
	if err := c.env.Disk.Sweep(c.Dir); err != nil {
		return err
	}
	if err := c.sweepIssued(); err != nil {
		return err
	}
	if c.crlBehind() {
		if err := c.MakeCRL(DefaultCRLLifetime); err != nil {
			return err
		}
		c.repaired("the CRL was missing or behind the index and is made again")
	}
	return c.publishMissing()
}

func (c *CA) repaired(format string, args ...any) {
	c.Repaired = append(c.Repaired, fmt.Sprintf(format, args...))
}

// sweepIssued removes copies of certificates that are not in the index. They
// never left this directory.
func (c *CA) sweepIssued() error {
	dir := filepath.Join(c.Dir, issuedDir)
	if err := c.env.Disk.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := c.env.Disk.Sweep(dir); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		if c.env.Disk.DryRun && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, entry := range entries {
		serial, isCert := strings.CutSuffix(entry.Name(), ".pem")
		if !isCert {
			serial, isCert = strings.CutSuffix(entry.Name(), ".key")
		}
		if !isCert || len(serial) != index.SerialDigits || strings.Trim(serial, "0123456789abcdef") != "" {
			continue // not ours
		}
		if _, known := c.index.Issued(serial); known {
			continue
		}
		if err := c.env.Disk.Remove(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
		c.repaired("%s is not in the index and is removed: it was never handed out", entry.Name())
	}
	return nil
}

// record appends entries to the index. They count when it returns nil. After an
// error nothing more can be recorded, because it is not known where the file
// ends; opening the CA again finds out.
func (c *CA) record(entries ...index.Entry) error {
	if c.failed != nil {
		return fmt.Errorf("an earlier change failed: %w", c.failed)
	}
	var lines []byte
	for _, e := range entries {
		line, err := c.index.Add(e)
		if err != nil {
			c.failed = err
			return err
		}
		lines = append(lines, line...)
	}
	c.failed = c.env.Disk.Append(filepath.Join(c.Dir, indexFile), lines)
	return c.failed
}

// Key returns the private key that waits in issued/ with a certificate.
func (c *CA) Key(serial string) (crypto.Signer, error) { return readKey(c.issued(serial, ".key")) }

// ForgetKey removes it.
func (c *CA) ForgetKey(serial string) error { return c.env.Disk.Remove(c.issued(serial, ".key")) }

// Revoke revokes certificates, and makes the CRL that says so. Those that are
// revoked already stay as they are.
func (c *CA) Revoke(serials []string, reason string) error {
	if _, known := index.Reasons[reason]; !known {
		return fmt.Errorf("unknown reason %q", reason)
	}
	now := c.env.now()
	var entries []index.Entry
	for _, serial := range slices.Compact(slices.Sorted(slices.Values(serials))) {
		e, ok := c.index.Issued(serial)
		if !ok || e.Kind == index.KindCA {
			return fmt.Errorf("no certificate has the serial number %q", serial)
		}
		if _, gone := c.index.Revoked(serial); gone {
			continue
		}
		e.Event, e.Time, e.Reason = index.Revoked, now, reason
		entries = append(entries, e)
	}
	return c.makeCRL(DefaultCRLLifetime, entries)
}
