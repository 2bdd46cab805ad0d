// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"crypto/x509"
	"syscall"
	"testing"
)

var (
	CheckKeyFile  = checkKeyFile
	ParseKeyBlock = parseKeyBlock
)

// SetSystemBundles replaces the places of the system's bundle for one test.
func SetSystemBundles(t *testing.T, paths ...string) {
	old := systemBundles
	systemBundles = paths
	t.Cleanup(func() { systemBundles = old })
}

// ReadWhile is Read with f called between the stamp and the first byte.
func (f *Files) ReadWhile(path string, between func()) ([]byte, error) {
	return f.read(path, maxFile, func(*syscall.Stat_t) error { between(); return nil })
}

// Age makes every stamp count as that of a file which was old when read.
func (f *Files) Age() {
	for path, st := range f.seen {
		st.young = false
		f.seen[path] = st
	}
}

// Restamp makes the times of the files as they are now count as those of the
// read, as if a file system's clock had stood still since.
func (f *Files) Restamp(t *testing.T) {
	for path, st := range f.seen {
		file, now, err := open(path)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		st.id = now.id
		f.seen[path] = st
	}
}

// Verdicts returns how many signature results the i-th CRL remembers.
func (t *Trust) Verdicts(i int) int {
	t.crls[i].mu.Lock()
	defer t.crls[i].mu.Unlock()
	return len(t.crls[i].verdicts)
}

// SignedBy asks the i-th CRL whether issuer signed it.
func (t *Trust) SignedBy(i int, issuer *x509.Certificate) error { return t.crls[i].signedBy(issuer) }

// Forgetful returns the same trust with an empty cache.
func (t *Trust) Forgetful() *Trust {
	return &Trust{pool: t.pool, anchors: t.anchors, system: t.system, crls: t.crls, byName: t.byName, policy: t.policy, turns: t.turns}
}

// Hits returns how many calls of Verify were answered from the cache.
func (t *Trust) Hits() int {
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	return t.cache.hits
}

// Kept returns how many answers the cache keeps.
func (t *Trust) Kept() int {
	t.cache.mu.Lock()
	defer t.cache.mu.Unlock()
	if len(t.cache.kept) != len(t.cache.order) {
		panic("certs: a kept answer that is not in the ring, or the other way round")
	}
	return len(t.cache.kept)
}

// Question returns what tells one question from another.
func Question(chain []*x509.Certificate, p Purpose, name string) (peer, whole [32]byte) {
	q := ask(chain, p, name)
	return q.peer, q.whole
}
