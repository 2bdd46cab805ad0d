// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"reflect"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A kernelSocket is what the kernel's TLS offers on one socket; in tests it is
// one in user space. Its errors are a *[net.OpError]: [os.ErrDeadlineExceeded]
// and [net.ErrClosed] inside as for any connection, or an *[AlertError] that is
// not the peer's inside when what was received broke the protocol.
type kernelSocket interface {
	// receive reads from one record, or from several that hold data; whole says
	// that the (last) record has been read to its end. n is 0 without an error
	// when the connection has ended, and then typ is 0, or for an empty record.
	receive(p []byte) (n int, typ byte, whole bool, err error)
	// send writes data.
	send(p []byte) (int, error)
	// sendControl sends one record of another type. Without wait it gives up,
	// with errFull, instead of waiting for room.
	sendControl(typ byte, p []byte, wait bool) error
	// setTX and setRX replace a direction's keys; [ErrRekey] if the kernel does
	// not.
	setTX(keys trafficKeys) error
	setRX(keys trafficKeys) error
	// resumeRX lets the kernel go on with the keys it has, when it stopped
	// (errStopped) at a part of a message.
	resumeRX() error
	// sent is how many records went out under the present key.
	sent() (uint64, error)
	// from sends what r has, without a copy if possible, until r ends.
	from(r io.Reader) (int64, error)
	// flush waits until the kernel has room, and what it has encrypted can go
	// before a close.
	flush() error
	setWriteDeadline(t time.Time) error
	close() error
}

var (
	errFull    = errors.New("no room to send")
	errStopped = errors.New("kernel waits for new keys")
	errShut    = errors.New("write after CloseWrite")
)

// A carried is a session of whose directions the kernel carries one or both:
// what it sends, always; what it receives, unless shadow is set.
//
// Locks: readMu, then writeMu. Nobody waits for the peer's reading with readMu
// held: an answer that finds writeMu taken, or no room, is owed and sent by
// whoever comes next.
type carried struct {
	sock     kernelSocket
	wire     *wire
	suite    Suite
	client   bool
	tolerant bool
	rekey    bool   // the kernel can replace keys
	limit    uint64 // records under one key

	readMu   sync.Mutex
	readErr  error       // guarded by readMu
	rx       *flow       // guarded by readMu; TLS 1.3, while keys can be replaced
	messages messages    // guarded by readMu
	alert    []byte      // guarded by readMu; the parts of an alert so far
	refused  bool        // guarded by readMu; a renegotiation was answered
	idle     int         // guarded by readMu; messages since the last data
	tickets  *ticketFeed // guarded by readMu; nil: dropped

	writeMu  sync.Mutex
	writeErr error       // guarded by writeMu
	shutErr  error       // guarded by writeMu; of the close_notify
	tx       *flow       // guarded by writeMu; TLS 1.3, while keys can be replaced
	count    uint64      // guarded by writeMu; at least as many as were sent under the key
	bytes    uint64      // guarded by writeMu; of data, under the handshake's key
	raw      atomic.Bool // others may write: SyscallConn was called
	owed     atomic.Bool // a KeyUpdate that the peer asked for

	// shadowMu is taken with crypto/tls's lock for writing held, and before
	// writeMu.
	shadowMu sync.Mutex
	shadow   *flow // guarded by shadowMu

	closed atomic.Bool
}

// follow keeps what later messages of TLS 1.3 need.
func (k *carried) follow(p *plan, c *Conn, offload Offload) {
	k.count = p.tx.seq
	if k.rekey {
		k.tx = &flow{secret: clone(p.tx.secret)}
		if offload.RX.Kernel {
			k.rx = &flow{secret: clone(p.rx.secret)}
		}
	}
	if offload.RX.Kernel && k.client && c.sessionCache {
		k.tickets = &ticketFeed{cipher: k.suite.Cipher, keys: trafficKeys{clone(p.rx.keys.key), clone(p.rx.keys.iv)}, tls: c.tls, wire: c.wire}
	}
}

func clone(b []byte) []byte { return append([]byte(nil), b...) }

