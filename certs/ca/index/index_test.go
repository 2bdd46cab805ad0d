// SPDX-License-Identifier: BSD-3-Clause

package index_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"rpctls/certs/ca/index"
	"rpctls/certs/san"
)

var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func names(tb testing.TB, texts ...string) san.Names {
	tb.Helper()
	n, err := san.Parse(texts...)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func serial(digit string) string { return strings.Repeat(digit, index.SerialDigits) }

// book is a file with one entry of every kind.
func book(tb testing.TB) []byte {
	tb.Helper()
	x := new(index.Index)
	var data []byte
	server := index.Entry{Time: start, Event: index.Issued, Serial: serial("1"), Kind: index.KindServer,
		NotAfter: start.AddDate(0, 0, 90), Names: names(tb, "nfs.example.com", "2001:db8::1"), Fingerprint: strings.Repeat("a", 64)}
	revoked := server
	revoked.Time, revoked.Event, revoked.Reason = start.Add(time.Hour), index.Revoked, "keyCompromise"
	for _, e := range []index.Entry{
		{Time: start, Event: index.Issued, Serial: serial("0"), Kind: index.KindCA, NotAfter: start.AddDate(10, 0, 0), Fingerprint: strings.Repeat("c", 64)},
		{Time: start, Event: index.CRL, Serial: "1", Kind: index.KindCRL, NotAfter: start.AddDate(0, 0, 30)},
		server,
		{Time: start, Event: index.Issued, Serial: serial("2"), Kind: index.KindClient, NotAfter: start.AddDate(0, 0, 90),
			Names: names(tb, "client1", "user:alice@example.com"), Fingerprint: strings.Repeat("b", 64)},
		revoked,
		{Time: start.Add(time.Hour), Event: index.CRL, Serial: "12", Kind: index.KindCRL, NotAfter: start.AddDate(0, 0, 30)},
	} {
		line, err := x.Add(e)
		if err != nil {
			tb.Fatal(err)
		}
		data = append(data, line...)
	}
	if x.Size != int64(len(data)) {
		tb.Fatalf("size %d of %d", x.Size, len(data))
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	data := book(t)
	x, err := index.Parse(data)
	if err != nil || len(x.Entries) != 6 || len(x.Torn) != 0 || x.Size != int64(len(data)) || x.CRLNumber() != 12 {
		t.Fatalf("%+v, %v", x, err)
	}
	if e, ok := x.Revoked(serial("1")); !ok || e.Reason != "keyCompromise" {
		t.Errorf("revoked: %v, %v", e, ok)
	}
	if _, ok := x.Revoked(serial("2")); ok {
		t.Error("a certificate counts as revoked that is not")
	}
	if e, ok := x.Issued(serial("2")); !ok || e.Names.String() != "client1, user:alice@example.com" {
		t.Errorf("issued: %v, %v", e, ok)
	}
	// What is appended after reading fits.
	line, err := x.Add(index.Entry{Time: start, Event: index.CRL, Serial: "13", Kind: index.KindCRL, NotAfter: start})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := index.Parse(append(data, line...)); err != nil {
		t.Error(err)
	}
}

// A crash may cut the file anywhere: every prefix reads as the lines that are
// whole.
func TestCutAtEveryByte(t *testing.T) {
	data := book(t)
	for n := range len(data) + 1 {
		x, err := index.Parse(data[:n])
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		whole := bytes.LastIndexByte(data[:n], '\n') + 1
		if x.Size != int64(whole) || len(x.Torn) != n-whole || len(x.Entries) != bytes.Count(data[:n], []byte("\n")) {
			t.Fatalf("cut at %d: %d entries, size %d, torn %q", n, len(x.Entries), x.Size, x.Torn)
		}
	}
}

// The last line may have its end but not its middle, if its blocks were
// written in another order.
func TestUnwrittenBlock(t *testing.T) {
	data := book(t)
	last := bytes.LastIndexByte(data[:len(data)-1], '\n') + 1
	clear(data[last : last+10])
	x, err := index.Parse(data)
	if err != nil || x.Size != int64(last) || len(x.Entries) != 5 {
		t.Errorf("%+v, %v", x, err)
	}
}

// Whatever else is wrong is not passed over.
func TestParseRefuses(t *testing.T) {
	data := book(t)
	lines := slices.Collect(bytes.Lines(data))
	without := func(n int) []byte { return bytes.Join(slices.Delete(slices.Clone(lines), n, n+1), nil) }
	change := func(old, new string) []byte {
		if !bytes.Contains(data, []byte(old)) {
			t.Fatalf("%q is not there to be changed", old)
		}
		return bytes.Replace(bytes.Clone(data), []byte(old), []byte(new), 1)
	}
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"the first line missing", without(0), "line 1: the sum does not fit"},
		{"a line missing", without(1), "line 2: the sum does not fit"},
		{"the revocation missing", without(4), "line 5: the sum does not fit"},
		{"two lines swapped", bytes.Join([][]byte{lines[0], lines[2], lines[1]}, nil), "line 2: the sum does not fit"},
		{"a line twice", bytes.Join([][]byte{lines[0], lines[1], lines[1]}, nil), "line 3: the sum does not fit"},
		{"another name", change("nfs.example.com", "nfs.example.org"), "line 3: the sum does not fit"},
		{"the last line changed", change(" crl 12 ", " crl 13 "), "line 6: the sum does not fit"},
		{"another reason", change("keyCompromise", "superseded"), "line 5: the sum does not fit"},
		{"an unknown reason", change("keyCompromise", "whatever"), "line 5: unknown reason"},
		{"an unknown event", change(" revoked ", " removed "), "line 5: unknown event"},
		{"a column more", change(" revoked ", " revoked x "), "line 5: 10 columns"},
		{"another spelling", change("2026-11-21T12:00:00Z", "2026-11-21T12:00:00+00:00"), "line 1: not spelled"},
		{"a NUL within", change("nfs.example", "nfs\x00example"), "line 3"},
		{"an empty line", change("\n", "\n\n"), "line 2: 1 columns"},
		{"carriage returns", change("\n", "\r\n"), "line 1: the sum is malformed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			x, err := index.Parse(tt.data)
			if err == nil || x != nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, %v, want %q", x, err, tt.want)
			}
		})
	}
}

