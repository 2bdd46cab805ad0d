// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"

	"rpctls/ktls"
)

// What goes by sendfile and splice where the kernel has it.
var copyCases = []conformanceCase{
	{name: "from a file", run: testFromFile},
	{name: "from a file, without a copy", run: func(x *trial) {
		x.options = append(x.options, ktls.ZeroCopySendfile())
		testFromFile(x)
	}},
	{name: "from a socket", run: testFromSocket},
	{name: "from memory", run: testFromMemory},
	{name: "to a file", run: testToFile},
	{name: "to a socket", run: testToSocket},
	{name: "to itself", run: testEcho},
	{name: "from a file to a peer that is gone", run: testFileToNobody},
}

const copied = 300*1000 + 7

// file returns a file with that in it, open.
func (x *trial) file(text []byte) *os.File {
	x.Helper()
	name := filepath.Join(x.TempDir(), "file")
	x.must(os.WriteFile(name, text, 0o600))
	f, err := os.Open(name)
	x.must(err)
	x.later(func() { f.Close() })
	return f
}

func testFromFile(x *trial) {
	ours, peer := x.connect()
	text := pattern(copied)
	f := x.file(text)
	copyFrom := func(r io.Reader, want []byte) {
		x.Helper()
		wait := x.do(func() error {
			n, err := ours.ReadFrom(r)
			if err == nil && n != int64(len(want)) {
				return errors.New("it counts wrongly")
			}
			return err
		})
		x.must(expect(peer, want))
		x.must(wait())
	}
	copyFrom(f, text)
	copyFrom(f, nil) // at its end
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != copied {
		x.Errorf("the file is at %d (%v)", at, err)
	}
	for _, part := range [][2]int{{0, 1}, {0, 16384}, {1, 16385}, {5, copied - 5}, {copied - 1, 1}} {
		_, err := f.Seek(int64(part[0]), io.SeekStart)
		x.must(err)
		copyFrom(io.LimitReader(f, int64(part[1])), text[part[0]:][:part[1]])
		if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != int64(part[0]+part[1]) {
			x.Errorf("the file is at %d (%v), want %d", at, err, part[0]+part[1])
		}
	}
	// More than there is: not an error, as with io.Copy.
	_, err := f.Seek(copied-10, io.SeekStart)
	x.must(err)
	copyFrom(io.LimitReader(f, 100), text[copied-10:])
	x.exchange(ours, peer)
}

func testFromSocket(x *trial) {
	ours, peer := x.connect()
	a, b := x.tcp()
	text := pattern(copied)
	send := x.do(func() error { return errors.Join(writeAll(b, text), b.CloseWrite()) })
	wait := x.do(func() error { _, err := io.Copy(ours, a); return err })
	x.must(expect(peer, text))
	x.must(send())
	x.must(wait())
	x.exchange(ours, peer)
}

func testFromMemory(x *trial) {
	ours, peer := x.connect()
	text := pattern(copied)
	wait := x.do(func() error { _, err := ours.ReadFrom(bytes.NewBuffer(text)); return err })
	x.must(expect(peer, text))
	x.must(wait())
	// Its error is the reader's.
	broken := errors.New("broken")
	if n, err := ours.ReadFrom(io.MultiReader(bytes.NewReader(text[:10]), failing{broken})); n != 10 || !errors.Is(err, broken) {
		x.Errorf("%d bytes, error is %v", n, err)
	}
	x.must(expect(peer, text[:10]))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func testToFile(x *trial) {
	ours, peer := x.connect()
	text := pattern(copied)
	send := x.do(func() error { return errors.Join(writeAll(peer, text), peer.CloseWrite()) })
	f, err := os.Create(filepath.Join(x.TempDir(), "file"))
	x.must(err)
	defer f.Close()
	n, err := io.Copy(f, ours)
	x.must(err)
	x.must(send())
	got, err := os.ReadFile(f.Name())
	x.must(err)
	x.must(same(got, text))
	if n != copied {
		x.Errorf("it counts %d bytes", n)
	}
}

func testToSocket(x *trial) {
	ours, peer := x.connect()
	a, b := x.tcp()
	text := pattern(copied)
	send := x.do(func() error { return errors.Join(writeAll(peer, text), peer.CloseWrite()) })
	wait := x.do(func() error {
		_, err := io.Copy(a, ours)
		return errors.Join(err, a.CloseWrite())
	})
	got, err := io.ReadAll(b)
	x.must(err)
	x.must(same(got, text))
	x.must(send())
	x.must(wait())
}

func testEcho(x *trial) {
	ours, peer := x.connect()
	wait := x.do(func() error { _, err := io.Copy(ours, ours); return err })
	text := pattern(copied)
	send := x.do(func() error { return writeAll(peer, text) })
	x.must(expect(peer, text))
	x.must(send())
	x.must(peer.CloseWrite())
	x.must(wait())
}

func testFileToNobody(x *trial) {
	ours, peer := x.connectRaw()
	f := x.file(make([]byte, 16<<20))
	wait := x.do(func() error { _, err := ours.ReadFrom(f); return err })
	_, err := io.ReadFull(peer.Conn, make([]byte, 100000))
	x.must(err)
	x.must(peer.Conn.(*net.TCPConn).SetLinger(0))
	x.must(peer.Close())
	if err := wait(); err == nil {
		x.Error("no error")
	}
}
