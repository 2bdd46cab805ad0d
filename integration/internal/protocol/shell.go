// SPDX-License-Identifier: BSD-3-Clause

package protocol

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// ShellPort is the port of a guest that serves: [Request] comes in, [Reply]
// goes out, many commands at once.
const ShellPort = "rpctls.shell"

// A Request is what the host wants of a guest that serves.
type Request struct {
	ID     int    // of the command, chosen by the host
	Script string // for the shell; empty if the command runs already
	Stdin  []byte // all of the command's input
	Kill   bool   // SIGKILL for the command and its children

	// TimeoutSeconds ends a command that takes longer.
	TimeoutSeconds float64
}

// A Reply is what became of a request so far. The first of all has ID 0 and
// says that the guest is there.
type Reply struct {
	ID     int
	Stdout []byte `json:",omitempty"`
	Stderr []byte `json:",omitempty"`
	Exit   *Exit  `json:",omitempty"` // the last of its command
}

// maxMessage is more than either side sends in one piece, but for Stdin.
const maxMessage = 64 << 20

// WriteMessage writes a message in one call of Write.
func WriteMessage(w io.Writer, message any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(text))), text...))
	return err
}

// ReadMessage reads what WriteMessage wrote. It returns io.EOF only between
// messages.
func ReadMessage(r io.Reader, message any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxMessage {
		return fmt.Errorf("message of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("message cut: %w", io.ErrUnexpectedEOF)
	}
	return json.Unmarshal(text, message)
}
