// SPDX-License-Identifier: BSD-3-Clause

package keylog

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// The requests on the control socket. All are for root alone.
const (
	OpBegin = "keylog.begin" // [BeginArgs], answered by a [State]
	OpTake  = "keylog.take"  // [TakeArgs], answered by [Lines]
	OpStop  = "keylog.stop"  // no arguments, answered by [Stopped]
)

// How long a key log may last.
const (
	MinFor = time.Second
	MaxFor = time.Hour
)

// BeginArgs ask for the secrets of all handshakes that begin from now on, until
// the time is over or the connection ends.
type BeginArgs struct {
	For time.Duration `json:"for_ns"` // MinFor to MaxFor
}

// A State describes a key log that is on. It is part of the answer to "status".
type State struct {
	ID    uint64    `json:"id"`  // counts the key logs of a daemon
	PID   int32     `json:"pid"` // of the process that gets the secrets
	Since time.Time `json:"since"`
	Until time.Time `json:"until"` // the latest
}

// TakeArgs ask for what has come since the last time.
type TakeArgs struct {
	ID uint64 `json:"id"`
}

// Lines are whole lines of a key log.
type Lines struct {
	Text    []byte `json:"text"`            // each ends in "\n"
	Dropped uint64 `json:"dropped"`         // lines that had no room, since the last time
	Ended   string `json:"ended,omitempty"` // why nothing will follow; empty: it is on
}

// Wipe clears the text. The control socket calls it when it has encoded it.
func (l Lines) Wipe() { clear(l.Text) }

// Stopped says whether there was anything to stop.
type Stopped struct {
	Stopped bool `json:"stopped"`
}

// errLine does not quote what may be a secret.
var errLine = errors.New("not a line of a key log of TLS 1.3")

// Sizes of a line's fields, in hexadecimal digits: a client random, and a secret of
// SHA-256 or SHA-384.
const (
	randomDigits = 64
	secretShort  = 64
	secretLong   = 96
)

// handshakeEnd is the label of the last line of a handshake that succeeds.
const handshakeEnd = "SERVER_TRAFFIC_SECRET_0"

// Check returns how many lines text has, and of how many handshakes the last is
// there. An error says that it is not a key log, or not whole lines.
func Check(text []byte) (lines, handshakes int, err error) {
	for len(text) > 0 {
		line, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return 0, 0, fmt.Errorf("line %d: %w: it has no end", lines+1, errLine)
		}
		label, err := checkLine(line)
		if err != nil {
			return 0, 0, fmt.Errorf("line %d: %w", lines+1, err)
		}
		lines++
		if label == handshakeEnd {
			handshakes++
		}
		text = rest
	}
	return lines, handshakes, nil
}

// checkLine returns a line's label.
func checkLine(line []byte) (string, error) {
	label, rest, _ := bytes.Cut(line, []byte(" "))
	random, secret, _ := bytes.Cut(rest, []byte(" "))
	if len(random) != randomDigits || len(secret) != secretShort && len(secret) != secretLong || !digits(random) || !digits(secret) {
		return "", errLine
	}
	switch l := string(label); l {
	case "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0", handshakeEnd:
		return l, nil
	}
	return "", errLine
}

func digits(b []byte) bool {
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
