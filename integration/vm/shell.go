// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"rpctls/integration/internal/protocol"
)

// A life is what is between a node's boot and its end.
type life struct {
	conn net.Conn
	kill context.CancelFunc // ends QEMU

	ended chan struct{} // closed when QEMU has ended; what follows is set then
	err   error         // why, unless that was wanted
	said  string        // what QEMU said

	mu      sync.Mutex
	wanted  bool             // its end
	last    int              // command's number
	waiting map[int]*Command // nil when nobody answers any more
}

// mayEnd notes that the guest's end is wanted.
func (l *life) mayEnd() {
	l.mu.Lock()
	l.wanted = true
	l.mu.Unlock()
}

// end is called when QEMU has ended.
func (l *life) end(ctx context.Context, err error, said string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conn.Close()
	l.said = said
	switch {
	case ctx.Err() != nil:
		l.err = fmt.Errorf("stopped: %w", context.Cause(ctx))
	case l.wanted:
	case err != nil:
		l.err = fmt.Errorf("qemu: %w", err)
	default:
		l.err = errors.New("it went off, and nobody had told it to")
	}
	close(l.ended)
}

// receive hands out what the guest says until its end.
func (l *life) receive(r io.Reader) {
	for {
		var reply protocol.Reply
		if err := protocol.ReadMessage(r, &reply); err != nil {
			break
		}
		l.mu.Lock()
		c := l.waiting[reply.ID]
		if reply.Exit != nil {
			delete(l.waiting, reply.ID)
		}
		l.mu.Unlock()
		if c == nil {
			continue
		}
		c.mu.Lock()
		c.stdout.Write(reply.Stdout)
		c.stderr.Write(reply.Stderr)
		c.both.Write(reply.Stdout)
		c.both.Write(reply.Stderr)
		c.exit = reply.Exit
		c.mu.Unlock()
		if reply.Exit != nil {
			close(c.done)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.waiting {
		close(c.done)
	}
	l.waiting = nil
}

func (l *life) start(n *Node, script string, stdin []byte, limit time.Duration) (*Command, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		return nil, fmt.Errorf("vm: %s is gone", n.Name)
	}
	l.last++
	c := &Command{life: l, id: l.last, script: script, node: n.Name, limit: limit, done: make(chan struct{})}
	l.waiting[c.id] = c
	err := protocol.WriteMessage(l.conn, protocol.Request{
		ID: c.id, Script: script, Stdin: stdin, TimeoutSeconds: limit.Seconds(),
	})
	if err != nil {
		delete(l.waiting, c.id)
		return nil, fmt.Errorf("vm: %s: %w", n.Name, err)
	}
	return c, nil
}

// A Command runs in a node, in the boot it was started in.
type Command struct {
	life         *life
	id           int
	node, script string
	limit        time.Duration
	done         chan struct{} // closed at its end, or the guest's

	mu                   sync.Mutex
	stdout, stderr, both bytes.Buffer
	exit                 *protocol.Exit
}

// An Outcome is how a command ended.
type Outcome struct {
	Code           int // as in a shell
	Stdout, Stderr string
	Text           string        // both, as they came
	Took           time.Duration // by the guest's clock
}

// answerAllowance is how long a guest may take to say that it ended a command
// that took too long.
const answerAllowance = 15 * time.Second

// Start runs a script in bash, as root would type it after a login. It is
// killed if it takes longer than limit.
func (n *Node) Start(script string, stdin []byte, limit time.Duration) (*Command, error) {
	n.mu.Lock()
	l := n.life
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("vm: %s is off", n.Name)
	}
	return l.start(n, script, stdin, limit)
}

// Run runs a script to its end. That it fails is no error.
func (n *Node) Run(script string, stdin []byte, limit time.Duration) (Outcome, error) {
	c, err := n.Start(script, stdin, limit)
	if err != nil {
		return Outcome{}, err
	}
	return c.Wait()
}

// Wait waits for the command's end.
func (c *Command) Wait() (Outcome, error) {
	late := time.NewTimer(c.limit + answerAllowance)
	defer late.Stop()
	select {
	case <-c.done:
	case <-late.C:
		return c.outcome(), fmt.Errorf("vm: %s: %q did not end within %v, and could not be killed", c.node, c.script, c.limit)
	}
	o := c.outcome()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.exit == nil:
		return o, fmt.Errorf("vm: %s ended while %q ran", c.node, c.script)
	case c.exit.TimedOut:
		return o, fmt.Errorf("vm: %s: %q was killed, it did not end within %v; it said:\n%s", c.node, c.script, c.limit, o.Text)
	case c.exit.Error != "":
		return o, fmt.Errorf("vm: %s: %q: %s", c.node, c.script, c.exit.Error)
	}
	return o, nil
}

// Done is closed at the command's end.
func (c *Command) Done() <-chan struct{} { return c.done }

// Text returns what the command has said until now.
func (c *Command) Text() string { return c.outcome().Text }

func (c *Command) outcome() Outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	o := Outcome{Stdout: c.stdout.String(), Stderr: c.stderr.String(), Text: c.both.String()}
	if c.exit != nil {
		o.Code = c.exit.Code
		o.Took = time.Duration(c.exit.Command * float64(time.Second))
	}
	return o
}

// Kill ends the command and its children with SIGKILL.
func (c *Command) Kill() error {
	c.life.mu.Lock()
	defer c.life.mu.Unlock()
	return protocol.WriteMessage(c.life.conn, protocol.Request{ID: c.id, Kill: true})
}
