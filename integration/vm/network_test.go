// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// A wire is the end of a cable that QEMU would hold.
type wire struct{ net.Conn }

func plugIn(t *testing.T, n *Network) wire {
	t.Helper()
	f, err := n.plug()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return wire{c}
}

func frame(to, from byte, text string) []byte {
	f := append([]byte{2, 0, 0, 0, 0, to, 2, 0, 0, 0, 0, from, 0x08, 0x00}, text...)
	if to == 0 {
		copy(f, bytes.Repeat([]byte{0xff}, 6))
	}
	return f
}

func (w wire) send(t *testing.T, f []byte) {
	t.Helper()
	if _, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(f))), f...)); err != nil {
		t.Fatal(err)
	}
}

func (w wire) receive(t *testing.T) []byte {
	t.Helper()
	f, err := w.next()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (w wire) next() ([]byte, error) {
	if err := w.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	var head [4]byte
	if _, err := io.ReadFull(w, head[:]); err != nil {
		return nil, err
	}
	f := make([]byte, binary.BigEndian.Uint32(head[:]))
	_, err := io.ReadFull(w, f)
	return f, err
}

// TestNetwork: what is for everybody reaches everybody else, what is for one
// that has been heard reaches only that one, and all of it is recorded.
func TestNetwork(t *testing.T) {
	n := NewNetwork()
	var record bytes.Buffer
	if err := n.Record(&record); err != nil {
		t.Fatal(err)
	}
	a, b, c := plugIn(t, n), plugIn(t, n), plugIn(t, n)
	all := frame(0, 1, "who has b?")
	a.send(t, all)
	for _, w := range []wire{b, c} {
		if got := w.receive(t); !bytes.Equal(got, all) {
			t.Fatalf("%q", got)
		}
	}
	answer := frame(1, 2, "b has")
	b.send(t, answer)
	if got := a.receive(t); !bytes.Equal(got, answer) {
		t.Fatalf("%q", got)
	}
	// c has not seen the answer: the next that it sees is another one.
	last := frame(0, 2, "good night")
	b.send(t, last)
	for _, w := range []wire{a, c} {
		if got := w.receive(t); !bytes.Equal(got, last) {
			t.Fatalf("%q", got)
		}
	}
	if err := n.Record(nil); err != nil {
		t.Fatal(err)
	}
	b.send(t, all)
	c.receive(t)
	want := 24 + 3*16 + len(all) + len(answer) + len(last)
	if record.Len() != want || !bytes.Contains(record.Bytes(), answer) {
		t.Errorf("the record has %d bytes, want %d", record.Len(), want)
	}
}

// TestNetworkReplug: a guest that was restarted is found behind its new cable.
func TestNetworkReplug(t *testing.T) {
	n := NewNetwork()
	a, b := plugIn(t, n), plugIn(t, n)
	b.send(t, frame(0, 2, "here"))
	a.receive(t)
	b.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		n.mu.Lock()
		left := len(n.ports)
		n.mu.Unlock()
		if left == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("an unplugged cable is still there")
		}
	}
	again := plugIn(t, n)
	f := frame(2, 1, "found")
	a.send(t, f)
	if got := again.receive(t); !bytes.Equal(got, f) {
		t.Errorf("%q", got)
	}
}

// TestNetworkStalled: a guest that takes nothing does not stop the others.
func TestNetworkStalled(t *testing.T) {
	n := NewNetwork()
	a, _, c := plugIn(t, n), plugIn(t, n), plugIn(t, n)
	received := make(chan error)
	const many = 20 * portQueue
	go func() {
		for {
			f, err := c.next()
			if err != nil || string(f[14:]) == "end" {
				received <- err
				return
			}
		}
	}()
	for range many {
		a.send(t, frame(0, 1, "much"))
	}
	// c may have lost some; what follows, when it has come round, arrives.
	for {
		a.send(t, frame(0, 1, "end"))
		select {
		case err := <-received:
			if err != nil {
				t.Fatal(err)
			}
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

type brokenWriter struct{ error }

func (w brokenWriter) Write([]byte) (int, error) { return 0, w.error }

func TestNetworkRecordFails(t *testing.T) {
	n := NewNetwork()
	if err := n.Record(brokenWriter{os.ErrClosed}); err != nil {
		t.Fatal(err)
	}
	if err := n.Record(nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%v, want that the record is incomplete", err)
	}
}
