// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package ringconn

import "testing"

func TestHarmless(t *testing.T) {
	ticket := []byte{4, 0, 0, 3, 1, 2, 3}
	for _, tt := range []struct {
		name    string
		typ     byte
		content []byte
		want    bool
	}{
		{"an alert", 21, []byte{1, 0}, true},
		{"a ticket", 22, ticket, true},
		{"two tickets", 22, append(ticket[:7:7], ticket...), true},
		{"a key update", 22, []byte{24, 0, 0, 1, 0}, false},
		{"a ticket and a key update", 22, append(ticket[:7:7], 24, 0, 0, 1, 1), false},
		{"half a ticket", 22, ticket[:6], false},
		{"a header alone", 22, []byte{4, 0, 0}, false},
		{"a ticket longer than any record", 22, []byte{4, 255, 255, 255}, false},
		{"nothing", 22, nil, false},
		{"another type", 23, ticket, false},
	} {
		if got := harmless(tt.typ, tt.content); got != tt.want {
			t.Errorf("%s: %t, want %t", tt.name, got, tt.want)
		}
	}
}

// What is called harmless consists of tickets, byte for byte.
func FuzzHarmless(f *testing.F) {
	f.Add(byte(22), []byte{4, 0, 0, 3, 1, 2, 3})
	f.Add(byte(22), []byte{24, 0, 0, 1, 0})
	f.Add(byte(22), []byte{4, 0, 0, 0, 24, 0, 0, 1, 1})
	f.Add(byte(21), []byte{2, 40})
	f.Add(byte(22), []byte{})
	f.Fuzz(func(t *testing.T, typ byte, content []byte) {
		if !harmless(typ, content) || typ == typeAlert {
			return
		}
		if typ != typeHandshake {
			t.Fatalf("type %d", typ)
		}
		for rest := content; ; {
			if len(rest) == 0 {
				return
			}
			if rest[0] != typeNewSessionTicket {
				t.Fatalf("%x begins with another message", rest)
			}
			rest = rest[4+int(rest[1])<<16+int(rest[2])<<8+int(rest[3]):]
		}
	})
}
