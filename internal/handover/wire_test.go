// SPDX-License-Identifier: BSD-3-Clause

package handover

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"rpctls/upcall"
)

func sample() request {
	return request{
		Attributes: upcall.Attributes{
			Role: upcall.Client, AuthMode: upcall.X509, PeerName: "nfs.example.com", Timeout: 1500 * time.Millisecond,
			KeyPairs: []upcall.KeyPair{{Certificate: 1, PrivateKey: -2}}, PeerIdentities: []uint32{3, 4}, Keyring: 5,
		},
		deadline: 1 << 60,
	}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range []request{sample(), {Attributes: upcall.Attributes{Role: upcall.Server, AuthMode: upcall.X509}}} {
		b, err := want.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(request{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := sample().encode()
	if err != nil {
		t.Fatal(err)
	}
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	for name, b := range map[string][]byte{
		"nothing":              nil,
		"another magic":        change(0, 'X'),
		"another version":      change(4, 0, 2),
		"a wrong length":       change(6, 0, 0),
		"reserved bits":        change(38, 0, 1),
		"a byte too many":      append(bytes.Clone(good), 0),
		"a byte too few":       good[:len(good)-1],
		"too many pairs":       change(32, 0xff, 0xff),
		"too long a name":      change(36, 0xff, 0xff),
		"years of timeout":     change(16, 0xff, 0xff, 0xff, 0xff),
		"a header that is cut": good[:headerLen-1],
	} {
		if _, err := decode(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := (request{Attributes: upcall.Attributes{PeerName: strings.Repeat("a", maxName+1)}}).encode(); err == nil {
		t.Error("a name that is too long was encoded")
	}
}

// What decodes encodes to the same bytes: there is one way to say a thing.
func FuzzDecode(f *testing.F) {
	b, err := sample().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(make([]byte, headerLen))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decode(b)
		if err != nil {
			return
		}
		again, err := r.encode()
		if err != nil || !bytes.Equal(b, again) {
			t.Errorf("%x decoded and encoded is %x, %v", b, again, err)
		}
	})
}

func FuzzDecodeAnswer(f *testing.F) {
	f.Add(encodeAnswer(verdictTaken))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := decodeAnswer(b); err == nil && !bytes.Equal(b, encodeAnswer(v)) {
			t.Errorf("%x", b)
		}
	})
}
