// SPDX-License-Identifier: BSD-3-Clause

package index

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"rpctls/certs/san"
)

// Limits. A line of a certificate with one name has some 250 bytes.
const (
	maxLine = 32 << 10
	maxSize = 256 << 20
)

// An Event is what a line tells.
type Event string

// The events.
const (
	Issued  Event = "issued"
	Revoked Event = "revoked"
	CRL     Event = "crl"
)

// Kinds of what an entry is about.
const (
	KindCA     = "ca"
	KindServer = "server"
	KindClient = "client"
	KindCRL    = "crl"
)

// Reasons are those for a revocation that make sense for a host (RFC 5280
// section 5.3.1), with their codes. A certificate is never put on hold.
var Reasons = map[string]int{
	"unspecified":          0,
	"keyCompromise":        1,
	"affiliationChanged":   3,
	"superseded":           4,
	"cessationOfOperation": 5,
}

// An Entry is a line.
type Entry struct {
	Time        time.Time
	Event       Event
	Serial      string // as SerialOf spells it; of a CRL its number, decimal
	Kind        string
	NotAfter    time.Time
	Reason      string // of a revocation, else empty
	Names       san.Names
	Fingerprint string // empty for a CRL
}

// An Index is what a file holds.
type Index struct {
	Entries []Entry
	// Size is the length of the file up to the end of the last entry.
	Size int64
	// Torn is what follows, the beginning of a line that a crash cut short.
	Torn []byte

	sum    [sha256.Size]byte
	issued map[string]int // serial to entry
	gone   map[string]int // serial to entry of the revocation
	crl    int64
}

// none stands in a column for nothing.
const none = "-"

const columns = 9

// fields returns the columns before the sum.
func (e Entry) fields() []string {
	dash := func(s string) string {
		if s == "" {
			return none
		}
		return s
	}
	return []string{
		e.Time.UTC().Format(time.RFC3339), string(e.Event), e.Serial, e.Kind, e.NotAfter.UTC().Format(time.RFC3339),
		dash(e.Reason), dash(strings.Join(e.Names.Strings(), ",")), dash(e.Fingerprint),
	}
}

func next(sum [sha256.Size]byte, text string) [sha256.Size]byte {
	return sha256.Sum256(append(sum[:], text...))
}

// Add takes up an entry and returns its line, which belongs at the end of the
// file.
func (x *Index) Add(e Entry) (line []byte, err error) {
	text := strings.Join(e.fields(), " ")
	sum := next(x.sum, text)
	line = fmt.Appendf(nil, "%s %x\n", text, sum)
	parsed, err := parseLine(line[:len(line)-1])
	if err == nil && (!parsed.Time.Equal(e.Time) || !parsed.NotAfter.Equal(e.NotAfter)) {
		err = errors.New("a time is not in whole seconds")
	}
	if err == nil {
		err = x.take(parsed)
	}
	if err != nil {
		return nil, fmt.Errorf("internal error: index entry: %w", err)
	}
	x.sum = sum
	x.Size += int64(len(line))
	return line, nil
}

// Parse reads a whole file. An empty file is an empty index.
func Parse(data []byte) (*Index, error) {
	x := new(Index)
	if len(data) > maxSize {
		return nil, fmt.Errorf("index: more than %d MiB", maxSize>>20)
	}
	for n := 1; len(data) > 0; n++ {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		if !ended || len(rest) == 0 && bytes.IndexByte(line, 0) >= 0 {
			x.Torn = data
			return x, nil
		}
		if err := x.line(line); err != nil {
			return nil, fmt.Errorf("index: line %d: %w", n, err)
		}
		x.Size += int64(len(line)) + 1
		data = rest
	}
	return x, nil
}

func (x *Index) line(line []byte) error {
	e, err := parseLine(line)
	if err != nil {
		return err
	}
	text, given, _ := cutLast(line)
	sum := next(x.sum, string(text))
	if string(given) != hex.EncodeToString(sum[:]) {
		return errors.New("the sum does not fit: this line or one before it was changed, added or removed (restore the file from a backup)")
	}
	if err := x.take(e); err != nil {
		return err
	}
	x.sum = sum
	return nil
}

func cutLast(line []byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(line, ' ')
	if i < 0 {
		return line, nil, false
	}
	return line[:i], line[i+1:], true
}

