// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A Conn is a TLS connection that crypto/tls opens and the kernel carries on,
// where it can. It is used like a [tls.Conn], and its methods may be called by
// several goroutines at once.
//
// Errors of Read and Write are [io.EOF] after the peer's close_notify,
// [io.ErrUnexpectedEOF] when the connection ends without one, *[AlertError] for
// fatal alerts of either side, [ErrRekey], [ErrKeyLimit], and a *[net.OpError]
// for what the socket says, [os.ErrDeadlineExceeded] inside when a deadline has
// passed.
type Conn struct {
	inner       net.Conn
	wire        *wire
	tls         *tls.Conn
	secrets     *secrets // nil when nothing can be handed over
	opts        connOptions
	client      bool
	accepted    bool // by a listener of ours
	reason      error
	renegotiate bool // the configuration allows the peer to ask for it

	handshakeMu  sync.Mutex  // held while the handshake runs
	handshakeErr error       // guarded by handshakeMu
	done         atomic.Bool // the handshake has succeeded; what follows is set

	offload      Offload  // guarded by handshakeMu until done
	kernel       *carried // what the kernel has; nil: nothing
	sessionCache bool     // the client keeps tickets

	handOver func(*net.TCPConn, *plan, connOptions) (kernelSocket, Offload, bool) // tests have another

	leftoverMu sync.Mutex
	leftover   []byte      // guarded by leftoverMu: read before the kernel took over
	left       atomic.Bool // there is some
	closed     atomic.Bool
}

// Client returns the client's side of a TLS session over c. Like [tls.Client],
// it needs a ServerName or InsecureSkipVerify in cfg. The handshake is made by
// the first Read or Write, or by [Conn.Handshake].
//
// cfg is not modified and may be shared. Its KeyLogWriter, ClientSessionCache
// and callbacks are used as by crypto/tls.
func Client(c net.Conn, cfg *tls.Config, opts ...Option) *Conn { return newConn(c, cfg, true, opts) }

// Server returns the server's side of a TLS session over c, as [Client] does.
func Server(c net.Conn, cfg *tls.Config, opts ...Option) *Conn { return newConn(c, cfg, false, opts) }

func newConn(inner net.Conn, cfg *tls.Config, client bool, opts []Option) *Conn {
	c := &Conn{inner: inner, client: client, opts: collect(opts), offload: neither(errNotTried), handOver: handOver}
	if cfg == nil {
		cfg = new(tls.Config)
	}
	c.sessionCache = cfg.ClientSessionCache != nil && !cfg.SessionTicketsDisabled
	c.renegotiate = client && cfg.Renegotiation != tls.RenegotiateNever
	_, tcp := inner.(*net.TCPConn)
	switch {
	case c.opts.noOffload:
		c.reason = errNotWanted
	case !supported:
		c.reason = errUnsupported
	case !tcp:
		// Another type may have read ahead, or change what passes through it:
		// its socket is not the connection.
		c.reason = errNotTCP
	default:
		c.secrets = new(secrets)
		cfg = c.secrets.reveal(cfg, client, inner)
	}
	if c.secrets == nil && !client && looksAtConn(cfg) {
		cfg = cloneConfig(cfg, client)
		unseen(cfg, inner)
	}
	c.wire = newWire(inner, client, c.reason == nil)
	if c.secrets != nil {
		c.secrets.watch(c.wire)
	}
	if client {
		c.tls = tls.Client(c.wire, cfg)
	} else {
		c.tls = tls.Server(c.wire, cfg)
	}
	return c
}

// Handshake makes the handshake and hands the session to the kernel, if that
// has not been done. Most callers need not call it: Read and Write do.
func (c *Conn) Handshake() error { return c.HandshakeContext(context.Background()) }

// HandshakeContext is [Conn.Handshake]; when ctx ends before it does, the
// connection is closed and ctx's error returned. Afterwards ctx has no effect.
//
// A failure is for good. A certificate that was refused is crypto/tls's error,
// a fatal alert of the peer an *[AlertError].
func (c *Conn) HandshakeContext(ctx context.Context) (err error) {
	if c.done.Load() {
		return nil
	}
	if ctx.Done() != nil {
		// crypto/tls does it only while it is asked itself, and not while
		// another goroutine's handshake is waited for.
		stop := context.AfterFunc(ctx, func() { c.inner.Close() })
		defer func() {
			if !stop() {
				err = ctx.Err()
			}
		}()
	}
	c.handshakeMu.Lock()
	defer c.handshakeMu.Unlock()
	if c.done.Load() || c.handshakeErr != nil {
		return c.handshakeErr
	}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		c.handshakeErr = c.explain(err)
		c.secrets.wipe()
		return c.handshakeErr
	}
	c.takeOver()
	c.left.Store(len(c.leftover) > 0)
	c.wire.watch = false
	if c.opts.requireOffload && !(c.offload.TX.Kernel && c.offload.RX.Kernel) {
		c.handshakeErr = fmt.Errorf("%w: %w", ErrOffload, cmp.Or(c.offload.TX.Reason, c.offload.RX.Reason))
		c.shut(c.kernel)
		return c.handshakeErr
	}
	c.done.Store(true)
	if c.closed.Load() {
		// By a Close that had nothing to end yet.
		_ = c.shut(c.kernel)
		return net.ErrClosed
	}
	return nil
}