func TestAddRefuses(t *testing.T) {
	good := index.Entry{Time: start, Event: index.Issued, Serial: serial("3"), Kind: index.KindServer,
		NotAfter: start, Names: names(t, "a.example"), Fingerprint: strings.Repeat("a", 64)}
	for name, change := range map[string]func(*index.Entry){
		"a serial number twice":       func(e *index.Entry) { e.Serial = serial("1") },
		"a short serial number":       func(e *index.Entry) { e.Serial = "1" },
		"no names":                    func(e *index.Entry) { e.Names = san.Names{} },
		"no fingerprint":              func(e *index.Entry) { e.Fingerprint = "" },
		"a second CA":                 func(e *index.Entry) { e.Kind = index.KindCA; e.Names = san.Names{} },
		"an unknown kind":             func(e *index.Entry) { e.Kind = "router" },
		"a reason":                    func(e *index.Entry) { e.Reason = "superseded" },
		"fractions of a second":       func(e *index.Entry) { e.Time = start.Add(time.Millisecond) },
		"revoked, never issued":       func(e *index.Entry) { e.Event = index.Revoked; e.Reason = "superseded" },
		"revoked for the second time": func(e *index.Entry) { *e = entry(t, serial("1")); e.Event = index.Revoked; e.Reason = "superseded" },
		"revoked with another name": func(e *index.Entry) {
			*e = entry(t, serial("2"))
			e.Event, e.Reason, e.Names = index.Revoked, "superseded", names(t, "b.example")
		},
		"a CRL number again": func(e *index.Entry) {
			*e = index.Entry{Time: start, Event: index.CRL, Serial: "12", Kind: index.KindCRL, NotAfter: start}
		},
	} {
		t.Run(name, func(t *testing.T) {
			x, err := index.Parse(book(t))
			if err != nil {
				t.Fatal(err)
			}
			e := good
			change(&e)
			if line, err := x.Add(e); err == nil {
				t.Errorf("added %q", line)
			}
			if _, err := x.Add(good); err != nil {
				t.Errorf("after the refusal: %v", err)
			}
		})
	}
}

func entry(t *testing.T, serial string) index.Entry {
	x, err := index.Parse(book(t))
	if err != nil {
		t.Fatal(err)
	}
	e, _ := x.Issued(serial)
	return e
}

func TestNewSerial(t *testing.T) {
	a, b := index.NewSerial(), index.NewSerial()
	if a.Cmp(b) == 0 || a.Sign() <= 0 || a.BitLen() > 128 || len(index.SerialOf(a)) != index.SerialDigits {
		t.Errorf("%x, %x", a, b)
	}
}

// What parses is written again with the same bytes.
func FuzzParse(f *testing.F) {
	data := book(f)
	f.Add(data)
	f.Add(data[:len(data)-20])
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := index.Parse(data)
		if (x == nil) != (err != nil) {
			t.Fatalf("value %v with error %v", x, err)
		}
		if err != nil {
			if len(err.Error()) > 1000 || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("unfit error %q", err)
			}
			return
		}
		var again []byte
		copied := new(index.Index)
		for _, e := range x.Entries {
			line, err := copied.Add(e)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, line...)
		}
		if !bytes.Equal(append(again, x.Torn...), data) {
			t.Errorf("%q became %q", data, again)
		}
	})
}
