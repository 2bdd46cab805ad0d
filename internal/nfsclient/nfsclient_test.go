// SPDX-License-Identifier: BSD-3-Clause

package nfsclient

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"rpctls/rpc"
)

// A server answers COMPOUND from a script, and writes down what it was asked.
type server struct {
	minors []uint32
	asked  [][]byte
	answer func(minor uint32, n int) []byte
}

func (s *server) Call(_ context.Context, procedure uint32, args []byte) ([]byte, error) {
	if procedure != procCompound {
		return nil, fmt.Errorf("procedure %d", procedure)
	}
	minor := binary.BigEndian.Uint32(args[4:])
	s.minors = append(s.minors, minor)
	s.asked = append(s.asked, args)
	return s.answer(minor, len(s.asked)), nil
}

// words makes XDR of numbers and strings.
func words(items ...any) []byte {
	e := rpc.NewEncoder(nil)
	for _, it := range items {
		switch v := it.(type) {
		case int:
			e.Uint32(uint32(v))
		case uint64:
			e.Uint64(v)
		case string:
			e.String(v, 1<<16)
		case []byte:
			e.FixedOpaque(v)
		}
	}
	b, err := e.Bytes()
	if err != nil {
		panic(err)
	}
	return b
}

var verf = make([]byte, 8)

// dir is an answer to PUTROOTFH, LOOKUP, READDIR with two entries.
func dir(prefix ...any) []byte {
	return words(append(prefix, opPutRootFH, 0, opLookup, 0, opReadDir, 0, verf, 1, uint64(1), "a", 0, "", 1, uint64(2), "b", 1, 7, "attr", 0, 1)...)
}

func TestListWithoutState(t *testing.T) {
	s := &server{answer: func(uint32, int) []byte { return dir(0, "", 3) }}
	l, err := List(t.Context(), s, "/x/")
	if err != nil || l.Minor != 0 || l.More || !slices.Equal(l.Entries, []string{"a", "b"}) {
		t.Errorf("%+v, %v", l, err)
	}
	if len(s.asked) != 1 {
		t.Errorf("%d calls, want 1", len(s.asked))
	}
}

// session41 are the answers around one of a session.
func session41(n int, inside []byte) []byte {
	id := make([]byte, sessionID)
	switch n {
	case 1:
		return words(int(ErrMinorVersion), "", 0)
	case 2:
		return words(0, "", 1, opExchangeID, 0, uint64(77), 5, 0, 0, uint64(1), "major", "scope", 1, "kernel.org", "Linux", uint64(0), 0)
	case 3:
		return words(0, "", 1, opCreateSession, 0, id, 5, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 9)
	case 4:
		return inside
	case 5:
		return words(0, "", 1, opDestroySession, 0)
	}
	return words(0, "", 1, opDestroyClientID, 0)
}

func TestListInSession(t *testing.T) {
	seq := []any{0, "", 4, opSequence, 0, make([]byte, sessionID), 1, 0, 0, 0, 0}
	s := &server{answer: func(_ uint32, n int) []byte { return session41(n, dir(seq...)) }}
	l, err := List(t.Context(), s, "/x")
	if err != nil || l.Minor != 1 || len(l.Entries) != 2 {
		t.Errorf("%+v, %v", l, err)
	}
	if !slices.Equal(s.minors, []uint32{0, 1, 1, 1, 1, 1}) {
		t.Errorf("minor versions %v", s.minors)
	}
	// It is taken down after a refusal, too.
	refused := append(seq[:0:0], seq...)
	refused[0], refused[2] = int(ErrWrongSec), 3
	s = &server{answer: func(_ uint32, n int) []byte {
		return session41(n, words(append(refused, opPutRootFH, 0, opLookup, int(ErrWrongSec))...))
	}}
	_, err = List(t.Context(), s, "/x/y")
	se, ok := errors.AsType[*StatusError](err)
	if !ok || *se != (StatusError{"LOOKUP", "/x", ErrWrongSec}) || err.Error() != "LOOKUP /x: NFS4ERR_WRONGSEC" || len(s.asked) != 6 {
		t.Errorf("%v after %d calls", err, len(s.asked))
	}
}

func TestDelay(t *testing.T) {
	s := &server{answer: func(_ uint32, n int) []byte {
		if n < 3 {
			return words(int(ErrDelay), "", 2, opPutRootFH, 0, opLookup, int(ErrDelay))
		}
		return dir(0, "", 3)
	}}
	if l, err := List(t.Context(), s, "/x"); err != nil || len(l.Entries) != 2 || len(s.asked) != 3 {
		t.Errorf("%+v, %v", l, err)
	}
	always := &server{answer: func(uint32, int) []byte { return words(int(ErrDelay), "", 1, opPutRootFH, int(ErrDelay)) }}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := List(ctx, always, "/x"); err == nil {
		t.Error("it came to an end")
	}
}

func TestStrict(t *testing.T) {
	for name, b := range map[string][]byte{
		"nothing":                words(),
		"more results":           words(0, "", 4),
		"another operation":      words(0, "", 1, opReadDir, 0),
		"on after a failure":     words(2, "", 2, opPutRootFH, 2, opLookup, 0),
		"other status":           words(2, "", 1, opPutRootFH, 13),
		"success of a part":      words(0, "", 1, opPutRootFH, 0),
		"failure without result": words(2, "", 1, opPutRootFH, 0),
		"bytes behind":           append(dir(0, "", 3), 0, 0, 0, 0),
		"long bitmap":            words(0, "", 3, opPutRootFH, 0, opLookup, 0, opReadDir, 0, verf, 1, uint64(1), "a", 9),
		"no boolean":             words(0, "", 3, opPutRootFH, 0, opLookup, 0, opReadDir, 0, verf, 2),
	} {
		t.Run(name, func(t *testing.T) {
			var l Listing
			if err := decode(b, walk([]string{"x"}, &l)); !errors.Is(err, rpc.ErrProtocol) {
				t.Errorf("%v", err)
			}
		})
	}
	for _, bad := range []string{"", "x", "../x", "/" + string(make([]byte, 300))} {
		if _, err := List(t.Context(), &server{}, bad); err == nil {
			t.Errorf("%q is a path", bad)
		}
	}
}

// Whatever a server answers, there are an error or at most so many entries.
func FuzzDecode(f *testing.F) {
	f.Add(dir(0, "", 3))
	f.Add(words(int(ErrWrongSec), "", 2, opPutRootFH, 0, opLookup, int(ErrWrongSec)))
	f.Add(words(0, "", 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l Listing
		if err := decode(b, walk([]string{"x"}, &l)); err == nil && len(l.Entries) > maxEntries {
			t.Errorf("%d entries", len(l.Entries))
		}
	})
}

// FuzzSession is about the answers that make a session.
func FuzzSession(f *testing.F) {
	f.Add(session41(2, nil), session41(3, nil))
	f.Fuzz(func(t *testing.T, exchange, create []byte) {
		s := &server{answer: func(_ uint32, n int) []byte {
			switch n {
			case 1:
				return exchange
			case 2:
				return create
			}
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // no second try
		_ = inSession(ctx, s, func(func([]op) error) error { return nil })
	})
}
