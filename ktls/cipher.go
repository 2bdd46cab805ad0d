// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto"
	"crypto/tls"
	"encoding/binary"
	"fmt"
)

// Numbers of the kernel's TLS interface that golang.org/x/sys does not have
// (include/uapi/linux/tls.h, include/linux/socket.h).
const (
	solTLS = 282 // SOL_TLS

	optTX = 1 // TLS_TX
	optRX = 2 // TLS_RX

	versionTLS12 = 0x0303 // TLS_1_2_VERSION
	versionTLS13 = 0x0304 // TLS_1_3_VERSION

	infoHeaderLen = 4 // struct tls_crypto_info: u16 version, u16 cipher_type
	recSeqLen     = 8 // TLS_CIPHER_*_REC_SEQ_SIZE

	// staticIVLen is the length of a TLS 1.3 per-connection IV for every
	// cipher the kernel has (RFC 8446 section 5.3). The kernel keeps its
	// first bytes as "salt" and the others as "iv".
	staticIVLen = 12
)

// A Cipher is an AEAD that both crypto/tls and the kernel can use.
// Its value is the kernel's cipher_type (include/uapi/linux/tls.h).
type Cipher uint16

// The AEADs of crypto/tls.
const (
	AES128GCM        Cipher = 51 // TLS_CIPHER_AES_GCM_128
	AES256GCM        Cipher = 52 // TLS_CIPHER_AES_GCM_256
	ChaCha20Poly1305 Cipher = 54 // TLS_CIPHER_CHACHA20_POLY1305
)

// cipherSpec says how one cipher is keyed (RFC 8446 section 7.3) and how the
// kernel lays its parts out.
type cipherSpec struct {
	name    string
	suite   uint16
	hash    crypto.Hash
	keyLen  int // bytes
	saltLen int // bytes of the static IV that the kernel calls salt
}

var cipherSpecs = map[Cipher]cipherSpec{
	AES128GCM:        {"AES-128-GCM", tls.TLS_AES_128_GCM_SHA256, crypto.SHA256, 16, 4},
	AES256GCM:        {"AES-256-GCM", tls.TLS_AES_256_GCM_SHA384, crypto.SHA384, 32, 4},
	ChaCha20Poly1305: {"ChaCha20-Poly1305", tls.TLS_CHACHA20_POLY1305_SHA256, crypto.SHA256, 32, 0},
}

// Ciphers lists every [Cipher], in crypto/tls's order of preference.
func Ciphers() []Cipher { return []Cipher{AES128GCM, AES256GCM, ChaCha20Poly1305} }

// String returns the cipher's usual name, for example "AES-128-GCM".
func (c Cipher) String() string {
	if s, ok := cipherSpecs[c]; ok {
		return s.name
	}
	return fmt.Sprintf("Cipher(%d)", uint16(c))
}

// cipherOf returns the cipher of a TLS 1.3 cipher suite (RFC 8446 appendix
// B.4); ok is false for suites that the kernel cannot take over.
func cipherOf(suite uint16) (c Cipher, ok bool) {
	for c, s := range cipherSpecs {
		if s.suite == suite {
			return c, true
		}
	}
	return 0, false
}

// infoLen is the size in bytes of the cipher's struct tls12_crypto_info_*.
func (s cipherSpec) infoLen() int {
	return infoHeaderLen + staticIVLen + s.keyLen + recSeqLen
}

// cryptoInfo lays out the cipher's struct tls12_crypto_info_* (the name has 12
// in it for TLS 1.3 too): version and cipher_type in host order, then iv, key,
// salt and rec_seq without padding. seq is the sequence number of the next
// record under keys, in that direction.
func cryptoInfo(c Cipher, keys trafficKeys, seq uint64) []byte {
	s := cipherSpecs[c]
	b := make([]byte, 0, s.infoLen())
	b = binary.NativeEndian.AppendUint16(b, versionTLS13)
	b = binary.NativeEndian.AppendUint16(b, uint16(c))
	b = append(b, keys.iv[s.saltLen:]...)
	b = append(b, keys.key...)
	b = append(b, keys.iv[:s.saltLen]...)
	return binary.BigEndian.AppendUint64(b, seq)
}

// A suite12 is a cipher suite of TLS 1.2 that the kernel can carry: one of
// crypto/tls's with an AEAD (RFC 5288, RFC 5289, RFC 7905).
type suite12 struct {
	cipher Cipher
	hash   crypto.Hash // of the PRF
}

var suites12 = map[uint16]suite12{
	tls.TLS_RSA_WITH_AES_128_GCM_SHA256:               {AES128GCM, crypto.SHA256},
	tls.TLS_RSA_WITH_AES_256_GCM_SHA384:               {AES256GCM, crypto.SHA384},
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         {AES128GCM, crypto.SHA256},
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         {AES256GCM, crypto.SHA384},
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       {AES128GCM, crypto.SHA256},
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       {AES256GCM, crypto.SHA384},
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   {ChaCha20Poly1305, crypto.SHA256},
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: {ChaCha20Poly1305, crypto.SHA256},
}

// ivLen is the length of the part of the nonce that the key block has: all of
// ChaCha20-Poly1305's (RFC 7905 section 2), and what AES-GCM calls salt (RFC
// 5288 section 3).
func (s suite12) ivLen() int {
	if salt := cipherSpecs[s.cipher].saltLen; salt > 0 {
		return salt
	}
	return staticIVLen
}

// cryptoInfo12 is [cryptoInfo] for TLS 1.2. AES-GCM's "iv" is the explicit nonce
// of the next record there. crypto/tls uses the sequence number, and so does
// whoever goes on from seq: no nonce comes twice.
func cryptoInfo12(c Cipher, keys trafficKeys, seq uint64) []byte {
	s := cipherSpecs[c]
	b := make([]byte, 0, s.infoLen())
	b = binary.NativeEndian.AppendUint16(b, versionTLS12)
	b = binary.NativeEndian.AppendUint16(b, uint16(c))
	if s.saltLen > 0 {
		b = binary.BigEndian.AppendUint64(b, seq)
	} else {
		b = append(b, keys.iv...)
	}
	b = append(b, keys.key...)
	b = append(b, keys.iv[:s.saltLen]...)
	return binary.BigEndian.AppendUint64(b, seq)
}