// read is [Conn.Read].
func (k *carried) read(p []byte) (int, error) {
	k.readMu.Lock()
	defer k.readMu.Unlock()
	if k.readErr != nil {
		return 0, k.readErr
	}
	if k.owed.Load() {
		k.pay()
	}
	resumed := false
	for {
		n, typ, whole, err := k.sock.receive(p)
		resumed = resumed && err != nil
		switch {
		case err == errStopped && k.rx != nil && !resumed:
			// A KeyUpdate that is whole was followed at once: this is a part of
			// a message that begins like one.
			resumed = true
			err = k.sock.resumeRX()
			if err == nil {
				continue
			}
		case err != nil:
		case typ == recordApplicationData || typ == 0:
			if n > 0 && k.messages.partial() {
				// RFC 8446 section 5.1: nothing comes between a message's parts.
				err = k.broken(AlertUnexpectedMessage, "data inside a handshake message")
				break
			}
			if n > 0 {
				k.idle = 0
				return n, nil
			}
			if typ != 0 {
				err = k.bored() // an empty record, which says nothing
				break
			}
			err = io.ErrUnexpectedEOF
			if k.tolerant {
				err = io.EOF
			}
		case n == 0:
			err = k.broken(AlertUnexpectedMessage, "empty record")
		case typ == recordAlert:
			err = k.alerted(p[:n], whole)
		case typ == recordHandshake:
			err = k.handshake(p[:n])
		default:
			err = k.broken(AlertUnexpectedMessage, fmt.Sprintf("record of type %d", typ))
		}
		if err != nil {
			return 0, k.failed(err)
		}
	}
}

// broken is the error for a peer that broke the protocol.
func (k *carried) broken(a Alert, what string) error {
	return &AlertError{Alert: a, Err: errors.New("peer sent " + what)}
}

// failed keeps an error of reading, tells the peer if it is the peer's fault,
// and returns what the reader gets.
func (k *carried) failed(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		if !k.closed.Load() {
			return err
		}
		err = net.ErrClosed
	}
	k.readErr = err
	a, ok := errors.AsType[*AlertError](err)
	switch {
	case ok && !a.Remote:
		k.accuse(a.Alert)
		k.readErr = a // the kernel's own word for it is inside
	case errors.Is(err, ErrRekey):
		// Nothing can be read any more, and the peer should know.
		k.accuse(alertInternalError)
	case errors.Is(err, syscall.ECONNRESET):
		k.lost(err)
	}
	if !errors.Is(err, io.EOF) {
		k.forgetRX()
	}
	return k.readErr
}

// accuse sends a fatal alert if that can be done at once, and ends writing.
func (k *carried) accuse(a Alert) {
	if !k.writeMu.TryLock() {
		return // a Write is in progress; the caller closes
	}
	defer k.unlock()
	if k.writeErr != nil {
		return
	}
	_ = k.sock.sendControl(recordAlert, []byte{alertFatal, byte(a)}, false)
	k.writeErr = fmt.Errorf("write after alert %v was sent", a)
}

// lost ends writing on a connection that was reset. The kernel would take one more
// Write, and say so at the next: reading has taken its error away.
func (k *carried) lost(err error) {
	if !k.writeMu.TryLock() {
		return // a Write is in progress and hears of it
	}
	defer k.unlock()
	if k.writeErr == nil {
		k.writeErr = err
	}
}

const (
	alertWarning = 1
	alertFatal   = 2
)

// alerted takes part of an alert record. nil: it is not to be heeded, or not
// whole yet.
func (k *carried) alerted(p []byte, whole bool) error {
	k.alert = append(k.alert, p...)
	if !whole {
		return nil
	}
	if len(k.alert) != 2 {
		return k.broken(alertDecodeError, "an alert record that is none")
	}
	level, a := k.alert[0], Alert(k.alert[1])
	k.alert = k.alert[:0]
	switch {
	case a == AlertCloseNotify:
		return io.EOF
	case a == AlertUserCanceled, level == alertWarning && k.suite.Version == tls.VersionTLS12:
		return k.bored() // a close_notify follows, or it does not matter
	}
	return &AlertError{Alert: a, Remote: true}
}