// takeOver hands to the kernel what it takes, and says what that was.
func (c *Conn) takeOver() {
	defer c.secrets.wipe()
	if c.reason != nil {
		c.offload = neither(c.reason)
		return
	}
	plan, err := c.plan()
	if err != nil {
		c.offload = neither(err)
		return
	}
	c.kernel, c.offload = plan.install(c)
}

// Read reads data of the peer. After a deadline has passed it may be called
// again; other errors stay.
func (c *Conn) Read(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, c.errClosed("read") // whatever crypto/tls still has
	}
	if len(p) == 0 {
		return 0, nil
	}
	if c.left.Load() {
		if n := c.takeLeftover(p); n > 0 {
			return n, nil
		}
	}
	if c.offload.RX.Kernel {
		return c.kernel.read(p)
	}
	n, err := c.tls.Read(p)
	return n, c.explain(err)
}

// takeLeftover copies what was decrypted before the kernel took over.
func (c *Conn) takeLeftover(p []byte) int {
	c.leftoverMu.Lock()
	defer c.leftoverMu.Unlock()
	n := copy(p, c.leftover)
	c.leftover = c.leftover[n:]
	c.left.Store(len(c.leftover) > 0)
	return n
}

// Write writes data. Like crypto/tls, it goes on with nothing after an error: a
// write that timed out leaves the connection to be closed.
func (c *Conn) Write(p []byte) (int, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, c.errClosed("write")
	}
	if c.offload.TX.Kernel {
		return c.kernel.write(p)
	}
	n, err := c.tls.Write(p)
	return n, c.explain(err)
}

// ReadFrom implements [io.ReaderFrom]. From an *os.File or a connection of this
// machine (or an *[io.LimitedReader] of one) the kernel takes the data itself,
// with sendfile(2) or splice(2), where it carries what is sent. It reads until
// r ends.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if err := c.Handshake(); err != nil {
		return 0, err
	}
	if c.closed.Load() {
		return 0, c.errClosed("write")
	}
	if c.offload.TX.Kernel {
		return c.kernel.readFrom(r)
	}
	return copyRecords(onlyWriter{c}, r)
}

// WriteTo implements [io.WriterTo]: it writes to w what the peer sends until it
// says that it has ended, some records at a time.
func (c *Conn) WriteTo(w io.Writer) (int64, error) { return copyRecords(w, onlyReader{c}) }

type onlyReader struct{ io.Reader }
type onlyWriter struct{ io.Writer }

// copyRecords is io.Copy with room for a few records, which the kernel reads and
// makes with one call.
func copyRecords(w io.Writer, r io.Reader) (int64, error) {
	const records = 4
	buf := make([]byte, records*maxPlaintext)
	return io.CopyBuffer(onlyWriter{w}, onlyReader{r}, buf)
}

// CloseWrite tells the peer that nothing more will be sent (close_notify). The
// peer may go on sending, and Read goes on. It does not shut the TCP connection
// down, and needs a finished handshake.
func (c *Conn) CloseWrite() error {
	if !c.done.Load() {
		return errors.New("CloseWrite before the handshake is done")
	}
	if c.offload.TX.Kernel {
		return c.kernel.closeWrite()
	}
	return c.explain(c.tls.CloseWrite())
}

// closePatience is how long Close and CloseWrite wait for room in the send
// buffer. It is crypto/tls's.
const closePatience = 5 * time.Second

// Close says close_notify, if no Write is in progress and the peer takes it
// within five seconds, and closes the connection. Reads and Writes in progress
// end with [net.ErrClosed].
func (c *Conn) Close() error {
	if c.closed.Swap(true) {
		return c.errClosed("close")
	}
	if !c.done.Load() {
		return c.inner.Close() // there is nothing to end, and it ends a handshake
	}
	return c.shut(c.kernel)
}

func (c *Conn) errClosed(op string) error {
	return &net.OpError{Op: op, Net: c.inner.LocalAddr().Network(), Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: net.ErrClosed}
}

