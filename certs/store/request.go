// SPDX-License-Identifier: BSD-3-Clause

package store

import (
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"rpctls/certs/csr"
	"rpctls/internal/durable"
)

// A Request waits for another CA's answer.
type Request struct {
	Name string
	CSR  *csr.Request
	Key  crypto.Signer
	Path string // of the CSR
}

// RequestPath is where the request for an identity is.
func (s *Store) RequestPath(name string) string {
	return filepath.Join(s.requestHome(name), "request.csr")
}

func (s *Store) requestHome(name string) string { return filepath.Join(s.Dir, requestDir, name) }

// SaveRequest keeps a request and its key until the answer is installed. There
// must be none of that name. The caller holds the lock.
func (s *Store) SaveRequest(name string, pem []byte, key crypto.Signer) error {
	if err := CheckName(name); err != nil {
		return err
	}
	encoded, err := EncodeKey(key)
	if err != nil {
		return err
	}
	defer clear(encoded)
	// Both appear at once: a request whose key is another would cost the
	// certificate that is made of it.
	err = s.Disk.Quiet().MakeDir(s.requestHome(name), 0o755, func(dir string, d *durable.Disk) error {
		if err := d.WriteFile(filepath.Join(dir, keyFile), encoded, s.keyAttr()); err != nil {
			return err
		}
		return d.WriteFile(filepath.Join(dir, filepath.Base(s.RequestPath(name))), pem, durable.Attr{Mode: 0o644})
	})
	if err != nil {
		return err
	}
	s.Disk.Note("write", filepath.Join(s.requestHome(name), keyFile))
	s.Disk.Note("write", s.RequestPath(name))
	return nil
}

// Requests returns the names of identities for which one waits, sorted.
func (s *Store) Requests() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.Dir, requestDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if CheckName(entry.Name()) == nil {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// LoadRequest returns the request that waits for an identity, or ErrNone.
func (s *Store) LoadRequest(name string) (*Request, error) {
	path := s.RequestPath(name)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	r := &Request{Name: name, Path: path}
	if r.CSR, err = csr.Parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.Key, err = readKey(filepath.Join(s.requestHome(name), keyFile)); err != nil {
		return nil, err
	}
	return r, nil
}

// RemoveRequest removes a request and its key, which are of no more use once
// the certificate is installed. It is no error if there is none.
func (s *Store) RemoveRequest(name string) error { return s.Disk.Remove(s.requestHome(name)) }