// handshake takes part of a handshake record.
func (k *carried) handshake(p []byte) error {
	k.messages.add(p)
	for {
		m, err := k.messages.next()
		if err != nil {
			return k.broken(alertDecodeError, err.Error())
		}
		if m == nil {
			return nil
		}
		if err := k.bored(); err != nil {
			return err
		}
		if err := k.message(m); err != nil {
			return err
		}
	}
}

// maxIdle is how many messages, alerts and empty records without data between them
// are dealt with. Each costs more than it cost the peer; crypto/tls takes sixteen.
const maxIdle = 1024

func (k *carried) bored() error {
	if k.idle++; k.idle > maxIdle {
		return k.broken(AlertUnexpectedMessage, "too much without data")
	}
	return nil
}

// message deals with one whole handshake message (RFC 8446 section 4.6).
func (k *carried) message(m []byte) error {
	tls13 := k.suite.Version == tls.VersionTLS13
	switch typ := m[0]; {
	case tls13 && typ == messageNewSessionTicket && k.client:
		if k.tickets != nil && !k.tickets.give(m) {
			k.tickets = nil
		}
		return nil
	case tls13 && typ == messageKeyUpdate:
		return k.keyUpdate(m[messageHeaderLen:])
	case !tls13 && k.client && typ == messageHelloRequest,
		!tls13 && !k.client && typ == messageClientHello:
		// RFC 5246 section 7.2.2: once, in case it waits for an answer.
		if !k.refused && k.writeMu.TryLock() {
			k.refused = true
			if k.writeErr == nil {
				_ = k.sock.sendControl(recordAlert, []byte{alertWarning, byte(alertNoRenegotiation)}, false)
			}
			k.unlock()
		}
		return nil
	default:
		return k.broken(AlertUnexpectedMessage, fmt.Sprintf("handshake message of type %d", typ))
	}
}

// keyUpdate goes on with the peer's next key (RFC 8446 section 4.6.3).
func (k *carried) keyUpdate(body []byte) error {
	if len(body) != 1 || body[0] > 1 {
		return k.broken(alertIllegalParameter, "a KeyUpdate that is none")
	}
	if !k.messages.empty() {
		return k.broken(AlertUnexpectedMessage, "a message behind KeyUpdate in its record")
	}
	if k.rx == nil {
		return fmt.Errorf("%w: the peer did, and this kernel cannot follow", ErrRekey)
	}
	if err := k.rx.next(k.suite.Cipher); err != nil {
		return err
	}
	if err := k.sock.setRX(k.rx.keys); err != nil {
		return err
	}
	if body[0] == updateRequested {
		k.owed.Store(true)
		k.pay()
	}
	return nil
}

const (
	updateNotRequested = 0
	updateRequested    = 1
)

// pay sends the KeyUpdate that is owed, if that can be done at once. Whoever
// holds writeMu looks again when letting go of it, see unlock.
func (k *carried) pay() {
	if k.writeMu.TryLock() {
		k.unlock()
	}
}

// unlock lets go of writeMu and pays what became owed meanwhile.
func (k *carried) unlock() {
	for {
		if k.closed.Load() {
			k.forgetTX()
			k.writeErr = net.ErrClosed
		}
		if k.writeErr == nil && k.owed.Load() {
			// Not waiting: the peer may be waiting for us to read.
			if err := k.replaceTX(false, false); err != errFull {
				k.owed.Store(false)
			}
		}
		left := k.owed.Load()
		k.writeMu.Unlock()
		if left || !k.owed.Load() || !k.writeMu.TryLock() {
			return
		}
	}
}

// replaceTX sends a KeyUpdate and goes on with the next key. With an error other
// than errFull and one before anything was sent, writing has ended.
func (k *carried) replaceTX(request, wait bool) error {
	body := byte(updateNotRequested)
	if request {
		body = updateRequested
	}
	err := k.sock.sendControl(recordHandshake, []byte{messageKeyUpdate, 0, 0, 1, body}, wait)
	if err == errFull {
		return err
	}
	if err == nil {
		err = k.tx.next(k.suite.Cipher)
	}
	if err == nil {
		err = k.sock.setTX(k.tx.keys)
	}
	if err != nil {
		k.writeErr = fmt.Errorf("update keys: %w", err)
		return k.writeErr
	}
	k.count = 0
	return nil
}

