// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// A StalePolicy says what becomes of a peer about whom no fresh CRL speaks,
// where CRLs are configured at all.
type StalePolicy int

const (
	// StaleRefuse refuses the peer, with [NoRevocationInfo].
	StaleRefuse StalePolicy = iota
	// StaleWarn accepts it; [Trust.Warnings] shows the stale CRL.
	StaleWarn
)

// SystemTrust is the value of [TrustConfig.Trust] that stands for the bundle of
// the distribution.
const SystemTrust = "system"

// systemBundles are the places of that bundle, the first that exists being the
// one. It is read here and not by x509.SystemCertPool, because that reads once
// per process, and lets the environment decide which file.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Arch, Gentoo
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora, RHEL
	"/etc/pki/tls/certs/ca-bundle.crt",                  // the same, older
	"/etc/ssl/ca-bundle.pem",                            // SUSE
	"/etc/ssl/cert.pem",                                 // Alpine
}

// maxAnchors bounds the certificates of one trust; the largest public bundles
// have some 150.
const maxAnchors = 4096

// maxWarnings bounds the lines of one call of Warnings.
const maxWarnings = 32

// Suffixes of the files that are taken from a directory.
var (
	trustSuffixes = []string{".pem", ".crt", ".cer"}
	crlSuffixes   = []string{".crl", ".pem"}
)

// TrustConfig says whom to trust.
type TrustConfig struct {
	// Trust is a PEM file of CA certificates, a directory of such files
	// (*.pem, *.crt, *.cer), or "system".
	Trust string
	// CRL are files, or directories of files (*.crl, *.pem), each with one
	// CRL in DER or any number in PEM.
	CRL []string
	// CRLStale says what to do without a fresh CRL.
	CRLStale StalePolicy
}

// A Trust is a set of trust anchors with the CRLs to go by. It does not change,
// apart from remembering what it has verified, and may be shared. Other files
// make another Trust, which remembers nothing.
type Trust struct {
	pool    *x509.CertPool
	anchors []anchor
	system  bool
	crls    []*crl
	byName  map[string][]*crl // by the DER of the issuer's name
	policy  StalePolicy
	turns   []time.Time // of anchors and CRLs, sorted; see certTurns
	cache   cache
}

type anchor struct {
	cert  *x509.Certificate
	where string
}

// LoadTrust reads trust anchors and CRLs. There must be at least one
// certificate, and at least one CRL for each entry of cfg.CRL.
//
// Every certificate must be a CA's: basicConstraints with cA (RFC 5280 section
// 4.2.1.9) and, if there is a key usage, keyCertSign. One that is not, such as
// the host's own or a self-signed one of version 1, is refused, because
// crypto/x509 would accept it as a peer without a signature by anybody. A
// private key in a trust file is refused, so that nobody hands it around. In
// the bundle of the distribution, which is not the reader's to mend, a
// certificate that does not qualify is left out instead.
//
// A CRL is refused if it is not understood completely (delta CRL, indirect CRL,
// unknown critical extension), and if it bears the name and key identifier of an
// anchor but not its signature.
//
// Errors name the file and PEM block. Dates are not checked: see
// [Trust.Warnings].
func LoadTrust(f *Files, cfg TrustConfig) (*Trust, error) {
	t := &Trust{pool: x509.NewCertPool(), byName: make(map[string][]*crl), policy: cfg.CRLStale}
	if cfg.CRLStale != StaleRefuse && cfg.CRLStale != StaleWarn {
		return nil, fmt.Errorf("load trust: unknown stale policy %d", cfg.CRLStale)
	}
	if err := t.loadAnchors(f, cfg.Trust); err != nil {
		return nil, fmt.Errorf("load trust: %w", err)
	}
	for _, path := range cfg.CRL {
		if err := t.loadCRL(f, path); err != nil {
			return nil, fmt.Errorf("load CRL: %w", err)
		}
	}
	t.turns = t.allTurns()
	return t, nil
}

// Pool returns a copy of the anchors, for the names that a server sends in its
// certificate request (tls.Config.ClientCAs).
func (t *Trust) Pool() *x509.CertPool { return t.pool.Clone() }

// Len returns the number of trust anchors.
func (t *Trust) Len() int { return len(t.anchors) }

// Warnings returns, one line each, what is or will soon be wrong with the trust
// at the time now: anchors that are not yet valid, have expired or expire within
// 14 days (those of the distribution excepted), and CRLs that are stale or will
// be within 7 days (or a third of their life, if that is less). There are at most
// 32 lines, and one that counts the rest.
func (t *Trust) Warnings(now time.Time) []string {
	var lines []string
	for _, c := range t.crls {
		if line := c.warning(now); line != "" {
			lines = append(lines, line)
		}
	}
	if !t.system {
		for _, a := range t.anchors {
			if line := dateWarning(a.where, a.cert, now); line != "" {
				lines = append(lines, line)
			}
		}
	}
	if extra := len(lines) - maxWarnings; extra > 0 {
		lines = append(lines[:maxWarnings], fmt.Sprintf("and %d more", extra))
	}
	return lines
}

