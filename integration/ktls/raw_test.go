// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"

	"golang.org/x/crypto/chacha20poly1305"

	"rpctls/ktls"
)

// Record and handshake message types (RFC 8446 sections 4 and 5).
const (
	typeChangeCipherSpec = 20
	typeAlert            = 21
	typeHandshake        = 22
	typeData             = 23

	msgServerHello      = 2
	msgNewSessionTicket = 4
	msgKeyUpdate        = 24

	headerLen = 5
	maxPlain  = 1 << 14
)

// A raw is a peer whose handshake is crypto/tls's and whose records are made by
// hand, for what no well-behaved program would send.
type raw struct {
	net.Conn
	role  ktls.Role
	suite suite
	state tls.ConnectionState
	// tickets are the NewSessionTicket messages that crypto/tls's server made in
	// TLS 1.3 and that were not sent.
	tickets [][]byte

	log           secrets
	randoms       [2][]byte // client's and server's
	readLeft      int       // of the record that is being read during the handshake
	wantHeader    []byte
	heard         []byte              // a client's beginning
	finishing     func(r *raw) []byte // to leave in the segment of our Finished
	sendTickets   bool                // at once, as crypto/tls does
	read, written half
	shaken        bool
}

// A half is one direction's keys.
type half struct {
	suite  suite
	secret []byte // TLS 1.3
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

// secrets is a KeyLogWriter.
type secrets map[string][]byte

func (s secrets) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) != 3 {
		return 0, fmt.Errorf("key log: %d fields", len(f))
	}
	for i, name := range []string{string(f[0]), "random"} {
		value, err := hex.DecodeString(string(f[2-i]))
		if err != nil {
			return 0, err
		}
		s[name] = value
	}
	return len(line), nil
}

// A rawOption changes what a raw peer does during its handshake.
type rawOption func(*raw)

// withFinished has what f returns leave in one segment with our Finished, if
// that is the last message of our handshake (it is not for a client of TLS 1.2).
func withFinished(f func(r *raw) []byte) rawOption { return func(r *raw) { r.finishing = f } }

// atOnce has the server's tickets leave when crypto/tls sends them.
func atOnce(r *raw) { r.sendTickets = true }

// shakeHands makes a raw peer of a connection.
func shakeHands(conn net.Conn, role ktls.Role, s suite, cfg *tls.Config, opts ...rawOption) (*raw, error) {
	r := &raw{Conn: conn, role: role, suite: s, log: make(secrets)}
	for _, o := range opts {
		o(r)
	}
	cfg = cfg.Clone()
	cfg.KeyLogWriter = r.log
	c := tls.Client(tap{r}, cfg)
	if role == ktls.RoleServer {
		c = tls.Server(tap{r}, cfg)
	}
	if err := c.Handshake(); err != nil {
		return nil, fmt.Errorf("handshake of a raw %v: %w", role, err)
	}
	r.state = c.ConnectionState()
	r.shaken = true
	if err := r.keys(); err != nil {
		return nil, err
	}
	return r, nil
}

// keys makes the keys of both halves, once their secrets are known.
func (r *raw) keys() error {
	if r.suite.version == tls.VersionTLS13 {
		for _, h := range []struct {
			half  *half
			label string
		}{{&r.read, label(!r.role)}, {&r.written, label(r.role)}} {
			if secret := r.log[h.label]; h.half.aead == nil && secret != nil {
				*h.half = half{suite: r.suite, secret: secret}
				if err := h.half.derive(); err != nil {
					return err
				}
			}
		}
		return nil
	}
	master := r.log["CLIENT_RANDOM"]
	if r.written.aead != nil || master == nil || r.randoms[1] == nil {
		return nil
	}
	// RFC 5246 section 6.3; an AEAD has no MAC keys.
	keyLen, ivLen := r.suite.keyLen(), 4
	if r.suite.cipher == ktls.ChaCha20Poly1305 {
		ivLen = 12
	}
	block := prf(r.suite.hash(), master, "key expansion", slices.Concat(r.randoms[1], r.log["random"]), 2*(keyLen+ivLen))
	client, server := half{suite: r.suite, seq: 1}, half{suite: r.suite, seq: 1} // Finished was 0
	for i, h := range []*half{&client, &server} {
		var err error
		if h.aead, err = r.suite.aead(block[i*keyLen:][:keyLen]); err != nil {
			return err
		}
		h.iv = block[2*keyLen+i*ivLen:][:ivLen]
	}
	r.read, r.written = server, client
	if r.role == ktls.RoleServer {
		r.read, r.written = client, server
	}
	return nil
}

func label(r ktls.Role) string {
	if r == ktls.RoleServer {
		return "SERVER_TRAFFIC_SECRET_0"
	}
	return "CLIENT_TRAFFIC_SECRET_0"
}

func (s suite) hash() crypto.Hash {
	if s.cipher == ktls.AES256GCM {
		return crypto.SHA384
	}
	return crypto.SHA256
}

