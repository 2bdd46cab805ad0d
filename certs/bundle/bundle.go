// SPDX-License-Identifier: BSD-3-Clause

package bundle

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"rpctls/certs"
)

// maxSize bounds a bundle, in bytes.
const maxSize = 1 << 20

// The cost of trying a passphrase, as a power of two: 2^18 iterations of scrypt
// take a second and 256 MiB. A file that asks for more than four times that is
// refused.
const (
	DefaultCost = 18
	maxCost     = 20
)

// ErrPassphrase: the passphrase is not the one it was encrypted with.
var ErrPassphrase = errors.New("wrong passphrase, or the bundle is damaged")

// Encode returns a bundle in clear. The caller wipes it.
func Encode(key crypto.Signer, chain []*x509.Certificate, anchor *x509.Certificate) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	defer clear(der)
	var out bytes.Buffer
	// Room for all, so that the buffer never grows and leaves a copy behind.
	out.Grow(64 << 10)
	fmt.Fprintf(&out, "rpctls bundle for %s, until %s.\nIt holds a private key: keep it secret. Install it with\n\n    rpctlsctl cert import --bundle FILE\n\n",
		certs.Subject(chain[0]), chain[0].NotAfter.UTC().Format(time.DateOnly))
	if err := pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der}); err != nil {
		return nil, err
	}
	for _, cert := range append(chain[:len(chain):len(chain)], anchor) {
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// Encrypt encrypts a bundle with a passphrase. The cost of trying one is
// DefaultCost but in tests.
func Encrypt(clear []byte, passphrase string, cost int) ([]byte, error) {
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("encrypt bundle: %w", err)
	}
	recipient.SetWorkFactor(cost)
	var out bytes.Buffer
	armored := armor.NewWriter(&out)
	w, err := age.Encrypt(armored, recipient)
	if err != nil {
		return nil, fmt.Errorf("encrypt bundle: %w", err)
	}
	if _, err := w.Write(clear); err != nil {
		return nil, fmt.Errorf("encrypt bundle: %w", err)
	}
	if err := errors.Join(w.Close(), armored.Close()); err != nil {
		return nil, fmt.Errorf("encrypt bundle: %w", err)
	}
	return out.Bytes(), nil
}

// Encrypted reports whether a bundle asks for a passphrase.
func Encrypted(data []byte) bool {
	return strings.HasPrefix(strings.TrimLeft(string(data[:min(len(data), 1024)]), " \t\r\n"), armor.Header) || binary(data)
}

func binary(data []byte) bool { return bytes.HasPrefix(data, []byte("age-encryption.org/")) }

// Decrypt returns the bundle in clear. The caller wipes it.
func Decrypt(data []byte, passphrase string) ([]byte, error) {
	if len(data) > 2*maxSize {
		return nil, fmt.Errorf("decrypt bundle: more than %d bytes", 2*maxSize)
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, fmt.Errorf("decrypt bundle: %w", err)
	}
	identity.SetMaxWorkFactor(maxCost)
	var in io.Reader = bytes.NewReader(data)
	if !binary(data) {
		in = armor.NewReader(in)
	}
	r, err := age.Decrypt(in, identity)
	if _, no := errors.AsType[*age.NoIdentityMatchError](err); no {
		return nil, fmt.Errorf("decrypt bundle: %w", ErrPassphrase)
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt bundle: %s", certs.Printable(err.Error()))
	}
	text, err := readAll(r)
	if err != nil {
		return nil, fmt.Errorf("decrypt bundle: %s", certs.Printable(err.Error()))
	}
	return text, nil
}

// readAll reads to the end into one buffer. It is not io.ReadFull, to which a
// stream that is cut off (io.ErrUnexpectedEOF) looks like one that is short.
func readAll(r io.Reader) ([]byte, error) {
	text := make([]byte, maxSize)
	for n := 0; ; {
		m, err := r.Read(text[n:])
		n += m
		if errors.Is(err, io.EOF) {
			return text[:n], nil
		}
		if err == nil && n == len(text) {
			err = fmt.Errorf("more than %d bytes", maxSize)
		}
		if err != nil {
			clear(text)
			return nil, err
		}
	}
}
