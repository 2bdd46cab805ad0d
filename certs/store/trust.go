// SPDX-License-Identifier: BSD-3-Clause

package store

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"rpctls/certs"
	"rpctls/internal/durable"
)

// ErrOtherTrust is wrapped when a CA would have to be trusted besides others.
var ErrOtherTrust = errors.New("other CAs are trusted there, and this one is not among them")

// A TrustMode says what to do with the CAs that are trusted already.
type TrustMode string

// The modes. Nobody's trust is widened or taken away without having been asked
// for.
const (
	TrustAsk     TrustMode = ""        // ErrOtherTrust, if there are others
	TrustAdd     TrustMode = "add"     // trust this one as well
	TrustReplace TrustMode = "replace" // trust this one alone
	TrustKeep    TrustMode = "keep"    // leave the file as it is
)

// ParseTrustMode takes one of the modes by name.
func ParseTrustMode(s string) (TrustMode, error) {
	switch m := TrustMode(s); m {
	case TrustAsk, TrustAdd, TrustReplace, TrustKeep:
		return m, nil
	}
	return "", fmt.Errorf("%q is none of add, replace, keep", s)
}

// Trusted returns the CAs that the host trusts, none if there is no file.
func (s *Store) Trusted() ([]*x509.Certificate, error) {
	data, err := readFile(s.TrustPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return parseCertificates(s.TrustPath(), data)
}

// StageTrust prepares trust in CAs, of which there is at least one. The result
// is nil if there is nothing to do. The caller holds the lock.
func (s *Store) StageTrust(mode TrustMode, anchors ...*x509.Certificate) (*durable.Staged, error) {
	if mode == TrustKeep {
		return nil, nil
	}
	have, err := s.Trusted()
	if err != nil && mode != TrustReplace {
		return nil, err
	}
	var unknown, list []*x509.Certificate
	for _, anchor := range anchors {
		if slices.ContainsFunc(list, anchor.Equal) {
			continue
		}
		list = append(list, anchor)
		if !slices.ContainsFunc(have, anchor.Equal) {
			unknown = append(unknown, anchor)
		}
	}
	switch {
	case len(unknown) == 0 && (mode != TrustReplace || len(have) == len(list)):
		return nil, nil
	case mode == TrustReplace:
	case mode == TrustAsk && len(have) > 0:
		return nil, fmt.Errorf("%s: %w (%s)", s.TrustPath(), ErrOtherTrust, certs.Subject(unknown[0]))
	default:
		list = append(have, unknown...)
	}
	if _, err := certs.NewTrust(list); err != nil {
		return nil, err // no daemon would start with it
	}
	var out bytes.Buffer
	for _, cert := range list {
		fmt.Fprintf(&out, "%s, until %s\n", certs.Subject(cert), cert.NotAfter.UTC().Format("2006-01-02"))
		out.Write(encodeCertificates([]*x509.Certificate{cert}))
	}
	return s.Disk.Stage(s.TrustPath(), out.Bytes(), durable.Attr{Mode: 0o644})
}
