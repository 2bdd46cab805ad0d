// SPDX-License-Identifier: BSD-3-Clause

package bundle_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"filippo.io/age/armor"

	"rpctls/certs"
	"rpctls/certs/bundle"
	"rpctls/certs/certstest"
	"rpctls/certs/intake"
)

func made(tb testing.TB) (text []byte, pair *certstest.Pair) {
	tb.Helper()
	root := certstest.MustCA(tb, certstest.CAOptions{CommonName: "root"})
	pair = root.MustIntermediate(tb, certstest.CAOptions{CommonName: "middle"}).MustIssue(tb, certstest.Options{
		CommonName: "client1", DNS: []string{"client1"}, EKU: certstest.OIDs{certstest.ClientAuth}})
	text, err := bundle.Encode(pair.Key, pair.Chain(), root.Cert)
	return certstest.Must(tb, text, err), pair
}

func judge(data []byte) (*intake.Identity, error) {
	var m intake.Material
	if err := m.Add("client.bundle", data); err != nil {
		return nil, err
	}
	return m.Judge(intake.Wanted{Now: time.Now()})
}

func TestRoundTrip(t *testing.T) {
	text, pair := made(t)
	if bundle.Encrypted(text) {
		t.Error("clear text counts as encrypted")
	}
	if !strings.HasPrefix(string(text), "rpctls bundle for CN=client1, until ") {
		t.Errorf("begins %.80q", text)
	}
	sealed, err := bundle.Encrypt(text, "correct horse", 10)
	if err != nil {
		t.Fatal(err)
	}
	if !bundle.Encrypted(sealed) || bytes.Contains(sealed, []byte("PRIVATE")) {
		t.Errorf("sealed: %.80q", sealed)
	}
	opened, err := bundle.Decrypt(append([]byte("\n"), sealed...), "correct horse")
	if err != nil || !bytes.Equal(opened, text) {
		t.Fatalf("opened: %v", err)
	}
	id, err := judge(opened)
	if err != nil || id.Purpose != certs.ClientAuth || len(id.Chain) != 2 || !id.Chain[0].Equal(pair.Cert) || !id.Anchor.Equal(pair.CA.Root().Cert) || len(id.Notes) != 1 {
		t.Errorf("identity %+v, %v", id, err)
	}
}

func TestDecryptRefuses(t *testing.T) {
	text, _ := made(t)
	sealed, err := bundle.Encrypt(text, "correct horse", 10)
	if err != nil {
		t.Fatal(err)
	}
	raw := certstest.Must(t, unarmor(sealed), nil)
	if _, err := bundle.Decrypt(raw, "correct horse"); err != nil || !bundle.Encrypted(raw) {
		t.Errorf("without armor: %v", err)
	}
	costly, err := bundle.Encrypt([]byte("x"), "p", 8)
	if err != nil {
		t.Fatal(err)
	}
	costly = rearm(bytes.Replace(unarmor(costly), []byte(" 8\n"), []byte(" 28\n"), 1))
	big, err := bundle.Encrypt(make([]byte, 1<<20+1), "p", 10)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		data       []byte
		passphrase string
		is         error
	}{
		"another passphrase":   {sealed, "battery staple", bundle.ErrPassphrase},
		"no passphrase":        {sealed, "", nil},
		"clear text":           {text, "p", nil},
		"cut short":            {raw[:len(raw)-1], "correct horse", nil},
		"cut after the header": {raw[:250], "correct horse", nil},
		"a byte changed":       {append(bytes.Clone(raw[:len(raw)-1]), raw[len(raw)-1]^1), "correct horse", nil},
		"too costly":           {costly, "p", nil},
		"too large":            {big, "p", nil},
		"nothing":              {nil, "p", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := bundle.Decrypt(tt.data, tt.passphrase)
			if err == nil || got != nil || tt.is != nil && !errors.Is(err, tt.is) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %.20q, %v", got, err)
			}
		})
	}
}

func unarmor(data []byte) []byte {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	raw, err := base64.StdEncoding.DecodeString(strings.Join(lines[1:len(lines)-1], ""))
	if err != nil {
		panic(err)
	}
	return raw
}

func rearm(raw []byte) []byte {
	var out bytes.Buffer
	w := armor.NewWriter(&out)
	w.Write(raw)
	w.Close()
	return out.Bytes()
}

// FuzzDecrypt tries what somebody may send as a bundle, in clear or not.
func FuzzDecrypt(f *testing.F) {
	text, _ := made(f)
	f.Add(text)
	sealed, err := bundle.Encrypt([]byte("short"), "p", 10)
	f.Add(certstest.Must(f, sealed, err))
	f.Add(unarmor(sealed))
	f.Fuzz(func(t *testing.T, data []byte) {
		if bundle.Encrypted(data) {
			if bytes.Contains(data, []byte("scrypt")) {
				return // valid ones cost a second each
			}
			got, err := bundle.Decrypt(data, "p")
			if (got == nil) != (err != nil) || err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("got %q, %v", got, err)
			}
			return
		}
		id, err := judge(data)
		if (id == nil) != (err != nil) {
			t.Errorf("identity %v, %v", id, err)
		}
	})
}
