// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
)

// translate takes what crypto/tls would send where it still receives, but the
// kernel sends: alerts and answers to KeyUpdate. The records are opened, and
// their content leaves as the kernel's. It is called with crypto/tls's lock for
// writing held.
func (k *carried) translate(p []byte) error {
	k.shadowMu.Lock()
	defer k.shadowMu.Unlock()
	defer func() {
		if k.closed.Load() {
			k.forgetShadow()
		}
	}()
	if k.shadow == nil {
		return net.ErrClosed
	}
	for len(p) > 0 {
		record := firstRecord(p)
		if record == nil {
			return errOddWrite
		}
		p = p[len(record):]
		typ, content, err := k.shadow.openAs(k.suite, record)
		if err != nil {
			return fmt.Errorf("crypto/tls wrote what was not expected: %w", err)
		}
		k.shadow.seq++
		if typ != recordHandshake {
			k.writeMu.Lock()
			if k.writeErr == nil {
				err = k.sock.sendControl(typ, content, true)
			}
			if typ == recordAlert && len(content) == 2 && content[0] == alertFatal && k.writeErr == nil {
				k.writeErr = fmt.Errorf("write after alert %v was sent", Alert(content[1]))
			}
			k.unlock()
			if err != nil {
				return err
			}
			continue
		}
		// Nothing else is sent after the handshake. crypto/tls takes its next
		// key behind it; the kernel may be some keys ahead. An answer that cannot
		// be given ends writing and not reading: crypto/tls, if it heard of it,
		// would forget to take the key that it should read with.
		if err := k.updateKeys(false); err != nil {
			k.writeMu.Lock()
			if k.writeErr == nil {
				k.writeErr = err
			}
			k.unlock()
		}
		if err := k.shadow.next(k.suite.Cipher); err != nil {
			return err
		}
	}
	return nil
}

// openAs decrypts f's next record as either version's.
func (f *flow) openAs(s Suite, record []byte) (typ byte, content []byte, err error) {
	if s.Version == tls.VersionTLS13 {
		return f.keys.open(s.Cipher, f.seq, record)
	}
	return f.keys.open12(s.Cipher, f.seq, record)
}

// open12 decrypts one whole TLSCiphertext of TLS 1.2, header included (RFC 5246
// section 6.2.3.3, RFC 5288 section 3, RFC 7905 section 2).
func (k trafficKeys) open12(c Cipher, seq uint64, record []byte) (typ byte, content []byte, err error) {
	a, err := c.aead(k.key)
	if err != nil {
		return 0, nil, err
	}
	body := record[recordHeaderLen:]
	nonce := k.nonce12(c, seq)
	if cipherSpecs[c].saltLen > 0 {
		if len(body) < explicitNonceLen {
			return 0, nil, errOddWrite
		}
		nonce = append(clone(k.iv), body[:explicitNonceLen]...)
		body = body[explicitNonceLen:]
	}
	if len(body) < a.Overhead() {
		return 0, nil, errOddWrite
	}
	content, err = a.Open(nil, nonce, body, additional12(seq, record[0], len(body)-a.Overhead()))
	return record[0], content, err
}

// nonce12 is the nonce of the record seq when its number is in it: always with
// ChaCha20-Poly1305, and as crypto/tls and the kernel do it with AES-GCM.
func (k trafficKeys) nonce12(c Cipher, seq uint64) []byte {
	if cipherSpecs[c].saltLen > 0 {
		return binary.BigEndian.AppendUint64(clone(k.iv), seq)
	}
	return k.nonce(seq)
}

// additional12 is the additional data of RFC 5246 section 6.2.3.3.
func additional12(seq uint64, typ byte, length int) []byte {
	b := binary.BigEndian.AppendUint64(nil, seq)
	return binary.BigEndian.AppendUint16(append(b, typ, 3, 3), uint16(length))
}
