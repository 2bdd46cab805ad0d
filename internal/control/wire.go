// SPDX-License-Identifier: BSD-3-Clause

package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// Bounds of one line, without its end, in bytes.
const (
	MaxRequest = 4 << 10
	MaxAnswer  = 1 << 20
)

// Path is where a daemon listens, inside its runtime directory.
func Path(directory, daemon string) string { return filepath.Join(directory, daemon+".control") }

// request is a line that asks.
type request struct {
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// answer is a line that answers: a result or an error.
type answer struct {
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
	Hint   string          `json:"hint,omitempty"`
}

// An Error is what a daemon answers instead of a result.
type Error struct {
	Text string // one line, lower case
	Hint string // what to do; may be empty
}

func (e *Error) Error() string { return e.Text }

// errSyntax: a request that is none.
var errSyntax = errors.New("not a request")

// parseRequest decodes a line.
func parseRequest(line []byte) (request, error) {
	var r request
	if err := strict(line, &r); err != nil {
		return request{}, fmt.Errorf("%w: %w", errSyntax, err)
	}
	if r.Op == "" {
		return request{}, fmt.Errorf("%w: no op", errSyntax)
	}
	return r, nil
}

// strict decodes one JSON object, with nothing behind it and no field that is
// not known. A missing object is an empty one.
func strict(b []byte, into any) error {
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return nil
	}
	if b[0] != '{' {
		return errors.New("not an object")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something follows the object")
	}
	return nil
}

// A Wiper is a result with secrets in it: it is wiped when it has been encoded.
type Wiper interface{ Wipe() }

// encodeAnswer makes a line of a result or an error. It is never longer than
// MaxAnswer.
func encodeAnswer(result any, err error) []byte {
	var a answer
	if err == nil {
		a.Result, err = json.Marshal(result)
		if w, ok := result.(Wiper); ok {
			w.Wipe()
			defer clear(a.Result)
		}
	}
	if err == nil && len(a.Result) > MaxAnswer-64 {
		err = &Error{Text: "the answer is too long", Hint: "ask for less"}
	}
	if err != nil {
		a = answer{Error: err.Error()}
		if e, ok := errors.AsType[*Error](err); ok {
			a.Hint = e.Hint
		}
		if len(a.Error)+len(a.Hint) > MaxRequest {
			a = answer{Error: "the error is too long to be told"}
		}
	}
	b, err := json.Marshal(a)
	if err != nil {
		panic("control: " + err.Error()) // strings, and JSON that was made above
	}
	line := make([]byte, len(b)+1)
	copy(line, b)
	clear(b)
	line[len(b)] = '\n'
	return line
}
