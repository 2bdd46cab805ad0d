// SPDX-License-Identifier: BSD-3-Clause

package guest

import (
	"errors"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestParseSockets(t *testing.T) {
	const plain = "ESTAB 0      0      10.1.0.2:960 10.1.0.1:2049 timer:(keepalive,59sec,0) ino:423 sk:1 cgroup:/ <-> ts sack cubic wscale:8,8\n"
	addr := netip.MustParseAddrPort
	for _, tt := range []struct {
		name, text string
		want       []Socket
		err        string
	}{
		{"nothing", "", nil, ""},
		{"no TLS", plain, []Socket{{State: "ESTAB", Local: addr("10.1.0.2:960"), Peer: addr("10.1.0.1:2049")}}, ""},
		{
			"TLS on the second",
			plain + "ESTAB 0 0 [fd77:1::2]:700 [fd77:1::1]:2049 ino:1 sk:2 cgroup:/ <-> tcp-ulp-tls version: 1.3 cipher: aes-gcm-256 rxconf: sw txconf: sw ts sack\n",
			[]Socket{
				{State: "ESTAB", Local: addr("10.1.0.2:960"), Peer: addr("10.1.0.1:2049")},
				{State: "ESTAB", Local: addr("[fd77:1::2]:700"), Peer: addr("[fd77:1::1]:2049"),
					TLS: &SocketTLS{Version: "1.3", Cipher: "aes-gcm-256", RX: "sw", TX: "sw"}},
			}, "",
		},
		{
			"TLS without keys, and an IPv4 address in IPv6's clothes",
			"CLOSE-WAIT 1 0 [::ffff:10.0.0.1]:2049 [::ffff:10.0.0.2]:700 sk:3 tcp-ulp-tls rxconf: none txconf: none\n",
			[]Socket{{State: "CLOSE-WAIT", Local: addr("10.0.0.1:2049"), Peer: addr("10.0.0.2:700"), TLS: &SocketTLS{RX: "none", TX: "none"}}}, "",
		},
		{
			"zone and wildcard", "LISTEN 0 0 [fe80::1]%eth0:80 *:*\n",
			[]Socket{{State: "LISTEN", Local: addr("[fe80::1%eth0]:80"), Peer: addr("[::]:0")}}, "",
		},
		{"too short", "ESTAB 0 0 1.2.3.4:5\n", nil, `line "ESTAB`},
		{"no port", "ESTAB 0 0 1.2.3.4 1.2.3.4:5\n", nil, "has no port"},
		{"bad port", "ESTAB 0 0 1.2.3.4:x 1.2.3.4:5\n", nil, "invalid syntax"},
		{"bad address", "ESTAB 0 0 1.2.3.4:5 host:5\n", nil, "ParseAddr"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSockets(tt.text)
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)) {
				t.Fatalf("error is %v, want %q", err, tt.err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("sockets are %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseCounters(t *testing.T) {
	got, err := parseCounters("TlsCurrTxSw                     \t0\nTlsDecryptError                 \t18446744073709551615\n")
	want := map[string]uint64{"TlsCurrTxSw": 0, "TlsDecryptError": 1<<64 - 1}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("counters are %v, %v, want %v", got, err, want)
	}
	for _, text := range []string{"one\n", "one two\n", "one 2 3\n"} {
		if _, err := parseCounters(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		text string
		want Version
		ok   bool
	}{
		{"6.12", Version{6, 12}, true},
		{"6.12.117+deb12-cloud-amd64", Version{6, 12}, true},
		{"7.2-rc3", Version{7, 2}, true},
		{"7.2+deb14", Version{7, 2}, true},
		{"7", Version{}, false},
		{"", Version{}, false},
		{"x.y", Version{}, false},
	} {
		got, err := ParseVersion(tt.text)
		if (err == nil) != tt.ok || tt.ok && got != tt.want {
			t.Errorf("%q: %v, %v", tt.text, got, err)
		}
	}
	ordered := []Version{{6, 1}, {6, 12}, {7, 0}, {7, 2}}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := a.AtLeast(b); got != (i >= j) {
				t.Errorf("%v at least %v: %t", a, b, got)
			}
		}
	}
}

func TestJudge(t *testing.T) {
	no := errors.New("no")
	old, since, later := Version{6, 12}, Version{7, 2}, Version{7, 3}
	for _, tt := range []struct {
		name    string
		running Version
		probe   error
		want    verdict
	}{
		{"promised and there", since, nil, featurePresent},
		{"there before it was promised", old, nil, featurePresent},
		{"not promised and not there", old, no, featureAbsent},
		{"promised and not there", since, no, featureMissing},
		{"promised long ago and not there", later, no, featureMissing},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, why := judge(tt.running, since, tt.probe); got != tt.want {
				t.Errorf("verdict %v (%s), want %v", got, why, tt.want)
			}
		})
	}
}

func TestWithin(t *testing.T) {
	if err := within(time.Minute, func() error { return nil }); err != nil {
		t.Error(err)
	}
	never := make(chan struct{})
	if err := within(time.Millisecond, func() error { <-never; return nil }); !errors.Is(err, ErrHung) {
		t.Errorf("error is %v, want %v", err, ErrHung)
	}
}

func TestSyncBuffer(t *testing.T) {
	var b syncBuffer
	text, more := b.watch(0)
	if text != "" {
		t.Fatalf("has %q", text)
	}
	go func() { _, _ = b.Write([]byte("one\ntwo")) }()
	<-more
	if text, _ = b.watch(4); text != "two" {
		t.Errorf("from 4 on has %q", text)
	}
}

func TestRandomReader(t *testing.T) {
	dir := t.TempDir()
	one, err := writeRandom(dir+"/a", 1, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	again, err := writeRandom(dir+"/b", 1, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	other, err := writeRandom(dir+"/c", 2, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	if one != again || one == other {
		t.Errorf("sums are %v, %v and %v: the first two must be equal, the third not", one, again, other)
	}
	if got := fileName("TestX/a b:c"); !regexp.MustCompile(`^[\w.-]+$`).MatchString(got) {
		t.Errorf("file name is %q", got)
	}
}