func (s suite) keyLen() int {
	if s.cipher == ktls.AES128GCM {
		return 16
	}
	return 32
}

func (s suite) aead(key []byte) (cipher.AEAD, error) {
	if s.cipher == ktls.ChaCha20Poly1305 {
		return chacha20poly1305.New(key)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// prf is TLS 1.2's (RFC 5246 section 5).
func prf(h crypto.Hash, secret []byte, label string, seed []byte, n int) []byte {
	sum := func(parts ...[]byte) []byte {
		m := hmac.New(h.New, secret)
		for _, p := range parts {
			m.Write(p)
		}
		return m.Sum(nil)
	}
	seed = append([]byte(label), seed...)
	var out []byte
	for a := sum(seed); len(out) < n; a = sum(a) {
		out = append(out, sum(a, seed)...)
	}
	return out[:n]
}

func expand(h crypto.Hash, secret []byte, label string, n int) ([]byte, error) {
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(info, byte(len("tls13 ")+len(label)))
	info = append(info, "tls13 "+label...)
	return hkdf.Expand(h.New, secret, string(append(info, 0)), n)
}

// derive makes key and IV of TLS 1.3 (RFC 8446 section 7.3).
func (h *half) derive() error {
	key, err := expand(h.suite.hash(), h.secret, "key", h.suite.keyLen())
	if err != nil {
		return err
	}
	if h.iv, err = expand(h.suite.hash(), h.secret, "iv", 12); err != nil {
		return err
	}
	h.seq = 0
	h.aead, err = h.suite.aead(key)
	return err
}

// next goes to the next generation (RFC 8446 section 7.2).
func (h *half) next() error {
	secret, err := expand(h.suite.hash(), h.secret, "traffic upd", h.suite.hash().Size())
	if err != nil {
		return err
	}
	h.secret = secret
	return h.derive()
}

func (h *half) xored() []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[4:], h.seq)
	for i, b := range h.iv {
		nonce[i] ^= b
	}
	return nonce
}

// seal makes one record, with so many bytes of padding (TLS 1.3).
func (h *half) seal(typ byte, content []byte, padding int) []byte {
	defer func() { h.seq++ }()
	header := []byte{typeData, 3, 3, 0, 0}
	if h.suite.version == tls.VersionTLS13 {
		inner := slices.Concat(content, []byte{typ}, make([]byte, padding))
		binary.BigEndian.PutUint16(header[3:], uint16(len(inner)+h.aead.Overhead()))
		return h.aead.Seal(header, h.xored(), inner, header)
	}
	header[0] = typ
	nonce, explicit := h.xored(), []byte(nil)
	if len(h.iv) == 4 {
		explicit = binary.BigEndian.AppendUint64(nil, h.seq)
		nonce = slices.Concat(h.iv, explicit)
	}
	binary.BigEndian.PutUint16(header[3:], uint16(len(explicit)+len(content)+h.aead.Overhead()))
	return h.aead.Seal(append(header, explicit...), nonce, content, h.additional(typ, len(content)))
}

// additional is what TLS 1.2 authenticates beside the content (RFC 5246 section
// 6.2.3.3).
func (h *half) additional(typ byte, n int) []byte {
	ad := binary.BigEndian.AppendUint64(nil, h.seq)
	return append(ad, typ, 3, 3, byte(n>>8), byte(n))
}

// open decrypts one whole record.
func (h *half) open(record []byte) (typ byte, content []byte, err error) {
	header, body := record[:headerLen], record[headerLen:]
	if h.suite.version == tls.VersionTLS13 {
		inner, err := h.aead.Open(nil, h.xored(), body, header)
		if err != nil {
			return 0, nil, err
		}
		h.seq++
		inner = bytes.TrimRight(inner, "\x00")
		if len(inner) == 0 {
			return 0, nil, errors.New("a record of nothing but padding")
		}
		return inner[len(inner)-1], inner[:len(inner)-1], nil
	}
	nonce := h.xored()
	if len(h.iv) == 4 {
		if len(body) < 8 {
			return 0, nil, errors.New("a record without a nonce")
		}
		nonce, body = slices.Concat(h.iv, body[:8]), body[8:]
	}
	if len(body) < h.aead.Overhead() {
		return 0, nil, errors.New("a record without a tag")
	}
	content, err = h.aead.Open(nil, nonce, body, h.additional(header[0], len(body)-h.aead.Overhead()))
	if err != nil {
		return 0, nil, err
	}
	h.seq++
	return header[0], content, nil
}

// A tap is what crypto/tls sees of the connection during the handshake: reads
// end with each record, so that nothing is taken that comes after it.
type tap struct{ *raw }

func (t tap) Close() error { return nil }

func (t tap) Read(p []byte) (int, error) {
	r := t.raw
	n, err := t.readSome(p)
	if r.role == ktls.RoleClient && r.randoms[1] == nil {
		const random = headerLen + 4 + 2
		if r.heard = append(r.heard, p[:n]...); len(r.heard) >= random+32 && r.heard[0] == typeHandshake {
			r.randoms[1] = r.heard[random:][:32]
		}
	}
	return n, err
}