func (t *Trust) loadAnchors(f *Files, path string) error {
	switch {
	case path == "":
		return errors.New("no file, directory or \"system\" is named")
	case path == SystemTrust:
		return t.loadSystem(f)
	case isDir(path):
		files, err := listSome(f, path, trustSuffixes)
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := t.loadAnchorFile(f, file); err != nil {
				return err
			}
		}
		return nil
	}
	return t.loadAnchorFile(f, path)
}

func (t *Trust) loadAnchorFile(f *Files, path string) error {
	data, err := f.read(path, maxBundle, nil)
	if err != nil {
		return err
	}
	defer clear(data) // it may hold a private key that does not belong there
	anchors, err := parseAnchors(path, data, false)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return t.add(anchors)
}

func (t *Trust) loadSystem(f *Files) error {
	t.system = true
	for _, path := range systemBundles {
		data, err := f.read(path, maxBundle, nil)
		if errors.Is(err, fs.ErrNotExist) {
			continue // remembered: should it appear, it is the one to read
		}
		if err != nil {
			return err
		}
		anchors, err := parseAnchors(path, data, true)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		return t.add(anchors)
	}
	return errors.New("this system has no bundle of CA certificates in any known place (package ca-certificates)")
}

func (t *Trust) add(anchors []anchor) error {
	for _, a := range anchors {
		t.pool.AddCert(a.cert)
	}
	if t.anchors = append(t.anchors, anchors...); len(t.anchors) > maxAnchors {
		return fmt.Errorf("more than %d certificates", maxAnchors)
	}
	return nil
}

// parseAnchors parses a PEM bundle; lenient leaves out what does not qualify.
// The result is never empty without an error.
func parseAnchors(where string, data []byte, lenient bool) ([]anchor, error) {
	var anchors []anchor
	err := decodePEM(data, func(n int, block *pem.Block) error {
		cert, err := parseAnchor(block)
		switch {
		case err != nil && lenient:
			return nil
		case err != nil:
			return err
		}
		anchors = append(anchors, anchor{cert, fmt.Sprintf("%s: PEM block %d", where, n)})
		return nil
	})
	if err == nil && len(anchors) == 0 {
		err = errors.New("no CA certificate")
	}
	if err != nil {
		return nil, err
	}
	return anchors, nil
}

func parseAnchor(block *pem.Block) (*x509.Certificate, error) {
	switch {
	case isPrivateKey(block.Type):
		clear(block.Bytes)
		return nil, errors.New("private key in a trust file, which is public by nature: move it away")
	case block.Type == "X509 CRL":
		return nil, errors.New("CRL in a trust file: name it as a CRL instead")
	case block.Type != "CERTIFICATE":
		return nil, fmt.Errorf("%s where only CERTIFICATE is expected", quote(block.Type, maxSAN))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %s", clean(err.Error(), maxCause))
	}
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		return nil, fmt.Errorf("certificate %s is not a CA's (no basicConstraints with cA): name the CA that issued it", quote(subjectOf(cert), maxSubject))
	case hasExtension(cert, oidKeyUsage) && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, fmt.Errorf("certificate %s may not sign certificates (key usage lacks keyCertSign)", quote(subjectOf(cert), maxSubject))
	}
	return cert, nil
}

func (t *Trust) loadCRL(f *Files, path string) error {
	files := []string{path}
	if isDir(path) {
		var err error
		if files, err = listSome(f, path, crlSuffixes); err != nil {
			return err
		}
	}
	for _, file := range files {
		data, err := f.read(file, maxBundle, nil)
		if err != nil {
			return err
		}
		lists, err := parseCRLs(file, data)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for _, c := range lists {
			if err := t.checkCRL(c); err != nil {
				return err
			}
			t.crls = append(t.crls, c)
			t.byName[string(c.issuer)] = append(t.byName[string(c.issuer)], c)
		}
	}
	return nil
}

// checkCRL refuses at load a CRL that claims to be an anchor's and is not,
// which would otherwise show only as peers without revocation information. A
// CRL of a CA below an anchor can be judged only with that CA's certificate,
// which the peer brings.
func (t *Trust) checkCRL(c *crl) error {
	var refusal error
	for _, a := range t.anchors {
		if !c.from(a.cert) {
			continue
		}
		err := c.signedBy(a.cert)
		if err == nil {
			return nil
		}
		refusal = err
	}
	return refusal
}

// listSome is List where an empty directory is an error.
func listSome(f *Files, dir string, suffixes []string) ([]string, error) {
	files, err := f.List(dir, suffixes...)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("list %s: no file named %s", dir, "*"+strings.Join(suffixes, ", *"))
	}
	return files, err
}
