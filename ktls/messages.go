// SPDX-License-Identifier: BSD-3-Clause

package ktls

import "errors"

// maxMessage is the longest handshake message that is taken, in bytes, header
// included. crypto/tls takes no longer ones.
const maxMessage = 65536

var errMessageTooLong = errors.New("a handshake message that is too long")

// messages puts handshake messages together again: a record may hold several of
// them, and one may come in several records (RFC 8446 section 5.1).
type messages struct {
	buf []byte
}

// add takes the content of a handshake record, or part of it. After an error of
// next nothing more may be added, so that at most a message and a record are
// held.
func (m *messages) add(p []byte) { m.buf = append(m.buf, p...) }

// next returns a whole message, header included, until the next call of add;
// nil if there is none.
func (m *messages) next() ([]byte, error) {
	if len(m.buf) < messageHeaderLen {
		return nil, nil
	}
	n := messageHeaderLen + int(m.buf[1])<<16 + int(m.buf[2])<<8 + int(m.buf[3])
	if n > maxMessage {
		return nil, errMessageTooLong
	}
	if len(m.buf) < n {
		return nil, nil
	}
	whole := m.buf[:n:n]
	m.buf = m.buf[n:]
	if len(m.buf) == 0 {
		m.buf = nil
	}
	return whole, nil
}

// partial reports whether a message has begun and not ended; whole ones must
// have been taken.
func (m *messages) partial() bool { return len(m.buf) > 0 }

// empty is its opposite.
func (m *messages) empty() bool { return len(m.buf) == 0 }
