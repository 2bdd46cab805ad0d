// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto/tls"
)

// A ticketFeed gives the session tickets that the kernel has received to
// crypto/tls, which knows what to do with them: each is sealed as the record
// that crypto/tls would have read next, had it gone on reading.
type ticketFeed struct {
	cipher Cipher
	keys   trafficKeys // those of the handshake's end; crypto/tls hears of no KeyUpdate
	seq    uint64
	tls    *tls.Conn
	wire   *wire
}

// give hands over one NewSessionTicket message. false: crypto/tls will not have
// it, and nothing more. That is no harm to the session. (Of tickets without data
// between them, which it cannot see here, crypto/tls takes sixteen.)
func (f *ticketFeed) give(message []byte) bool {
	var records []byte
	for len(message) > 0 {
		n := min(len(message), maxPlaintext)
		r, err := f.keys.seal(f.cipher, f.seq, recordHandshake, message[:n])
		if err != nil {
			return false
		}
		f.seq++
		records = append(records, r...)
		message = message[n:]
	}
	var none [1]byte
	return f.wire.feed(records, func() error {
		_, err := f.tls.Read(none[:])
		return err
	}) == error(errDry)
}
