// SPDX-License-Identifier: BSD-3-Clause

package keylogtest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// An Opener opens records of TLS_AES_128_GCM_SHA256 (RFC 8446 sections 5.2, 5.3
// and 7.3).
type Opener struct {
	aead cipher.AEAD
	iv   []byte
}

// New derives key and IV from one direction's traffic secret, 32 bytes.
func New(t testing.TB, secret []byte) *Opener {
	t.Helper()
	expand := func(label string, n int) []byte {
		info := append([]byte{0, byte(n), byte(6 + len(label))}, "tls13 "+label+"\x00"...)
		b, err := hkdf.Expand(sha256.New, secret, string(info), n)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	block, err := aes.NewCipher(expand("key", 16))
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		t.Fatal(err)
	}
	return &Opener{aead, expand("iv", 12)}
}

// Open decrypts a whole record, header included, that is the seq-th under the
// secret, and returns its content without the type. Padding is not expected.
func (o *Opener) Open(seq uint64, record []byte) ([]byte, error) {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[4:], seq)
	for i, b := range o.iv {
		nonce[i] ^= b
	}
	b, err := o.aead.Open(nil, nonce, record[5:], record[:5])
	if err != nil {
		return nil, err
	}
	return b[:max(len(b)-1, 0)], nil
}