// updateKeys is [Conn.UpdateKeys].
func (k *carried) updateKeys(request bool) error {
	if k.suite.Version != tls.VersionTLS13 {
		return fmt.Errorf("%w: TLS 1.2 has no KeyUpdate", ErrRekey)
	}
	if !k.rekey {
		return fmt.Errorf("%w by this kernel", ErrRekey)
	}
	k.writeMu.Lock()
	defer k.unlock()
	if k.writeErr != nil {
		return k.writeErr
	}
	k.owed.Store(false) // this is the answer as well
	return k.replaceTX(request, true)
}

// chunk is how much is written before what is owed is looked at again.
const chunk = 1 << 20

// write is [Conn.Write].
func (k *carried) write(p []byte) (done int, err error) {
	k.writeMu.Lock()
	defer k.unlock()
	for len(p) > 0 || k.writeErr != nil {
		part := p[:min(len(p), chunk)]
		if err := k.ready(records(len(part))); err != nil {
			return done, err
		}
		n, err := k.sock.send(part)
		k.bytes += uint64(n)
		done += n
		p = p[n:]
		if err != nil {
			k.writeErr = err
			return done, err
		}
	}
	return done, nil
}

// records is how many records n bytes need.
func records(n int) uint64 { return uint64(n+maxPlaintext-1) / maxPlaintext }

// ready is called with writeMu held, before n more records are sent.
func (k *carried) ready(n uint64) error {
	if k.writeErr == nil && k.owed.Swap(false) {
		_ = k.replaceTX(false, true)
	}
	if k.writeErr != nil {
		return k.writeErr
	}
	if k.count += n; k.count <= k.limit {
		return nil
	}
	// The kernel knows it exactly.
	sent, err := k.sock.sent()
	if err != nil {
		return err
	}
	switch k.count = sent + n; {
	case k.count <= k.limit:
		return nil
	case k.tx != nil:
		err := k.replaceTX(false, true)
		k.count = n
		return err
	case k.count <= gcmLimit:
		return nil
	case !k.raw.Load() && 2*k.count+(k.bytes+fileChunk)/aesBlock <= gcmLimit*fullRecord:
		return nil // they were small ones
	}
	k.writeErr = ErrKeyLimit
	return ErrKeyLimit
}

const (
	// gcmLimit is 2^24.5, of full-size records (RFC 8446 section 5.5): what it
	// keeps small is the number of blocks that AES has encrypted under the key.
	gcmLimit   = 23726566
	aesBlock   = 16
	fullRecord = maxPlaintext/aesBlock + 2 // and those of type and tag
	// gcmRekey is when a new key is taken.
	gcmRekey = 1 << 24
	noLimit  = 1<<63 - 1
)

func keyLimitOf(c Cipher) uint64 {
	if c == ChaCha20Poly1305 {
		return noLimit
	}
	return gcmRekey
}

// readFrom is [Conn.ReadFrom].
func (k *carried) readFrom(r io.Reader) (done int64, err error) {
	limited, ok := r.(*io.LimitedReader)
	source := r
	if ok {
		source = limited.R
	}
	stream, ok := spliceable(source)
	if !ok {
		return copyRecords(writerFunc(k.write), r)
	}
	for {
		part := int64(fileChunk)
		if limited != nil {
			part = min(part, limited.N)
		}
		if part <= 0 {
			return done, nil
		}
		// A page is the least that a record of a file holds, but for its last.
		most := uint64(part)/page + 1
		if stream != nil {
			// Not while writeMu is held: others write meanwhile. What is there
			// is then taken without waiting; of nothing, the end.
			queued, err := waitInput(stream)
			if err != nil {
				return done, err
			}
			part = min(part, chunk, int64(max(queued, 1)))
			most = uint64(part) // it may have come in single bytes
		}
		n, err := k.readChunk(&io.LimitedReader{R: source, N: part}, most)
		done += n
		if limited != nil {
			limited.N -= n
		}
		if err != nil || n < part {
			return done, err
		}
	}
}

const (
	// fileChunk is [chunk] for sendfile, of which one call takes more.
	fileChunk = 16 << 20
	page      = 4096
)

