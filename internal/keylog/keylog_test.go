// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package keylog

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/internal/control"
	"rpctls/internal/control/controltest"
	"rpctls/internal/logging"
)

const bound = 10 * time.Second

var line = []byte("CLIENT_TRAFFIC_SECRET_0 " + strings.Repeat("0a", 32) + " " + strings.Repeat("5e", 32) + "\n")

func newTap(log *strings.Builder) *Tap {
	return New(slog.New(logging.NewText(log, "d", slog.LevelInfo)), nil)
}

// It ends by itself when its time is over and not before, what came in time can be
// fetched once more, and then nothing is left of it.
func TestEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		tap := newTap(&log)
		if tap.Sink() != nil || tap.State() != nil {
			t.Fatal("on from the beginning")
		}
		p, err := tap.begin(42, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if s := tap.State(); s == nil || s.PID != 42 || s.Until.Sub(s.Since) != time.Minute {
			t.Errorf("state %+v", s)
		}
		time.Sleep(time.Minute - 1)
		sink := tap.Sink()
		if sink == nil {
			t.Fatal("off too early")
		}
		sink(line)
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if tap.Sink() != nil || tap.State() != nil {
			t.Error("still on")
		}
		sink(line) // a handshake that began before
		if l := p.take(); !bytes.Equal(l.Text, line) || l.Ended != timeOver {
			t.Errorf("last call: %q, %q", l.Text, l.Ended)
		}
		copy(p.buf[:4], "left")
		time.Sleep(lastCall)
		synctest.Wait()
		if bytes.ContainsFunc(p.buf[:cap(p.buf)], func(r rune) bool { return r != 0 }) || tap.latest != nil {
			t.Error("something is left")
		}
		for _, want := range []string{"KEY LOG ON", "pid=42", `key log off`, "because=\"its time was over\" lines=1 dropped=0"} {
			if strings.Count(log.String(), want) == 0 {
				t.Errorf("the log has no %q:\n%s", want, log.String())
			}
		}
		if strings.Contains(log.String(), "5e5e") {
			t.Error("a secret is in the log")
		}
	})
}

// There is one at a time; after it, another, to which what is left of the first does
// not belong.
func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		tap := newTap(&log)
		one, err := tap.begin(1, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		old := tap.Sink()
		if _, err := tap.begin(2, time.Second); !errors.Is(err, errBusy) {
			t.Errorf("a second: %v", err)
		}
		old(line)
		if !tap.end(one, stopped) || tap.end(one, stopped) {
			t.Error("it does not end once")
		}
		two, err := tap.begin(2, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsFunc(one.buf[:cap(one.buf)], func(r rune) bool { return r != 0 }) {
			t.Error("the first one's buffer is not wiped")
		}
		old(line)
		if l := two.take(); len(l.Text) != 0 || two.ID == one.ID {
			t.Errorf("the second has %q", l.Text)
		}
		tap.end(one, hungUp) // its connection ends late
		if s := tap.State(); s == nil || s.PID != 2 {
			t.Error("the end of the first ended the second")
		}
		for _, d := range []time.Duration{-1, 0, MinFor - 1, MaxFor + 1} {
			if _, err := tap.begin(3, d); err == nil || !strings.Contains(err.Error(), "lasts 1s to 1h") {
				t.Errorf("%v: %v", d, err)
			}
		}
		time.Sleep(time.Second + lastCall)
		synctest.Wait()
	})
}

