// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

type echoArgs struct {
	Text string `json:"text"`
}

// serve runs a server until the end of the test, and returns its directory.
func serve(t *testing.T, handlers map[string]Handler, report func(error)) string {
	t.Helper()
	dir := t.TempDir()
	s, err := Listen(dir, "testd", MaxConns, handlers, report)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return dir
}

func dial(t *testing.T, dir string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), dir, "testd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func silent(error) {}

var echo = map[string]Handler{"echo": Typed(func(_ context.Context, _ *Call, a echoArgs) (string, error) {
	switch a.Text {
	case "refuse":
		return "", &Error{Text: "refused", Hint: "ask nicely"}
	case "panic":
		panic("on purpose")
	case "long":
		return strings.Repeat("x", MaxAnswer), nil
	}
	return a.Text, nil
})}

func TestCalls(t *testing.T) {
	var reported atomic.Int32
	dir := serve(t, echo, func(error) { reported.Add(1) })
	c := dial(t, dir)
	for _, text := range []string{"one", "two", "\n\"three\"\x00"} {
		var got string
		if err := c.Call("echo", echoArgs{text}, &got); err != nil || got != text {
			t.Errorf("%q: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{"refuse": "refused", "panic": "internal error", "long": "too long"} {
		var got string
		err := c.Call("echo", echoArgs{text}, &got)
		e, ok := errors.AsType[*Error](err)
		if !ok || !strings.Contains(e.Text, want) || text == "refuse" && e.Hint != "ask nicely" {
			t.Errorf("%s: %v", text, err)
		}
	}
	if err := c.Call("nothing", struct{}{}, nil); err == nil || !strings.Contains(err.Error(), `unknown request "nothing"`) {
		t.Error(err)
	}
	if err := c.Call("echo", map[string]int{"more": 1}, nil); err == nil || !strings.Contains(err.Error(), `unknown field "more"`) {
		t.Error(err)
	}
	if n := reported.Load(); n != 1 {
		t.Errorf("%d reports, want that of the panic", n)
	}
	info, err := os.Stat(Path(dir, "testd"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestLinesAreBounded(t *testing.T) {
	dir := serve(t, echo, silent)
	conn, err := net.Dial("unix", Path(dir, "testd"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(bytes.Repeat([]byte("x"), MaxRequest+1)); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(b), "over 4096 bytes") {
		t.Errorf("%q, %v", b, err)
	}
	// One that just fits is answered.
	conn, err = net.Dial("unix", Path(dir, "testd"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frame := `{"op":"echo","args":{"text":""}}`
	text := strings.Repeat("x", MaxRequest-len(frame))
	fmt.Fprintf(conn, "%s%s%s\n", frame[:len(frame)-3], text, frame[len(frame)-3:])
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, text) {
		t.Errorf("%.80q, %v", line, err)
	}
}

// A client that says nothing, or half a line, does not keep its place.
func TestSilenceEnds(t *testing.T) {
	idle, line := idleTimeout, lineTimeout
	idleTimeout, lineTimeout = 50*time.Millisecond, 50*time.Millisecond
	t.Cleanup(func() { idleTimeout, lineTimeout = idle, line })
	dir := serve(t, echo, silent)
	for _, said := range []string{"", `{"op":`} {
		conn, err := net.Dial("unix", Path(dir, "testd"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, said)
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after %q: %v", said, err)
		}
	}
}

// What is held lives as long as the connection, however silent, and ends with
// it; those who hold leave room for those who ask.
func TestHold(t *testing.T) {
	idle := idleTimeout
	idleTimeout = 50 * time.Millisecond
	t.Cleanup(func() { idleTimeout = idle })
	var held atomic.Int32
	released := make(chan struct{}, MaxConns)
	dir := serve(t, map[string]Handler{
		"hold": func(_ context.Context, c *Call) (any, error) {
			var n int32
			err := c.Hold(func() (func(), error) {
				n = held.Add(1)
				return func() { held.Add(-1); released <- struct{}{} }, nil
			})
			return n, err
		},
		"fail": func(_ context.Context, c *Call) (any, error) {
			return nil, c.Hold(func() (func(), error) { return nil, errors.New("failed") })
		},
		"panic": func(_ context.Context, c *Call) (any, error) {
			return nil, c.Hold(func() (func(), error) { panic("on purpose") })
		},
		"count": func(context.Context, *Call) (any, error) { return held.Load(), nil },
	}, silent)
	var n int32
	var holders []*Client
	// What could not be taken takes no place.
	for range maxHeld(MaxConns)/2 + 1 {
		c := dial(t, dir)
		for _, op := range []string{"fail", "panic"} {
			if err := c.Call(op, struct{}{}, &n); err == nil || err.Error() == ErrTooMany.Text {
				t.Fatalf("%s: %v", op, err)
			}
		}
		c.Close()
	}
	for range maxHeld(MaxConns) {
		c := dial(t, dir)
		if err := c.Call("hold", struct{}{}, &n); err != nil {
			t.Fatal(err)
		}
		holders = append(holders, c)
	}
	if err := dial(t, dir).Call("hold", struct{}{}, &n); err == nil || err.Error() != ErrTooMany.Text {
		t.Errorf("one too many: %v", err)
	} else if got := held.Load(); got != int32(maxHeld(MaxConns)) {
		t.Errorf("%d were taken, %d are held", got, maxHeld(MaxConns))
	}
	for range maxReleases - 1 {
		if err := holders[1].Call("hold", struct{}{}, &n); err != nil {
			t.Fatal(err)
		}
	}
	if err := holders[1].Call("hold", struct{}{}, &n); err == nil || err.Error() != ErrTooMany.Text {
		t.Errorf("one connection, again and again: %v", err)
	}
	time.Sleep(3 * idleTimeout) // longer than others may be silent
	if err := dial(t, dir).Call("count", struct{}{}, &n); err != nil || int(n) != maxHeld(MaxConns)+maxReleases-1 {
		t.Errorf("%d, %v", n, err)
	}
	holders[0].Close()
	select {
	case <-released:
	case <-time.After(10 * time.Second):
		t.Fatal("not released")
	}
	if err := dial(t, dir).Call("hold", struct{}{}, &n); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(t.Context(), dir, "testd"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("never: %v", err)
	}
	s, err := Listen(dir, "testd", MaxConns, echo, silent)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	// The next instance comes while a client waits.
	result := make(chan error, 1)
	go func() {
		c, err := Dial(context.Background(), dir, "testd")
		if err == nil {
			c.Close()
		}
		result <- err
	}()
	if s, err = Listen(dir, "testd", MaxConns, echo, silent); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := <-result; err != nil {
		t.Errorf("while it restarts: %v", err)
	}
}

// Any line gets one answer, which is a line, and no request is accepted that is
// not one when it is written again.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"op":"echo","args":{"text":"a"}}`, `{"op":"echo"}`, `{"op":""}`, `{"op":"echo"} {}`, `[]`, `null`, `{"OP":"echo","args":null}`, "{\"op\":\"\\u0000\xff\"}"} {
		f.Add([]byte(s))
	}
	s := &Server{handlers: echo, report: silent}
	f.Fuzz(func(t *testing.T, line []byte) {
		out := s.answer(context.Background(), &Call{conn: &serverConn{server: s}}, line)
		var a answer
		if bytes.Count(out, []byte("\n")) != 1 || json.Unmarshal(out, &a) != nil || (a.Error == "") == (a.Result == nil) {
			t.Errorf("answer %q", out)
		}
		r, err := parseRequest(line)
		if err != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRequest(again); err != nil {
			t.Errorf("%q, written again as %q: %v", line, again, err)
		}
	})
}

// The other socket answers whoever may open it, what it has handlers for and
// nothing else, within connections of its own; nothing can be held.
func TestListenGroup(t *testing.T) {
	dir := serve(t, echo, silent)
	path := dir + "/other"
	held := make(chan error, 1)
	s, err := ListenGroup(path, 2, map[string]Handler{
		"public": Typed(func(_ context.Context, c *Call, _ struct{}) (string, error) {
			held <- c.Hold(func() (func(), error) { return func() {}, nil })
			return "yes", nil
		}),
	}, silent)
	if err != nil {
		t.Fatal(err)
	}
	if !s.everyone {
		t.Error("it looks who asks")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	open := func(limit time.Duration) (*Client, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return DialPath(ctx, path, "testd")
	}
	var got string
	var clients []*Client
	for range 2 {
		c, err := open(bound)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients = append(clients, c)
		if err := c.Call("public", nil, &got); err != nil || got != "yes" {
			t.Fatalf("%q, %v", got, err)
		}
		if err := <-held; err != error(ErrTooMany) {
			t.Errorf("something is held: %v", err)
		}
		if err := c.Call("echo", echoArgs{"x"}, &got); err == nil || !strings.Contains(err.Error(), `unknown request "echo"`) {
			t.Errorf("echo: %v", err)
		}
	}
	// Its places are taken; root's are not.
	third, err := open(100 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if err := third.Call("public", nil, &got); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the third: %v", err)
	}
	if err := dial(t, dir).Call("echo", echoArgs{"still"}, &got); err != nil || got != "still" {
		t.Errorf("the socket for root: %q, %v", got, err)
	}
	clients[0].Close()
}

// What is secret is wiped once it is encoded, and also if it is too long to be.
func TestSecretResults(t *testing.T) {
	for _, n := range []int{5, MaxAnswer} {
		s := secret{bytes.Repeat([]byte("x"), n)}
		line := encodeAnswer(s, nil)
		if bytes.ContainsFunc(s.Text, func(r rune) bool { return r != 0 }) {
			t.Error("it is not wiped")
		}
		if n == 5 && string(line) != `{"result":{"text":"eHh4eHg="}}`+"\n" {
			t.Errorf("answer %q", line)
		}
	}
}

type secret struct {
	Text []byte `json:"text"`
}

func (s secret) Wipe() { clear(s.Text) }

// bound is for what happens at once.
const bound = 10 * time.Second

// With a deadline, a daemon that stopped is not waited for longer than that.
func TestDialDeadline(t *testing.T) {
	path := t.TempDir() + "/gone"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	// It may end while it waits and while it connects: a little after each pause
	// it does either.
	for d := restartPause / 2; d < 3*restartPause; {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		_, err := DialPath(ctx, path, "testd")
		cancel()
		if !errors.Is(err, ErrNotRunning) {
			if late := time.Since(began) - d; late > restartPause/5 && errors.Is(err, os.ErrDeadlineExceeded) {
				continue // this machine stood still, maybe before the first attempt
			}
			t.Errorf("after %v: %v, want %v", d, err, ErrNotRunning)
		}
		d += restartPause / 20
	}
	// Whoever does not want to know any more is not told that it does not run.
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(restartPause/2, cancel)
	if _, err := DialPath(ctx, path, "testd"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want %v", err, context.Canceled)
	}
}