// readChunk sends what r has, in so many records at the most.
func (k *carried) readChunk(r *io.LimitedReader, most uint64) (int64, error) {
	k.writeMu.Lock()
	defer k.unlock()
	if err := k.ready(most); err != nil {
		return 0, err
	}
	n, err := k.sock.from(r)
	k.bytes += uint64(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		k.writeErr = err // as for any write; another error may be r's
	}
	return n, err
}

// spliceable reports whether the kernel may take from r itself: whether all of r
// is its descriptor, a file's or a stream's. Another type that has one may do more
// in Read. A stream is returned, because it has to be waited for; a pipe is none,
// for sendfile(2) takes nothing from it.
func spliceable(r io.Reader) (stream syscall.Conn, ok bool) {
	// What io.Copy hands on where those have a WriteTo of their own.
	hidden := ""
	switch t := reflect.TypeOf(r); t.PkgPath() + " " + t.Name() {
	case "os fileWithoutWriteTo", "net tcpConnWithoutWriteTo":
		hidden = t.Name()
	}
	switch r := r.(type) {
	case *net.TCPConn:
		return r, true
	case *net.UnixConn:
		return r, r.LocalAddr() != nil && r.LocalAddr().Network() == "unix"
	case interface{ Stat() (os.FileInfo, error) }:
		if _, file := r.(*os.File); !file && hidden == "" {
			return nil, false
		}
		info, err := r.Stat()
		return nil, err == nil && info.Mode().IsRegular()
	case syscall.Conn:
		return r, hidden != ""
	}
	return nil, false
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// closeWrite is [Conn.CloseWrite].
func (k *carried) closeWrite() error {
	k.writeMu.Lock()
	defer k.unlock()
	return k.closeNotify()
}

// closeNotify sends the alert once, with writeMu held.
func (k *carried) closeNotify() error {
	switch {
	case errors.Is(k.writeErr, errShut):
		return k.shutErr
	case k.writeErr != nil && !errors.Is(k.writeErr, ErrKeyLimit):
		return k.writeErr
	}
	if err := k.sock.setWriteDeadline(time.Now().Add(closePatience)); err != nil {
		return err
	}
	k.shutErr = k.sock.sendControl(recordAlert, []byte{alertWarning, byte(AlertCloseNotify)}, true)
	k.writeErr = errShut
	k.forgetTX()
	return k.shutErr
}

// close is [Conn.Close].
func (k *carried) close() error {
	var alertErr error
	until := time.Now().Add(closePatience)
	// A Close beside a Write is there to end it.
	if k.writeMu.TryLock() {
		alertErr = k.closeNotify()
		if errors.Is(k.writeErr, errShut) && alertErr == nil {
			// The kernel forgets records that it could not give to TCP yet.
			_ = k.sock.setWriteDeadline(until)
			alertErr = k.sock.flush()
		} else if !errors.Is(k.writeErr, errShut) {
			alertErr = nil // the writer has heard of it
		}
		k.closed.Store(true)
		k.unlock()
	}
	k.closed.Store(true)
	err := k.sock.close()
	k.forget()
	if err != nil {
		return err
	}
	if alertErr != nil {
		return fmt.Errorf("closed, but close_notify did not leave: %w", alertErr)
	}
	return nil
}

// forget wipes what is left of a closed session. Those who are inside come out,
// and wipe on their way.
func (k *carried) forget() {
	if k.readMu.TryLock() {
		if k.readErr == nil {
			k.readErr = net.ErrClosed
		}
		k.forgetRX()
		k.readMu.Unlock()
	}
	if k.writeMu.TryLock() {
		k.unlock()
	}
	if k.shadowMu.TryLock() {
		k.forgetShadow()
		k.shadowMu.Unlock()
	}
}

// forgetShadow is called with shadowMu held.
func (k *carried) forgetShadow() {
	if k.shadow != nil {
		k.shadow.wipe()
		k.shadow = nil
	}
}

func (k *carried) forgetRX() {
	if k.rx != nil {
		k.rx.wipe()
		k.rx = nil
	}
	if k.tickets != nil {
		k.tickets.keys.wipe()
		k.tickets = nil
	}
}

func (k *carried) forgetTX() {
	if k.tx != nil {
		k.tx.wipe()
		k.tx = nil
	}
}
