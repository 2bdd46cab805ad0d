// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package rpctlscd

import (
	"fmt"

	"rpctls/certs"
	"rpctls/internal/keyring"
	"rpctls/internal/reason"
	"rpctls/upcall"
)

// byKeys returns the identity that a mount names by the serial numbers of keys.
// The keys are read at each handshake, which takes a few system calls that wait for
// nothing: a payload may be another by now. A mount holds a number and not the key
// (fs/nfs/fs_context.c nfs_tls_key_verify looks it up once), so that the key may
// be gone and its number another's; read takes keys of root's only.
func (l *Loaded) byKeys(pairs []upcall.KeyPair, read func(int32) ([]byte, error)) (*certs.Identity, error) {
	if len(pairs) != 1 || pairs[0].Certificate == 0 || pairs[0].PrivateKey == 0 {
		return nil, fmt.Errorf("%w: it takes one cert_serial and one privkey_serial", reason.ErrNamedIdentity)
	}
	pair := pairs[0]
	cert, err := read(pair.Certificate)
	if err != nil {
		return nil, fmt.Errorf("%w: cert_serial: %w", reason.ErrNamedIdentity, err)
	}
	defer clear(cert) // nothing forbids that it is a private key, too
	if name, ok := keyring.Name(cert); ok {
		if pair.PrivateKey != pair.Certificate {
			return nil, fmt.Errorf("%w: cert_serial names %q and privkey_serial is another key", reason.ErrNamedIdentity, certs.Printable(name))
		}
		return l.byName(name)
	}
	// Made by others, with the certificate and the private key in them.
	key, err := read(pair.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("%w: privkey_serial: %w", reason.ErrNamedIdentity, err)
	}
	id, err := certs.ParseIdentity(cert, fmt.Sprintf("key %d", pair.Certificate), key, fmt.Sprintf("key %d", pair.PrivateKey))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", reason.ErrNamedIdentity, err)
	}
	return id, nil
}
