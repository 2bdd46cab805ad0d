// SPDX-License-Identifier: BSD-3-Clause

package bench

import (
	"strings"
	"testing"
)

func TestIdle(t *testing.T) {
	got, n, err := Idle("cpu  100 20 300 4000 50 6 7 800000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 1 2\n")
	if want := 40.5; err != nil || got != want || n != 2 {
		t.Errorf("%v of %d, %v; want %v", got, n, err, want)
	}
	for _, bad := range []string{"", "intr 1 2 3 4 5 6", "cpu 1 2 3 4", "cpu 1 2 3 -4 5\ncpu0 1 2 3 4 5", "cpu 1 2 3 4 x\ncpu0 1 2 3 4 5", "cpu 1 2 3 99999999999999999999 5\ncpu0 1 2 3 4 5"} {
		if got, n, err := Idle(bad); err == nil {
			t.Errorf("%q: %v of %d", bad, got, n)
		}
	}
}

func FuzzIdle(f *testing.F) {
	f.Add("cpu  100 20 300 4000 50 6 7 800000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
	f.Add("cpu 1 2 3")
	f.Add("cpu 1 1 1 72057594037927935 72057594037927935\ncpu0 1 1 1 1 1")
	f.Fuzz(func(t *testing.T, text string) {
		if s, n, err := Idle(text); err == nil && !(s >= 0 && n > 0) {
			t.Errorf("%v seconds of %d", s, n)
		}
	})
}

func TestGCMDriver(t *testing.T) {
	const text = `name         : gcm(aes)
driver       : gcm_base(ctr(aes-lib),ghash-lib)
priority     : 100
internal     : no

name         : gcm(aes)
driver       : inside
priority     : 900
internal     : yes

name         : rfc4106(gcm(aes))
driver       : other
priority     : 800

name         : gcm(aes)
driver       : generic-gcm-aesni-avx
priority     : 500
internal     : no
`
	if got := GCMDriver(text); got != "generic-gcm-aesni-avx" {
		t.Errorf("%q", got)
	}
	for _, none := range []string{"", "name : sha256\npriority : 1\n", "name : gcm(aes)\ndriver : x\npriority : high\n"} {
		if got := GCMDriver(none); got != "" {
			t.Errorf("%q: %q", none, got)
		}
	}
}

func TestKTLSTable(t *testing.T) {
	record := func(figure string, s System, round int, elapsed, guest, process float64) Record {
		return Record{Figure: figure, System: s, Round: round, Transfer: &Transfer{Cipher: "CIPHER", Driver: "DRIVER-" + string(s), MiB: 16, Elapsed: elapsed, GuestCPU: guest, ProcessCPU: process}}
	}
	r := &Report{Release: "9.9.9-test", Records: []Record{
		record("ktls.memory", UserTLS, 0, 2, 4, 2),
		record("ktls.memory", UserTLS, 1, 4, 8, 4),
		record("ktls.memory", UserTLS, 2, 8, 6, 3),
		record("ktls.memory", KernelTLS, 0, 1, 1, 1),
		record("ktls.memory", KernelTLS, 1, 2, 2, 2),
		record("ktls.memory", KernelTLS, 2, 4, 3, 3),
		record("ktls.file", UserTLS, 0, 4, 1, 1),
		record("ktls.file", Sendfile, 0, 1, 0.5, 0.25),
	}}
	want := [][]string{
		{"", "crypto/tls", "ktls", "ktls, sendfile", "ktls : crypto/tls", "sendfile : crypto/tls"},
		{"MiB/s, memory to socket", "4.0", "8.0", none, "2.00", none},
		{"– CPU s per GiB, all of the guest", "384.0", "128.0", none, "0.25", none},
		{"– – of which charged to the two processes", "192.0", "128.0", none, "0.50", none},
		{"MiB/s, file to socket", "4.0", none, "16.0", none, "4.00"},
		{"– CPU s per GiB, all of the guest", "64.0", none, "32.0", none, "0.50"},
		{"– – of which charged to the two processes", "64.0", none, "16.0", none, "0.25"},
	}
	got := r.KTLS()
	for i, line := range append([][]string{got.Head}, got.Rows...) {
		if i >= len(want) || strings.Join(line, "|") != strings.Join(want[i], "|") {
			t.Errorf("%q", line)
		}
	}
	if len(got.Rows)+1 != len(want) {
		t.Errorf("%d rows", len(got.Rows))
	}
	if t2 := r.Table(); len(t2.Rows) != 0 {
		t.Errorf("in the table of NFS: %v", t2.Rows)
	}
	if k := example.KTLS(); k != nil {
		t.Errorf("measured nothing, and yet: %v", k.Rows)
	}
	text, err := Document(Machine{}, []*Report{example, r})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sends 16 MiB from", "TLS 1.3 (CIPHER), with", "over loopback. The kernel's AES-GCM\nis `DRIVER-ktls`.\n\n| "} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is not once in\n%s", want, text)
		}
	}
}
