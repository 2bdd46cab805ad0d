// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNotRunning: there is no daemon behind the socket.
var ErrNotRunning = errors.New("is not running")

// How long a daemon that is restarting is waited for, and an answer.
const (
	restartPatience = 3 * time.Second
	restartPause    = 50 * time.Millisecond
	answerTimeout   = 10 * time.Second
)

// A Client is a connection to a daemon. It belongs to one goroutine.
type Client struct {
	daemon string
	conn   *net.UnixConn
	r      *bufio.Reader
	peer   unix.Ucred
	end    time.Time // of the context that it was made with; zero: none
}

// Dial connects to a daemon by its name and runtime directory. A socket behind
// which nobody listens is that of a daemon which is being restarted, for a while.
// The error is ErrNotRunning if there is none. A deadline of ctx shortens that
// while, and is one for all answers, too.
func Dial(ctx context.Context, directory, daemon string) (*Client, error) {
	return DialPath(ctx, Path(directory, daemon), daemon)
}

// DialPath is [Dial] for a socket at another place.
func DialPath(ctx context.Context, path, daemon string) (*Client, error) {
	end, _ := ctx.Deadline()
	give := time.Now().Add(restartPatience)
	for refused := false; ; refused = true {
		conn, err := (&net.Dialer{Timeout: answerTimeout}).DialContext(ctx, "unix", path)
		switch {
		case err == nil:
			c := &Client{daemon: daemon, conn: conn.(*net.UnixConn), end: end}
			c.r = bufio.NewReader(io.LimitReader(c.conn, 0))
			if c.peer, err = peerOf(c.conn); err != nil {
				conn.Close()
				return nil, fmt.Errorf("%s: %w", daemon, err)
			}
			return c, nil
		case errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("%s %w", daemon, ErrNotRunning)
		case refused && (errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded)):
			// It was not there, and now there is no time to connect. The
			// dialer may say so before the context does.
			return nil, fmt.Errorf("%s %w", daemon, ErrNotRunning)
		case !errors.Is(err, unix.ECONNREFUSED):
			return nil, fmt.Errorf("%s: %w", daemon, err)
		case time.Now().After(give):
			return nil, fmt.Errorf("%s %w", daemon, ErrNotRunning)
		}
		select {
		case <-time.After(restartPause):
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return nil, fmt.Errorf("%s %w", daemon, ErrNotRunning)
			}
			return nil, fmt.Errorf("%s: %w", daemon, ctx.Err())
		}
	}
}

// Daemon returns as whom the daemon runs.
func (c *Client) Daemon() (uid, gid uint32) { return c.peer.Uid, c.peer.Gid }

// Close hangs up: what the connection held is released.
func (c *Client) Close() error { return c.conn.Close() }

// File returns a descriptor of the connection for a process that shall keep it
// open after this one has ended.
func (c *Client) File() (*os.File, error) { return c.conn.File() }

// Call asks, without arguments if they are nil, and decodes the result. An error that the daemon answers is an
// *[Error]; after any other the connection is of no more use.
func (c *Client) Call(op string, args, result any) error {
	var raw json.RawMessage
	if args != nil {
		var err error
		if raw, err = json.Marshal(args); err != nil {
			return fmt.Errorf("ask %s: %w", c.daemon, err)
		}
	}
	line, err := json.Marshal(request{op, raw})
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.daemon, err)
	}
	if len(line) > MaxRequest {
		return fmt.Errorf("ask %s: the request is over %d bytes", c.daemon, MaxRequest)
	}
	end := time.Now().Add(answerTimeout)
	if !c.end.IsZero() && c.end.Before(end) {
		end = c.end
	}
	if err := c.conn.SetDeadline(end); err != nil {
		return fmt.Errorf("ask %s: %w", c.daemon, err)
	}
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("ask %s: %w", c.daemon, err)
	}
	c.r.Reset(io.LimitReader(c.conn, MaxAnswer+1)) // an answer is all that can be there
	text, err := c.r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ask %s: %w", c.daemon, noEOF(err))
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return fmt.Errorf("%s answers nonsense: %w", c.daemon, err)
	}
	if a.Error != "" {
		return &Error{Text: a.Error, Hint: a.Hint}
	}
	if err := json.Unmarshal(a.Result, result); err != nil {
		return fmt.Errorf("%s answers nonsense: %w", c.daemon, err)
	}
	return nil
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
