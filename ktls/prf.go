// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto"
	"crypto/hmac"
)

// masterLen is the length of TLS 1.2's master secret (RFC 5246 section 8.1).
const masterLen = 48

// prf is TLS 1.2's pseudorandom function (RFC 5246 section 5) with the hash of
// the cipher suite.
func prf(h crypto.Hash, secret []byte, label string, seed []byte, length int) []byte {
	labelled := append([]byte(label), seed...)
	mac := hmac.New(h.New, secret)
	sum := func(parts ...[]byte) []byte {
		mac.Reset()
		for _, p := range parts {
			mac.Write(p)
		}
		return mac.Sum(nil)
	}
	var out []byte
	for a := sum(labelled); len(out) < length; a = sum(a) {
		out = append(out, sum(a, labelled)...)
	}
	clear(out[length:])
	return out[:length]
}

// deriveKeys12 derives both directions' keys from TLS 1.2's master secret and
// the hellos' randoms (RFC 5246 section 6.3). Their ciphers have no MAC keys.
func deriveKeys12(s suite12, master []byte, client, server [randomLen]byte) (fromClient, fromServer trafficKeys) {
	key, iv := cipherSpecs[s.cipher].keyLen, s.ivLen()
	seed := append(server[:], client[:]...)
	block := prf(s.hash, master, "key expansion", seed, 2*(key+iv))
	defer clear(block)
	take := func(n int) []byte {
		part := append([]byte(nil), block[:n]...)
		clear(block[:n])
		block = block[n:]
		return part
	}
	fromClient.key, fromServer.key = take(key), take(key)
	fromClient.iv, fromServer.iv = take(iv), take(iv)
	return fromClient, fromServer
}
