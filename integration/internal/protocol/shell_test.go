// SPDX-License-Identifier: BSD-3-Clause

package protocol

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestMessages(t *testing.T) {
	var b bytes.Buffer
	sent := []Reply{{ID: 1, Stdout: []byte("\x00\xff\n")}, {ID: 2, Exit: &Exit{Code: 3}}}
	for _, r := range sent {
		if err := WriteMessage(&b, r); err != nil {
			t.Fatal(err)
		}
	}
	whole := bytes.Clone(b.Bytes())
	for _, want := range sent {
		var got Reply
		if err := ReadMessage(&b, &got); err != nil {
			t.Fatal(err)
		}
		if got.ID != want.ID || !bytes.Equal(got.Stdout, want.Stdout) || (got.Exit == nil) != (want.Exit == nil) {
			t.Errorf("%+v became %+v", want, got)
		}
	}
	var r Reply
	if err := ReadMessage(&b, &r); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if err := ReadMessage(bytes.NewReader(whole[:len(whole)/4]), &r); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a message that is cut: %v", err)
	}
	if err := ReadMessage(bytes.NewReader(bytes.Repeat([]byte{0xff}, 8)), &r); err == nil {
		t.Error("a length of 4 GiB")
	}
}
