// SPDX-License-Identifier: BSD-3-Clause

package store

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rpctls/certs"
	"rpctls/internal/durable"
)

// ErrNone is wrapped when there is no identity of a name.
var ErrNone = errors.New("no such identity is installed")

// maxFile bounds what is read, in bytes.
const maxFile = 1 << 20

// Names of files within the directory.
const (
	trustFile   = "ca.pem"
	identityDir = "identity"
	requestDir  = "request"
	current     = "current"
	certFile    = "cert.pem"
	keyFile     = "key.pem"
)

// A Store is a host's directory, /etc/rpctls.
type Store struct {
	Dir  string
	Disk *durable.Disk
	// Group may read private keys: that of the daemons; 0 for none.
	Group int
	// Patience is how long to wait for another process.
	Patience time.Duration
}

// An Identity is what is installed under a name.
type Identity struct {
	Name              string
	Chain             []*x509.Certificate
	Key               crypto.Signer
	CertPath, KeyPath string
}

// Lock makes the directory if need be, keeps other processes out of it, and
// removes what an earlier crash has left.
func (s *Store) Lock() (release func(), err error) {
	if err := s.Disk.Mkdir(s.Dir, 0o755); err != nil {
		return nil, err
	}
	if _, err := os.Stat(s.Dir); s.Disk.DryRun && errors.Is(err, fs.ErrNotExist) {
		return func() {}, nil
	}
	if release, err = durable.Lock(s.Dir, s.Patience); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.Dir, filepath.Join(s.Dir, identityDir), filepath.Join(s.Dir, requestDir)} {
		if err := s.Disk.Sweep(dir); err != nil {
			release()
			return nil, err
		}
	}
	return release, nil
}

// CheckName refuses what cannot be the name of an identity.
func CheckName(name string) error {
	if err := certs.CheckName(name); err != nil {
		return err
	}
	if name+".pem" == trustFile {
		return fmt.Errorf("%q cannot be the name of an identity: %s is the list of trusted CAs", name, trustFile)
	}
	return nil
}

// CertPath is where a daemon reads the certificate of an identity.
func (s *Store) CertPath(name string) string { return filepath.Join(s.Dir, name+".pem") }

// KeyPath is where it reads the private key.
func (s *Store) KeyPath(name string) string { return filepath.Join(s.Dir, name+".key") }

// TrustPath is the list of trusted CAs.
func (s *Store) TrustPath() string { return filepath.Join(s.Dir, trustFile) }

// Names returns the identities that are installed, sorted.
func (s *Store) Names() ([]string, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), ".pem")
		if !ok || CheckName(name) != nil {
			continue
		}
		if _, err := os.Lstat(s.KeyPath(name)); err == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

// Chain returns the certificates of an identity, without its key.
func (s *Store) Chain(name string) ([]*x509.Certificate, error) {
	path := s.CertPath(name)
	data, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, ErrNone)
	}
	if err != nil {
		return nil, err
	}
	return parseCertificates(path, data)
}

// Load returns an identity with its key.
func (s *Store) Load(name string) (*Identity, error) {
	chain, err := s.Chain(name)
	if err != nil {
		return nil, err
	}
	id := &Identity{Name: name, Chain: chain, CertPath: s.CertPath(name), KeyPath: s.KeyPath(name)}
	if id.Key, err = readKey(id.KeyPath); err != nil {
		return nil, err
	}
	return id, nil
}