func (t tap) readSome(p []byte) (int, error) {
	r := t.raw
	if r.readLeft == 0 {
		if len(r.wantHeader) < headerLen {
			n, err := r.Conn.Read(p[:min(len(p), headerLen-len(r.wantHeader))])
			r.wantHeader = append(r.wantHeader, p[:n]...)
			if len(r.wantHeader) == headerLen {
				r.readLeft = int(binary.BigEndian.Uint16(r.wantHeader[3:]))
				r.wantHeader = nil
			}
			return n, err
		}
	}
	n, err := r.Conn.Read(p[:min(len(p), r.readLeft)])
	r.readLeft -= n
	return n, err
}

func (t tap) Write(p []byte) (int, error) {
	r := t.raw
	if r.shaken {
		return 0, errors.New("crypto/tls is not asked any more")
	}
	var out []byte
	last := false
	for rest := p; len(rest) > 0; {
		n := headerLen + int(binary.BigEndian.Uint16(rest[3:]))
		record := rest[:n]
		rest = rest[n:]
		if r.role == ktls.RoleServer && r.randoms[1] == nil && record[0] == typeHandshake && record[headerLen] == msgServerHello {
			r.randoms[1] = bytes.Clone(record[headerLen+4+2:][:32])
		}
		if err := r.keys(); err != nil {
			return 0, err
		}
		if r.suite.version == tls.VersionTLS12 {
			last = last || record[0] == typeChangeCipherSpec && r.role == ktls.RoleServer
		} else if r.written.aead != nil {
			last = true
			trial := r.written
			if typ, content, err := trial.open(record); err == nil {
				if typ != typeHandshake || content[0] != msgNewSessionTicket {
					return 0, fmt.Errorf("unexpected record of type %d after the handshake", typ)
				}
				if !r.sendTickets {
					r.tickets = append(r.tickets, content)
					continue
				}
				r.written = trial
			}
		}
		out = append(out, record...)
	}
	if last && r.finishing != nil {
		out = append(out, r.finishing(r)...)
		r.finishing = nil
	}
	if len(out) == 0 {
		return len(p), nil
	}
	if _, err := r.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// data seals data in as many records as it takes.
func (r *raw) data(p []byte) []byte {
	var out []byte
	for first := true; first || len(p) > 0; first = false {
		n := min(len(p), maxPlain)
		out = append(out, r.written.seal(typeData, p[:n], 0)...)
		p = p[n:]
	}
	return out
}

// alert seals an alert.
func (r *raw) alert(level byte, a ktls.Alert) []byte {
	return r.written.seal(typeAlert, []byte{level, byte(a)}, 0)
}

// keyUpdate seals a KeyUpdate message and goes to the next key.
func (r *raw) keyUpdate(request bool) []byte {
	out := r.written.seal(typeHandshake, []byte{msgKeyUpdate, 0, 0, 1, oneIf(request)}, 0)
	if err := r.written.next(); err != nil {
		panic(err) // of lengths that are given
	}
	return out
}

func oneIf(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// send sends records in one write.
func (r *raw) send(records ...[]byte) error {
	_, err := r.Conn.Write(slices.Concat(records...))
	return err
}

// receive reads and decrypts one record. A key update changes the key.
func (r *raw) receive() (typ byte, content []byte, err error) {
	record := make([]byte, headerLen, headerLen+maxPlain+256)
	if _, err := io.ReadFull(r.Conn, record); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(record[3:]))
	if n > maxPlain+256 {
		return 0, nil, fmt.Errorf("a record of %d bytes", n)
	}
	record = record[:headerLen+n]
	if _, err := io.ReadFull(r.Conn, record[headerLen:]); err != nil {
		return 0, nil, err
	}
	typ, content, err = r.read.open(record)
	if err != nil {
		return 0, nil, fmt.Errorf("record %d: %w", r.read.seq, err)
	}
	if typ == typeHandshake && r.suite.version == tls.VersionTLS13 && len(content) == 5 && content[0] == msgKeyUpdate {
		if err := r.read.next(); err != nil {
			return 0, nil, err
		}
	}
	return typ, content, nil
}

// A rawEvent is what receiveData passed over.
type rawEvent struct {
	typ     byte
	content []byte
}

// receiveData reads n bytes of data, and returns them with what else came
// before their end.
func (r *raw) receiveData(n int) (data []byte, others []rawEvent, err error) {
	for len(data) < n {
		typ, content, err := r.receive()
		if err != nil {
			return data, others, err
		}
		if typ == typeData {
			data = append(data, content...)
		} else {
			others = append(others, rawEvent{typ, content})
		}
	}
	return data, others, nil
}

// receiveAlert reads records until an alert, and returns it.
func (r *raw) receiveAlert() (ktls.Alert, error) {
	for {
		typ, content, err := r.receive()
		if err != nil {
			return 0, err
		}
		if typ == typeAlert && len(content) == 2 {
			return ktls.Alert(content[1]), nil
		}
	}
}
