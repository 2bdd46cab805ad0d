// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"encoding/binary"
	"encoding/hex"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// trafficKeys are the key and static IV of one direction (RFC 8446 section
// 7.3).
type trafficKeys struct {
	key []byte
	iv  []byte // staticIVLen bytes
}

func (k trafficKeys) wipe() {
	clear(k.key)
	clear(k.iv)
}

// deriveKeys derives a direction's keys from its traffic secret: HKDF-Expand-
// Label with the labels "key" and "iv" and an empty context (RFC 8446 section
// 7.3).
func deriveKeys(c Cipher, secret []byte) (trafficKeys, error) {
	s := cipherSpecs[c]
	key, err := expandLabel(s, secret, "key", s.keyLen)
	if err != nil {
		return trafficKeys{}, err
	}
	iv, err := expandLabel(s, secret, "iv", staticIVLen)
	if err != nil {
		return trafficKeys{}, err
	}
	return trafficKeys{key: key, iv: iv}, nil
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446 section
// 7.1): the info is a HkdfLabel of length, "tls13 "+label and no context.
func expandLabel(s cipherSpec, secret []byte, label string, length int) ([]byte, error) {
	const prefix = "tls13 "
	info := binary.BigEndian.AppendUint16(make([]byte, 0, 4+len(prefix)+len(label)), uint16(length))
	info = append(info, byte(len(prefix)+len(label)))
	info = append(info, prefix...)
	info = append(info, label...)
	info = append(info, 0)
	return hkdf.Expand(s.hash.New, secret, string(info), length)
}

// nextSecret returns the traffic secret that follows secret after a KeyUpdate
// (RFC 8446 section 7.2).
func nextSecret(c Cipher, secret []byte) ([]byte, error) {
	s := cipherSpecs[c]
	return expandLabel(s, secret, "traffic upd", s.hash.Size())
}

// aead returns the cipher's AEAD over key.
func (c Cipher) aead(key []byte) (cipher.AEAD, error) {
	switch c {
	case AES128GCM, AES256GCM:
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		return cipher.NewGCM(block)
	default:
		return chacha20poly1305.New(key)
	}
}

// nonce is the per-record nonce: the sequence number, left-padded to the IV's
// length, XORed with the static IV (RFC 8446 section 5.3).
func (k trafficKeys) nonce(seq uint64) []byte {
	n := make([]byte, staticIVLen)
	binary.BigEndian.PutUint64(n[staticIVLen-8:], seq)
	for i, b := range k.iv {
		n[i] ^= b
	}
	return n
}

// open decrypts one whole TLSCiphertext, header included, and returns the
// content and its type with the padding removed (RFC 8446 section 5.2).
func (k trafficKeys) open(c Cipher, seq uint64, record []byte) (typ byte, content []byte, err error) {
	a, err := c.aead(k.key)
	if err != nil {
		return 0, nil, err
	}
	inner, err := a.Open(nil, k.nonce(seq), record[recordHeaderLen:], record[:recordHeaderLen])
	if err != nil {
		return 0, nil, err
	}
	inner = bytes.TrimRight(inner, "\x00")
	if len(inner) == 0 {
		return 0, nil, fmt.Errorf("record %d: no content type", seq)
	}
	return inner[len(inner)-1], inner[:len(inner)-1], nil
}

// seal encrypts content of the given type as one TLSCiphertext without
// padding.
func (k trafficKeys) seal(c Cipher, seq uint64, typ byte, content []byte) ([]byte, error) {
	a, err := c.aead(k.key)
	if err != nil {
		return nil, err
	}
	inner := append(bytes.Clone(content), typ)
	record := []byte{recordApplicationData, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(record[3:], uint16(len(inner)+a.Overhead()))
	return a.Seal(record, k.nonce(seq), inner, record), nil
}

// The labels of the NSS key log that crypto/tls writes for TLS 1.3 (RFC 9850
// section 2.2), in the order in which a handshake reveals them.
const (
	labelClientHandshake = "CLIENT_HANDSHAKE_TRAFFIC_SECRET"
	labelServerHandshake = "SERVER_HANDSHAKE_TRAFFIC_SECRET"
	labelClientTraffic   = "CLIENT_TRAFFIC_SECRET_0"
	labelServerTraffic   = "SERVER_TRAFFIC_SECRET_0"
	// labelMaster is that of TLS 1.2's master secret.
	labelMaster = "CLIENT_RANDOM"
)

// secretLog is the KeyLogWriter of one handshake. It is not safe for
// concurrent use: one handshake runs on one goroutine.
type secretLog struct {
	secrets map[string][]byte
	also    func(line []byte) // [Options.KeyLog]; may be nil
}

// Write takes one line, "LABEL <client random> <secret>" in hexadecimal, and
// destroys it: crypto/tls formats the line for this call alone. What remains
// of the text is in a buffer of package fmt, until that formats the next line;
// nothing outside this process can see it (core dumps are off).
func (l *secretLog) Write(line []byte) (int, error) {
	defer clear(line)
	fields := bytes.Fields(line)
	if len(fields) != 3 {
		return 0, fmt.Errorf("key log line has %d fields", len(fields))
	}
	secret := make([]byte, hex.DecodedLen(len(fields[2])))
	if _, err := hex.Decode(secret, fields[2]); err != nil {
		clear(secret)
		// The cause would quote a digit of the secret.
		return 0, fmt.Errorf("key log line of %s: not hexadecimal", fields[0])
	}
	if l.secrets == nil {
		l.secrets = make(map[string][]byte, 4)
	}
	clear(l.secrets[string(fields[0])])
	l.secrets[string(fields[0])] = secret
	if l.also != nil {
		l.also(line)
	}
	return len(line), nil
}

func (l *secretLog) wipe() {
	for _, s := range l.secrets {
		clear(s)
	}
	clear(l.secrets)
}