func readKey(path string) (crypto.Signer, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	key, err := certs.ParseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: not a regular file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

func parseCertificates(path string, data []byte) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	err := certs.DecodePEM(data, func(_ int, block *pem.Block) error {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("%q where only certificates are expected", certs.Printable(block.Type))
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return fmt.Errorf("parse certificate: %s", certs.Printable(err.Error()))
		}
		list = append(list, cert)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

func encodeCertificates(list []*x509.Certificate) []byte {
	var out bytes.Buffer
	for _, cert := range list {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
	}
	return out.Bytes()
}

// EncodeKey encodes a private key as it is stored. The caller wipes it.
func EncodeKey(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	defer clear(der)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// keyAttr are the attributes of a private key that a daemon reads.
func (s *Store) keyAttr() durable.Attr {
	if s.Group != 0 {
		return durable.Attr{Mode: 0o640, Group: s.Group}
	}
	return durable.Attr{Mode: 0o600}
}

// A Staged identity is complete on disk, but not yet in use.
type Staged struct {
	s         *Store
	name, gen string
	links     []*durable.Staged // the first is the one that counts
}

// Stage writes an identity beside the one in use. All that takes room on the
// disk is done then. The caller holds the lock and ends it by Publish or
// Discard.
func (s *Store) Stage(name string, chain []*x509.Certificate, key crypto.Signer) (*Staged, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := s.tidy(name); err != nil {
		return nil, err
	}
	if err := s.adopt(name); err != nil {
		return nil, fmt.Errorf("take over the files of identity %s: %w", name, err)
	}
	pem, err := EncodeKey(key)
	if err != nil {
		return nil, err
	}
	defer clear(pem)
	st := &Staged{s: s, name: name}
	st.gen, err = s.generation(name, fmt.Sprintf("%032x", chain[0].SerialNumber)[:16], encodeCertificates(chain), pem)
	if err != nil {
		return nil, err
	}
	if err := st.stageLinks(); err != nil {
		st.Discard()
		return nil, err
	}
	return st, nil
}

func (st *Staged) stageLinks() error {
	all := []link{{filepath.Join(st.s.home(st.name), current), st.gen}}
	for _, l := range append(all, st.s.links(st.name)...) {
		if l.there() {
			continue
		}
		staged, err := st.s.Disk.Quiet().StageLink(l.target, l.path)
		if err != nil {
			return err
		}
		st.links = append(st.links, staged)
	}
	return nil
}

// A link leads from where a daemon looks to the generation in use.
type link struct{ path, target string }

// there reports whether the link is in place.
func (l link) there() bool {
	got, err := os.Readlink(l.path)
	return err == nil && got == l.target
}

// links are those of the two files of an identity.
func (s *Store) links(name string) []link {
	now := filepath.Join(identityDir, name, current)
	return []link{{s.KeyPath(name), filepath.Join(now, keyFile)}, {s.CertPath(name), filepath.Join(now, certFile)}}
}

// Linked reports whether an identity is kept in the way of this package.
func (s *Store) Linked(name string) bool {
	links := s.links(name)
	return links[0].there() && links[1].there()
}

func (s *Store) home(name string) string { return filepath.Join(s.Dir, identityDir, name) }

// generation makes a directory for a pair. Nothing points to it yet.
func (s *Store) generation(name, label string, cert, key []byte) (gen string, err error) {
	for n := 1; ; n++ {
		gen = fmt.Sprintf("%s.%d", label, n)
		if _, err := os.Lstat(filepath.Join(s.home(name), gen)); errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	err = s.Disk.Quiet().MakeDir(filepath.Join(s.home(name), gen), 0o755, func(dir string, d *durable.Disk) error {
		if err := d.WriteFile(filepath.Join(dir, keyFile), key, s.keyAttr()); err != nil {
			return err
		}
		return d.WriteFile(filepath.Join(dir, certFile), cert, durable.Attr{Mode: 0o644})
	})
	return gen, err
}

// tidy removes generations that are not in use.
func (s *Store) tidy(name string) error {
	entries, err := os.ReadDir(s.home(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	used, _ := os.Readlink(filepath.Join(s.home(name), current))
	for _, entry := range entries {
		if entry.Name() == current || entry.Name() == used {
			continue
		}
		if err := s.Disk.Quiet().Remove(filepath.Join(s.home(name), entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Discard removes what Publish did not put in use. It asks the link and not
// whether Publish failed: that may be after the link was changed.
func (st *Staged) Discard() {
	for _, l := range st.links {
		l.Discard()
	}
	home := st.s.home(st.name)
	if !(link{filepath.Join(home, current), st.gen}).there() {
		st.s.Disk.Quiet().Remove(filepath.Join(home, st.gen)) // or else tidy does
		st.s.Disk.RemoveEmpty(home)
		st.s.Disk.RemoveEmpty(filepath.Dir(home))
	}
}

// Publish puts the identity in use, in place of what was there. The first link
// is the moment; the others are missing only before the first time.
func (st *Staged) Publish() error {
	for _, l := range st.links {
		if err := l.Publish(); err != nil {
			return err
		}
	}
	st.s.Disk.Note("write", st.s.KeyPath(st.name))
	st.s.Disk.Note("write", st.s.CertPath(st.name))
	st.s.tidy(st.name) // it is done; if this fails, the next Stage removes what is left
	return nil
}

// adopt turns an identity of two plain files into one of links, with the same
// content at every moment.
func (s *Store) adopt(name string) error {
	if s.Linked(name) {
		return nil
	}
	cert, certErr := readFile(s.CertPath(name))
	key, keyErr := readFile(s.KeyPath(name))
	defer clear(key)
	if certErr != nil || keyErr != nil {
		return nil // half an identity serves nobody: it is replaced
	}
	gen, err := s.generation(name, "adopted", cert, key)
	if err != nil {
		return err
	}
	for _, l := range append([]link{{filepath.Join(s.home(name), current), gen}}, s.links(name)...) {
		if err := s.Disk.Quiet().Symlink(l.target, l.path); err != nil {
			return err
		}
	}
	return nil
}

// Same reports whether an identity is installed exactly like this.
func (s *Store) Same(name string, chain []*x509.Certificate, key crypto.Signer) bool {
	id, err := s.Load(name)
	if err != nil || !slices.EqualFunc(id.Chain, chain, (*x509.Certificate).Equal) {
		return false
	}
	public, ok := id.Key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key.Public())
}
