// SPDX-License-Identifier: BSD-3-Clause

package rpc

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// DefaultMaxReply is the largest reply in bytes that a Client takes when its
// Config does not say: 4 MiB of data, the most that a Linux server returns
// from one READ, and room around it.
const DefaultMaxReply = 4<<20 + 64<<10

// lastWords is how long the reader has, once a write has failed, to come upon
// what the peer sent before.
const lastWords = 250 * time.Millisecond

// Config says whom a Client calls and how.
type Config struct {
	Program uint32
	Version uint32

	// Cred is the credential of every call; the zero value is AUTH_NONE.
	Cred OpaqueAuth

	// MaxReply bounds a reply in bytes; 0 means DefaultMaxReply. A larger one
	// breaks the connection.
	MaxReply int
}

// A Client calls procedures of one version of one program over one
// connection. Its methods may be called by many goroutines at once; their
// calls share the connection, and replies may come in any order.
//
// A broken connection is not made again: all calls in progress and all later
// ones return what broke it.
type Client struct {
	conn   net.Conn
	cfg    Config
	timing Timing

	// A goroutine of its own writes, so that a call can be given up while the
	// stream is blocked without leaving half a record on it.
	records chan []byte
	wg      sync.WaitGroup // the reader and the writer

	done chan struct{} // closed when the client ends
	end  sync.Once
	err  error // why it ended; set before done is closed
	// closeErr is what closing conn gave; set within end.
	closeErr error

	mu      sync.Mutex
	xid     uint32                 // of the latest call; guarded by mu
	pending map[uint32]chan *Reply // by XID, each of capacity 1; guarded by mu
}

// NewClient returns a Client on conn, which is the client's from here on,
// Close included. A probe and a handshake, if wanted, come before it; Dialer
// does all three.
func NewClient(conn net.Conn, cfg Config) *Client {
	if cfg.MaxReply == 0 {
		cfg.MaxReply = DefaultMaxReply
	}
	c := &Client{
		conn:    conn,
		cfg:     cfg,
		records: make(chan []byte),
		done:    make(chan struct{}),
		xid:     rand.Uint32(), // not a number that a server's reply cache may know from an earlier connection
		pending: make(map[uint32]chan *Reply),
	}
	c.wg.Go(c.read)
	c.wg.Go(c.write)
	return c
}

// Conn returns the connection, to be looked at: a *tls.Conn has a
// ConnectionState, for one. Reading from it, writing to it or closing it
// breaks the client.
func (c *Client) Conn() net.Conn { return c.conn }

// Timing returns how long Dialer took; it is zero after NewClient.
func (c *Client) Timing() Timing { return c.timing }

// Null calls the NULL procedure, which every program has (RFC 5531 section
// 12). Errors are those of Call.
func (c *Client) Null(ctx context.Context) error {
	results, err := c.Call(ctx, ProcedureNull, nil)
	if err == nil && len(results) != 0 {
		err = fmt.Errorf("%w: NULL with results", ErrProtocol)
	}
	return err
}

// Call calls a procedure with XDR-encoded args, a multiple of 4 bytes or nil,
// and returns its XDR-encoded results, nil when there are none.
//
// It returns a *ReplyError if the server did not execute the call, ctx.Err()
// if ctx ended first, and net.ErrClosed after Close, each wrapped. A call
// that ctx ended may or may not have been executed, and does no harm to
// others. Any other error broke the client.
func (c *Client) Call(ctx context.Context, procedure uint32, args []byte) ([]byte, error) {
	reply, err := c.roundTrip(ctx, procedure, args)
	if err == nil {
		err = reply.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("procedure %d: %w", procedure, err)
	}
	return reply.Results, nil
}

func (c *Client) roundTrip(ctx context.Context, procedure uint32, args []byte) (*Reply, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	xid, answer := c.register()
	defer c.forget(xid)

	call := Call{
		XID: xid, Program: c.cfg.Program, Version: c.cfg.Version, Procedure: procedure,
		Cred: c.cfg.Cred, Args: args,
	}
	record, err := call.Append(make([]byte, headerSize, headerSize+64+len(c.cfg.Cred.Body)+len(args)))
	if err != nil {
		return nil, err
	}
	if err := sealRecord(record); err != nil {
		return nil, err
	}
	select {
	case c.records <- record:
	case <-c.done:
		return nil, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case reply := <-answer:
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
		// A server may answer and hang up: the answer, which the reader
		// delivered before it met the end, counts.
		select {
		case reply := <-answer:
			return reply, nil
		default:
			return nil, c.err
		}
	}
}

// register picks an XID that no call in progress has.
func (c *Client) register() (uint32, <-chan *Reply) {
	answer := make(chan *Reply, 1)
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.xid++; c.pending[c.xid] != nil; c.xid++ {
	}
	c.pending[c.xid] = answer
	return c.xid, answer
}

func (c *Client) forget(xid uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, xid)
}

// read delivers replies until the connection ends.
func (c *Client) read() {
	// A buffer is safe here, unlike in Probe: nobody else will ever read
	// from conn.
	r := bufio.NewReader(c.conn)
	for {
		record, err := ReadRecord(r, c.cfg.MaxReply)
		if err != nil {
			c.stop(fmt.Errorf("read reply: %w", err))
			return
		}
		reply, err := ParseReply(record)
		if err != nil {
			c.stop(err)
			return
		}
		c.mu.Lock()
		answer := c.pending[reply.XID]
		delete(c.pending, reply.XID)
		c.mu.Unlock()
		// Replies that nobody waits for are those to calls that were given
		// up. The send never blocks: there is one per entry of pending.
		if answer != nil {
			answer <- reply
		}
	}
}

// write sends calls until the connection ends.
func (c *Client) write() {
	for {
		select {
		case record := <-c.records:
			if _, err := c.conn.Write(record); err != nil {
				// A peer that hangs up may have said why: a reply, or the
				// alert of a TLS server that refuses a certificate. What the
				// reader meets is the better reason, if it comes.
				select {
				case <-c.done:
				case <-time.After(lastWords):
				}
				c.stop(fmt.Errorf("write call: %w", err))
				return
			}
		case <-c.done:
			return
		}
	}
}

// stop ends the client because of err; only the first counts. Calls in
// progress are released before conn is closed, which can take time with TLS.
func (c *Client) stop(err error) {
	c.end.Do(func() {
		c.err = err
		close(c.done)
		c.closeErr = c.conn.Close()
	})
}

// Close closes the connection, ends all calls in progress with net.ErrClosed,
// and returns when the client's goroutines have ended. Further calls of Close
// do nothing and return the same.
func (c *Client) Close() error {
	c.stop(net.ErrClosed)
	c.wg.Wait()
	return c.closeErr
}
