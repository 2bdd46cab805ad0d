// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package sessions

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
	"unique"

	"golang.org/x/sys/unix"

	"rpctls/internal/sockdiag"
)

// Bounds of the file, in bytes.
const (
	maxFile = 64 << 20
	maxLine = 128 << 10 // a chain of 64 KiB in base64, and the rest
)

// magic is the first line.
const magic = `{"rpctls":"sessions","version":1}`

// Path is the file of a daemon in its runtime directory.
func Path(directory, daemon string) string { return filepath.Join(directory, daemon+".sessions") }

// line is a line of the file: one session.
type line struct {
	sockdiag.ID
	Role     string    `json:"role"`
	PeerName string    `json:"peer_name,omitempty"`
	Mutual   bool      `json:"mutual,omitempty"`
	Cipher   uint16    `json:"cipher"`
	Began    time.Time `json:"began"`
	Chain    []string  `json:"chain,omitempty"` // DER in base64
	// Namespace is left out for the daemon's own: a daemon that serves no other
	// writes what those before it could read.
	Namespace uint64 `json:"namespace,omitempty"`
}

// encode makes a line, with its end.
func (s *Session) encode() ([]byte, error) {
	l := line{ID: s.ID, Role: s.Role, PeerName: s.PeerName, Mutual: s.Mutual, Cipher: s.Cipher, Began: s.Began, Namespace: s.Namespace}
	for _, der := range s.chain {
		l.Chain = append(l.Chain, base64.StdEncoding.EncodeToString([]byte(der.Value())))
	}
	b, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	return append(b, '\n'), nil
}

// decode reads a line. The certificates are not parsed: whoever needs them does,
// and judges them.
func decode(b []byte) (*Session, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var l line
	if err := d.Decode(&l); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the session")
	}
	s := &Session{ID: l.ID, Role: l.Role, PeerName: l.PeerName, Mutual: l.Mutual, Cipher: l.Cipher, Began: l.Began, Namespace: l.Namespace}
	if err := s.check(); err != nil {
		return nil, err
	}
	total := 0
	for _, text := range l.Chain {
		der, err := base64.StdEncoding.Strict().DecodeString(text)
		if err != nil {
			return nil, fmt.Errorf("chain: %w", err)
		}
		if total += len(der); len(der) == 0 || total > maxDER || len(s.chain) == maxChain {
			return nil, errors.New("chain: empty, or too large")
		}
		s.chain = append(s.chain, unique.Make(string(der)))
	}
	return s, nil
}

// parseFile reads sessions. What comes before a fault is returned with the error.
// A last line without an end is none: the writer was killed.
func parseFile(r io.Reader) (list []*Session, err error) {
	in := bufio.NewReaderSize(r, maxLine)
	for n := 1; ; n++ {
		b, err := in.ReadSlice('\n')
		switch {
		case err == io.EOF:
			return list, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return list, fmt.Errorf("line %d is over %d bytes", n, maxLine)
		case err != nil:
			return list, err
		}
		if n == 1 {
			if string(bytes.TrimSuffix(b, []byte("\n"))) != magic {
				return nil, errors.New("it has another form: left by another version")
			}
			continue
		}
		if len(list) == maxSessions {
			return list, fmt.Errorf("more than %d sessions", maxSessions)
		}
		s, err := decode(b)
		if err != nil {
			return list, fmt.Errorf("line %d: %w", n, err)
		}
		list = append(list, s)
	}
}

// ReadFile reads what a daemon has remembered, whether it runs or not: sessions
// whose connections may have ended since. A file that does not exist is empty. What
// could be read is returned with an error, too.
func ReadFile(path string) (list []*Session, err error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err == unix.ENOENT {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("%s is open to others (mode %04o)", path, info.Mode().Perm())
	}
	if list, err = parseFile(io.LimitReader(f, maxFile)); err != nil {
		return list, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// A writer appends to the file, or writes it anew.
type writer struct {
	path string
	f    *os.File // nil until it has been written anew
	size int64
}

// rewrite replaces the file by one with these sessions, whole or not at all. It is
// not synced: a host that restarts has no sessions.
func (w *writer) rewrite(list []*Session) error {
	tmp := w.path + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(f)
	size := int64(len(magic) + 1)
	fmt.Fprintln(out, magic)
	for _, s := range list {
		b, err := s.encode()
		if err != nil {
			f.Close()
			return err
		}
		out.Write(b) // an error stays until Flush
		size += int64(len(b))
	}
	if err = out.Flush(); err == nil {
		err = os.Rename(tmp, w.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	w.close()
	w.f, w.size = f, size
	return nil
}

// errFull: there is no place for more in the file; some of it may be of sessions
// that have ended.
var errFull = errors.New("the file is full")

// append adds sessions in one write.
func (w *writer) append(list []*Session) error {
	var all []byte
	for _, s := range list {
		b, err := s.encode()
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	if w.f == nil || w.size+int64(len(all)) > maxFile {
		return errFull
	}
	n, err := w.f.Write(all)
	w.size += int64(n)
	if err != nil {
		w.close() // its last line may have no end: nothing may follow that
		return err
	}
	return nil
}

func (w *writer) close() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
	}
}