func parseLine(line []byte) (e Entry, err error) {
	if len(line) > maxLine {
		return e, fmt.Errorf("more than %d bytes", maxLine)
	}
	f := strings.Split(string(line), " ")
	if len(f) != columns {
		return e, fmt.Errorf("%d columns, want %d", len(f), columns)
	}
	e.Event, e.Serial, e.Kind = Event(f[1]), f[2], f[3]
	if e.Time, err = parseTime(f[0]); err != nil {
		return e, err
	}
	if e.NotAfter, err = parseTime(f[4]); err != nil {
		return e, err
	}
	if f[5] != none {
		e.Reason = f[5]
	}
	if f[6] != none {
		if e.Names, err = san.Parse(strings.Split(f[6], ",")...); err != nil {
			return e, err
		}
	}
	if f[7] != none {
		e.Fingerprint = f[7]
	}
	// One spelling: what is read is written again with the same bytes, so
	// that two readers cannot see different things.
	if got := strings.Join(e.fields(), " "); got != strings.Join(f[:columns-1], " ") {
		return e, errors.New("not spelled as it should be")
	}
	if !isHex(f[8], 2*sha256.Size) {
		return e, errors.New("the sum is malformed")
	}
	return e, e.check()
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return t, errors.New("malformed time")
	}
	return t.UTC(), nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

// check looks at one entry alone.
func (e Entry) check() error {
	if e.Event == CRL {
		n, err := strconv.ParseInt(e.Serial, 10, 64)
		if err != nil || n < 1 || strconv.FormatInt(n, 10) != e.Serial {
			return errors.New("malformed CRL number")
		}
		if e.Kind != KindCRL || e.Reason != "" || e.Names.Len() > 0 || e.Fingerprint != "" {
			return errors.New("a CRL has neither reason, names nor fingerprint")
		}
		return nil
	}
	_, known := Reasons[e.Reason]
	switch {
	case e.Event != Issued && e.Event != Revoked:
		return errors.New("unknown event")
	case !slices.Contains([]string{KindCA, KindServer, KindClient}, e.Kind):
		return errors.New("unknown kind")
	case !isHex(e.Serial, SerialDigits):
		return errors.New("malformed serial number")
	case !isHex(e.Fingerprint, 2*sha256.Size):
		return errors.New("malformed fingerprint")
	case e.Kind == KindCA && (e.Event != Issued || e.Names.Len() > 0):
		return errors.New("malformed entry of the CA")
	case e.Kind != KindCA && e.Names.Len() == 0:
		return errors.New("no names")
	case e.Event == Issued && e.Reason != "":
		return errors.New("a reason without a revocation")
	case e.Event == Revoked && !known:
		return errors.New("unknown reason")
	}
	return nil
}

// take adds an entry that is well by itself, if it fits those before.
func (x *Index) take(e Entry) error {
	if (len(x.Entries) == 0) != (e.Kind == KindCA) {
		return errors.New("the CA's own entry is the first, and the only one of its kind")
	}
	if x.issued == nil {
		x.issued, x.gone = make(map[string]int), make(map[string]int)
	}
	issue, known := x.issued[e.Serial]
	switch e.Event {
	case CRL:
		n, _ := strconv.ParseInt(e.Serial, 10, 64) // checked
		if n <= x.crl {
			return fmt.Errorf("CRL number %d after %d", n, x.crl)
		}
		x.crl = n
	case Issued:
		if known {
			return fmt.Errorf("serial number %s for the second time", e.Serial)
		}
		x.issued[e.Serial] = len(x.Entries)
	case Revoked:
		if !known {
			return fmt.Errorf("serial number %s is revoked but was never issued", e.Serial)
		}
		if _, twice := x.gone[e.Serial]; twice {
			return fmt.Errorf("serial number %s is revoked for the second time", e.Serial)
		}
		i := x.Entries[issue]
		if i.Kind != e.Kind || i.Fingerprint != e.Fingerprint || !i.NotAfter.Equal(e.NotAfter) || i.Names.String() != e.Names.String() {
			return fmt.Errorf("serial number %s is not what was issued", e.Serial)
		}
		x.gone[e.Serial] = len(x.Entries)
	}
	x.Entries = append(x.Entries, e)
	return nil
}

// Issued returns the entry with which a certificate was issued.
func (x *Index) Issued(serial string) (Entry, bool) {
	i, ok := x.issued[serial]
	if !ok {
		return Entry{}, false
	}
	return x.Entries[i], true
}

// Revoked returns the entry with which a certificate was revoked.
func (x *Index) Revoked(serial string) (Entry, bool) {
	i, ok := x.gone[serial]
	if !ok {
		return Entry{}, false
	}
	return x.Entries[i], true
}

// CRLNumber returns the highest number that a CRL was given, 0 if there was
// none yet.
func (x *Index) CRLNumber() int64 { return x.crl }