// When its connection ends nobody is left to fetch anything.
func TestHungUp(t *testing.T) {
	var log strings.Builder
	settled := make(chan struct{}, 1)
	tap := New(slog.New(logging.NewText(&log, "d", slog.LevelInfo)), func() { settled <- struct{}{} })
	p, err := tap.begin(1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	tap.Sink()(line)
	tap.end(p, hungUp)
	if tap.Sink() != nil || tap.latest != nil || bytes.ContainsFunc(p.buf[:cap(p.buf)], func(r rune) bool { return r != 0 }) {
		t.Error("something is left")
	}
	<-settled
}

// What does not fit is counted, and lines stay whole.
func TestBufferIsBounded(t *testing.T) {
	var log strings.Builder
	tap := newTap(&log)
	p, err := tap.begin(1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.end(p, hungUp)
	fit := bufferSize / len(line)
	for range fit + 3 {
		tap.Sink()(line)
	}
	l := p.take()
	if n, h, err := Check(l.Text); n != fit || h != 0 || l.Dropped != 3 || err != nil || cap(p.buf) != bufferSize {
		t.Errorf("%d lines of %d, %d dropped, %v, capacity %d", n, fit, l.Dropped, err, cap(p.buf))
	}
	l.Wipe()
	if bytes.ContainsFunc(append(l.Text, p.buf[:cap(p.buf)]...), func(r rune) bool { return r != 0 }) {
		t.Error("what was fetched is not wiped")
	}
	tap.Sink()(line)
	if l := p.take(); !bytes.Equal(l.Text, line) || l.Dropped != 0 {
		t.Errorf("afterwards: %q, %d dropped", l.Text, l.Dropped)
	}
}

// Nobody but root is told anything, also not the daemon's own user, whom the control
// socket answers.
func TestRootOnly(t *testing.T) {
	var log strings.Builder
	tap := newTap(&log)
	p, err := tap.begin(1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.end(p, hungUp)
	handlers := tap.Handlers()
	if len(handlers) != 3 {
		t.Errorf("%d requests", len(handlers))
	}
	for op, h := range handlers {
		for _, uid := range []uint32{1, 65534, uint32(os.Geteuid()) + 1000} {
			got, err := h(context.Background(), &control.Call{Peer: unix.Ucred{Uid: uid}})
			if err == nil || !strings.Contains(err.Error(), "only root") || got != nil {
				t.Errorf("%s by uid %d: %v, %v", op, uid, got, err)
			}
		}
	}
	if tap.State() == nil {
		t.Error("somebody has stopped it")
	}
}

// Over the control socket: it lives as long as the connection, and another one of
// root's can stop it.
func TestControl(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may ask")
	}
	var log strings.Builder
	var settled atomic.Int32
	tap := New(slog.New(logging.NewText(&log, "d", slog.LevelInfo)), func() { settled.Add(1) })
	dir := t.TempDir()
	s, err := control.Listen(dir, "d", 8, tap.Handlers(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	controltest.Serve(t, s)
	dial := func() *control.Client {
		c, err := control.Dial(t.Context(), dir, "d")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	one, two := dial(), dial()
	var st State
	if err := one.Call(OpBegin, BeginArgs{For: time.Hour}, &st); err != nil || int(st.PID) != os.Getpid() {
		t.Fatalf("%+v, %v", st, err)
	}
	if err := two.Call(OpBegin, BeginArgs{For: time.Hour}, new(State)); err == nil || err.Error() != errBusy.Text {
		t.Errorf("a second: %v", err)
	}
	tap.Sink()(line)
	var l Lines
	if err := one.Call(OpTake, TakeArgs{st.ID + 1}, &l); err == nil {
		t.Error("one that is not there has lines")
	}
	if err := one.Call(OpTake, TakeArgs{st.ID}, &l); err != nil || !bytes.Equal(l.Text, line) {
		t.Errorf("%q, %v", l.Text, err)
	}
	var x Stopped
	if err := two.Call(OpStop, nil, &x); err != nil || !x.Stopped {
		t.Errorf("%v, %v", x, err)
	}
	if err := two.Call(OpStop, nil, &x); err != nil || x.Stopped {
		t.Errorf("again: %v, %v", x, err)
	}
	if err := one.Call(OpTake, TakeArgs{st.ID}, &l); err != nil || l.Ended != stopped {
		t.Errorf("%q, %v", l.Ended, err)
	}
	if err := two.Call(OpBegin, BeginArgs{For: time.Hour}, &st); err != nil {
		t.Fatal(err)
	}
	two.Close() // as if it had been killed
	for deadline := time.Now().Add(bound); tap.State() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it outlives its connection")
		}
	}
}

func TestNil(t *testing.T) {
	var tap *Tap
	if tap.Sink() != nil || tap.State() != nil {
		t.Error("on")
	}
}

func TestCheck(t *testing.T) {
	good := string(line)
	for text, want := range map[string][2]int{
		"": {}, good: {1, 0}, good + strings.Replace(good, "CLIENT", "SERVER", 1): {2, 1},
		strings.Replace(good, "5e", strings.Repeat("f", 34), 1): {1, 0}, // SHA-384
	} {
		if n, h, err := Check([]byte(text)); err != nil || n != want[0] || h != want[1] {
			t.Errorf("%q: %d, %d, %v", text, n, h, err)
		}
	}
	for _, text := range []string{
		"\n", good[:len(good)-1], good + "\n", "x" + good, strings.ToUpper(good), strings.Replace(good, " ", "  ", 1), strings.Replace(good, "\n", "\r\n", 1),
		strings.Replace(good, "0a", "\x1b[", 1), strings.Replace(good, "5e", "", 1), "EXPORTER_SECRET" + good[len("CLIENT_TRAFFIC_SECRET_0"):],
	} {
		_, _, err := Check([]byte(text))
		if err == nil || strings.Contains(err.Error(), "5e5e") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzCheck: what is found good is lines of printable ASCII.
func FuzzCheck(f *testing.F) {
	f.Add(line)
	f.Add([]byte("CLIENT_TRAFFIC_SECRET_0 \n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, h, err := Check(text)
		if err != nil {
			return
		}
		if n != bytes.Count(text, []byte("\n")) || h > n || bytes.ContainsFunc(text, func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) {
			t.Errorf("%q: %d, %d", text, n, h)
		}
	})
}
