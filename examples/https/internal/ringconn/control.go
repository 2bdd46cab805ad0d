// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

// Content types (RFC 8446 section 5.1, B.1) and the one handshake type
// (section 4) that changes nothing but the peer's cache.
const (
	typeAlert            = 21
	typeHandshake        = 22
	typeNewSessionTicket = 4
)

// harmless reports whether a record that is not data leaves the keys as they
// are: an alert, or whole session tickets and nothing else. Anything that it
// does not know counts as harm.
func harmless(typ byte, content []byte) bool {
	if typ == typeAlert {
		return true
	}
	if typ != typeHandshake || len(content) == 0 {
		return false
	}
	for len(content) > 0 {
		if len(content) < 4 || content[0] != typeNewSessionTicket {
			return false
		}
		size := 4 + int(content[1])<<16 + int(content[2])<<8 + int(content[3])
		if size > len(content) {
			return false
		}
		content = content[size:]
	}
	return true
}
