// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package keyring

import (
	"errors"
	"strings"
	"testing"
)

// As Linux 7.2 prints it.
const keys = `009a6ec5 I--Q---     1 perm 1f3f0000     0 65534 keyring   _uid_ses.0: 1
0b1c7b4f I------     1 perm 1f0b0000     0     0 keyring   .builtin_trusted_keys: 2
1ab8d5c3 I------     1 perm 1f1f0000     0     0 keyring   .nfs: empty
2de03b3c I--Q---     2 perm 3f030000     0     0 user      .nfs: 5
`

func TestFind(t *testing.T) {
	if got, err := parseKeys(strings.NewReader(keys)); err != nil || got != 0x1ab8d5c3 {
		t.Errorf("%x, %v", got, err)
	}
	for what, text := range map[string]string{
		"nothing":               "",
		"another user's":        strings.ReplaceAll(keys, "1f1f0000     0     0", "1f1f0000  1000     0"),
		"revoked":               strings.ReplaceAll(keys, "1ab8d5c3 I------", "1ab8d5c3 IR-----"),
		"a longer name":         strings.ReplaceAll(keys, ".nfs: empty", ".nfsd: empty"),
		"no serial":             strings.ReplaceAll(keys, "1ab8d5c3", "-1ab8d5c"),
		"a serial that is none": strings.ReplaceAll(keys, "1ab8d5c3", "ffffffff"),
	} {
		if got, err := parseKeys(strings.NewReader(text)); !errors.Is(err, ErrNoKeyring) {
			t.Errorf("%s: %x, %v", what, got, err)
		}
	}
}

func TestName(t *testing.T) {
	if name, ok := Name(Payload("alice")); !ok || name != "alice" {
		t.Errorf("%q, %v", name, ok)
	}
	for _, s := range []string{"", "\x30\x82", "-----BEGIN CERTIFICATE-----", "rpctls"} {
		if name, ok := Name([]byte(s)); ok {
			t.Errorf("%q is %q", s, name)
		}
	}
}

// Serials that do not stand for a key of others are not asked for.
func TestReadRefuses(t *testing.T) {
	for _, serial := range []int32{0, -1, -3} {
		if _, err := Read(serial); err == nil {
			t.Errorf("%d was read", serial)
		}
	}
}

func FuzzKeys(f *testing.F) {
	f.Add(keys)
	f.Fuzz(func(t *testing.T, s string) {
		if serial, err := parseKeys(strings.NewReader(s)); (err == nil) != (serial > 0) {
			t.Errorf("%d, %v", serial, err)
		}
	})
}