// shut closes a session whose handshake was made.
func (c *Conn) shut(k *carried) error {
	if k != nil {
		return k.close()
	}
	return c.explain(c.tls.Close())
}

// LocalAddr returns the address of this side.
func (c *Conn) LocalAddr() net.Addr { return c.inner.LocalAddr() }

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.inner.RemoteAddr() }

// SetDeadline sets both deadlines. They hold for the handshake, too.
func (c *Conn) SetDeadline(t time.Time) error { return c.inner.SetDeadline(t) }

// SetReadDeadline sets when a Read ends with [os.ErrDeadlineExceeded]; zero:
// never.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.inner.SetReadDeadline(t) }

// SetWriteDeadline sets the same for Write; a Write that it ended is the last
// one.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.inner.SetWriteDeadline(t) }

// acceptPatience is how long [Conn.ConnectionState] of an accepted connection
// lets a handshake take.
const acceptPatience = 10 * time.Second

// ConnectionState describes the session; before the handshake it is empty but
// for connections of [NewListener], for which it makes the handshake, in ten
// seconds at the most: net/http asks for it first, and never again.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if c.accepted && !c.done.Load() {
		ctx, cancel := context.WithTimeout(context.Background(), acceptPatience)
		defer cancel()
		_ = c.HandshakeContext(ctx) // whoever reads or writes learns of it
	}
	return c.tls.ConnectionState()
}

// NetConn returns the connection that the session runs over. To read, write or
// close it breaks the session: what is written may go out in clear.
func (c *Conn) NetConn() net.Conn { return c.inner }

// SyscallConn returns the socket for those who do their own input and output,
// with io_uring for instance. It is there only after a handshake that left both
// directions to the kernel, see [Conn.Offload]: what crypto/tls carries is
// ciphertext in the socket, and whoever wrote to that would write in clear. The
// socket's options are at [Conn.NetConn]. Know what the kernel leaves to its user:
//
//   - A record that is not data (alert, KeyUpdate, session ticket) ends read(2)
//     with EIO. It stays in the queue; one [Conn.Read] deals with it and
//     returns the data behind it. recvmsg(2) with room for a control message returns it with its type
//     (TLS_GET_RECORD_TYPE).
//   - read(2) returns 0 for an end of the connection that the peer may not have
//     announced; only a close_notify makes it the end of the data.
//   - Writes do not wait for those of the Conn: keys may be replaced between
//     two of them, never within one.
//   - What read(2) has taken is gone for Read, and the other way round.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	o := c.Offload()
	if err := cmp.Or(o.TX.Reason, o.RX.Reason); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOffload, err)
	}
	raw, err := c.inner.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	c.kernel.raw.Store(true)
	return rawConn{raw}, nil
}

// A rawConn hides what else package net's has: by it, package os finds the
// socket and reads and writes it past the Conn.
type rawConn struct{ syscall.RawConn }

// UpdateKeys replaces the key of what this side sends (KeyUpdate, RFC 8446
// section 4.6.3) and, with requestPeer, asks the peer to replace its own; that
// happens when a Read meets the answer. The error is [ErrRekey] where it cannot
// be done, which leaves the session as it was.
func (c *Conn) UpdateKeys(requestPeer bool) error {
	if err := c.Handshake(); err != nil {
		return err
	}
	if !c.offload.TX.Kernel {
		return fmt.Errorf("%w: crypto/tls carries the session (%w)", ErrRekey, c.offload.TX.Reason)
	}
	return c.kernel.updateKeys(requestPeer)
}

// Offload says which directions the kernel carries, and why it does not carry
// the others. Before the handshake is done, none.
func (c *Conn) Offload() Offload {
	if !c.done.Load() {
		return neither(errNotTried)
	}
	return c.offload
}

// explain turns an error of crypto/tls into what this package promises.
func (c *Conn) explain(err error) error {
	switch {
	case err == nil:
		return nil
	case err == io.EOF && c.wire.eof.Load():
		// crypto/tls says the same for an end that nobody announced.
		return c.truncated()
	case errors.Is(err, io.ErrUnexpectedEOF):
		return c.truncated()
	}
	if h, ok := err.(tls.RecordHeaderError); ok && h.Conn != nil {
		h.Conn = c.inner // whoever answers in clear is not to use what is ours
		return h
	}
	if a, ok := remoteAlert(err); ok {
		return &AlertError{Alert: a, Remote: true}
	}
	if a, ok := localAlert(err); ok {
		return &AlertError{Alert: a, Err: err}
	}
	return err
}

func (c *Conn) truncated() error {
	if c.opts.tolerateTruncation && c.done.Load() {
		return io.EOF
	}
	return io.ErrUnexpectedEOF
}
