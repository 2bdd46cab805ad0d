// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The application traffic keys of RFC 8448 section 3, "Simple 1-RTT Handshake".
func TestDeriveKeysRFC8448(t *testing.T) {
	tests := []struct {
		name, secret, key, iv string
	}{
		{
			name:   "client",
			secret: "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5",
			key:    "17422dda596ed5d9acd890e3c63f5051",
			iv:     "5b78923dee08579033e523d9",
		},
		{
			name:   "server",
			secret: "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643",
			key:    "9f02283b6c9c07efc26bb9f2ac92e356",
			iv:     "cf782b88dd83549aadf1e984",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := deriveKeys(AES128GCM, unhex(t, tt.secret))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.key, hex.EncodeToString(k.key)); diff != "" {
				t.Errorf("key (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.iv, hex.EncodeToString(k.iv)); diff != "" {
				t.Errorf("iv (-want +got):\n%s", diff)
			}
		})
	}
}

// The client's application data record of RFC 8448 section 3 decrypts to the
// bytes 00 to 31, and sealing them gives the same record back.
func TestOpenRFC8448(t *testing.T) {
	k, err := deriveKeys(AES128GCM, unhex(t, "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"))
	if err != nil {
		t.Fatal(err)
	}
	record := unhex(t, "17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b"+
		" 98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4")
	typ, content, err := k.open(AES128GCM, 0, record)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 50)
	for i := range want {
		want[i] = byte(i)
	}
	if typ != recordApplicationData || !bytes.Equal(content, want) {
		t.Errorf("type %d, content %x", typ, content)
	}
	again, err := k.seal(AES128GCM, 0, typ, content)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(record, again); diff != "" {
		t.Errorf("sealed (-want +got):\n%s", diff)
	}
}

func TestCryptoInfoLayout(t *testing.T) {
	iv := unhex(t, "000102030405060708090a0b")
	key := bytes.Repeat([]byte{0xee}, 32)
	tests := []struct {
		cipher Cipher
		want   string // little endian, as on every machine CI has
	}{
		{AES128GCM, "0403 3300 0405060708090a0b" + strings.Repeat("ee", 16) + "00010203 0000000000000007"},
		{AES256GCM, "0403 3400 0405060708090a0b" + strings.Repeat("ee", 32) + "00010203 0000000000000007"},
		{ChaCha20Poly1305, "0403 3600 000102030405060708090a0b" + strings.Repeat("ee", 32) + "0000000000000007"},
	}
	for _, tt := range tests {
		t.Run(tt.cipher.String(), func(t *testing.T) {
			s := cipherSpecs[tt.cipher]
			got := cryptoInfo(tt.cipher, trafficKeys{key: key[:s.keyLen], iv: iv}, 7)
			if diff := cmp.Diff(unhex(t, tt.want), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(got) != s.infoLen() {
				t.Errorf("length %d, infoLen %d", len(got), s.infoLen())
			}
		})
	}
}

func TestSecretLogWipesWhatItWasGiven(t *testing.T) {
	l := new(secretLog)
	line := []byte("CLIENT_TRAFFIC_SECRET_0 00ff a1b2c3d4\n")
	if _, err := l.Write(line); err != nil {
		t.Fatal(err)
	}
	if bytes.ContainsAny(line, "abcdef") {
		t.Errorf("line not cleared: %q", line)
	}
	secret := l.secrets[labelClientTraffic]
	if diff := cmp.Diff(unhex(t, "a1b2c3d4"), secret); diff != "" {
		t.Errorf("secret (-want +got):\n%s", diff)
	}
	l.wipe()
	if !bytes.Equal(secret, make([]byte, 4)) || len(l.secrets) != 0 {
		t.Error("secret not cleared")
	}
}

func TestSecretLogErrorsHoldNoSecret(t *testing.T) {
	for _, line := range []string{"LABEL 00 c0ffee1z\n", "c0ffee1\n", "LABEL 00 c0ffee1 x\n"} {
		if _, err := new(secretLog).Write([]byte(line)); err == nil {
			t.Errorf("%q accepted", line)
		} else if strings.Contains(err.Error(), "c0ffee") {
			t.Errorf("error quotes the secret: %v", err)
		}
	}
}
