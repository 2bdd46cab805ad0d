// SPDX-License-Identifier: BSD-3-Clause

package ktls

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
)

// A plan is all that the kernel needs to go on with a session.
type plan struct {
	suite  Suite
	client bool
	tx, rx flow
}

// A flow is one direction of a session under its present key.
type flow struct {
	secret []byte // TLS 1.3's traffic secret; nil in TLS 1.2
	keys   trafficKeys
	seq    uint64 // of the next record
}

func (f *flow) wipe() {
	clear(f.secret)
	f.keys.wipe()
}

// next replaces f by what follows it after a KeyUpdate.
func (f *flow) next(c Cipher) error {
	secret, err := nextSecret(c, f.secret)
	if err != nil {
		return err
	}
	keys, err := deriveKeys(c, secret)
	if err != nil {
		return err
	}
	f.wipe()
	*f = flow{secret: secret, keys: keys}
	return nil
}

func (p *plan) wipe() {
	p.tx.wipe()
	p.rx.wipe()
}

// plan says how the session goes on, or why the kernel cannot have it.
func (c *Conn) plan() (*plan, error) {
	if err := c.drain(); err != nil {
		return nil, fmt.Errorf("crypto/tls has something else to say: %w", err)
	}
	if c.wire.odd != nil {
		return nil, c.wire.odd
	}
	if !c.wire.atBoundary() {
		return nil, ErrLeftover
	}
	cs := c.tls.ConnectionState()
	switch cs.Version {
	case tls.VersionTLS13:
		return c.plan13(cs)
	case tls.VersionTLS12:
		return c.plan12(cs)
	}
	return nil, fmt.Errorf("%s is too old", tls.VersionName(cs.Version))
}

// drain takes what crypto/tls has decrypted already, and lets it deal with
// messages that shared a record with the handshake's last.
func (c *Conn) drain() error {
	c.wire.dry = true
	defer func() { c.wire.dry = false }()
	var buf [512]byte
	for {
		n, err := c.tls.Read(buf[:])
		c.leftover = append(c.leftover, buf[:n]...)
		if err == error(errDry) {
			return nil
		}
		if err != nil {
			return err // it stays with crypto/tls, which repeats it
		}
	}
}

func (c *Conn) plan13(cs tls.ConnectionState) (*plan, error) {
	cipher, ok := cipherOf(cs.CipherSuite)
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrCipher, tls.CipherSuiteName(cs.CipherSuite))
	}
	if c.secrets.sent.err != nil {
		return nil, c.secrets.sent.err
	}
	p := &plan{suite: Suite{cs.Version, cipher}, client: c.client}
	client, err := firstFlow(cipher, c.secrets.secrets[labelClientTraffic])
	if err != nil {
		return nil, err
	}
	server, err := firstFlow(cipher, c.secrets.secrets[labelServerTraffic])
	if err != nil {
		client.wipe()
		return nil, err
	}
	p.tx, p.rx = client, server
	if !c.client {
		p.tx, p.rx = server, client
	}
	// A handshake ends at the peer's Finished: crypto/tls has read nothing under
	// the application keys, but may have sent session tickets.
	p.tx.seq = c.secrets.sent.count
	return p, nil
}

func firstFlow(c Cipher, secret []byte) (flow, error) {
	if len(secret) == 0 {
		return flow{}, errors.New("crypto/tls revealed no traffic secrets")
	}
	keys, err := deriveKeys(c, secret)
	return flow{secret: append([]byte(nil), secret...), keys: keys}, err
}

// errRenegotiation: only crypto/tls can renegotiate.
var errRenegotiation = errors.New("the configuration allows renegotiation")

func (c *Conn) plan12(cs tls.ConnectionState) (*plan, error) {
	suite, ok := suites12[cs.CipherSuite]
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrCipher, tls.CipherSuiteName(cs.CipherSuite))
	}
	if c.renegotiate {
		return nil, errRenegotiation
	}
	ch, sh, err := c.wire.hellos()
	if err != nil {
		return nil, err
	}
	if sh.suite != cs.CipherSuite {
		return nil, errHello
	}
	master := c.secrets.secrets[labelMaster]
	if cs.DidResume {
		master = c.secrets.resumed
		if len(master) == 0 {
			return nil, errors.New("a TLS 1.2 session whose master secret crypto/tls does not reveal was resumed")
		}
	}
	if len(master) != masterLen {
		return nil, errors.New("crypto/tls revealed no master secret")
	}
	if suite.ivLen() != staticIVLen && c.wire.oddNonce {
		return nil, errors.New("crypto/tls chose explicit nonces in a way of its own")
	}
	p := &plan{suite: Suite{cs.Version, suite.cipher}, client: c.client}
	p.tx.keys, p.rx.keys = deriveKeys12(suite, master, ch.random, sh.random)
	if !c.client {
		p.tx.keys, p.rx.keys = p.rx.keys, p.tx.keys
	}
	p.tx.seq, p.rx.seq = c.wire.out.count, c.wire.in.count
	if p.tx.seq == 0 || p.rx.seq == 0 {
		p.wipe()
		return nil, errors.New("no Finished was seen")
	}
	return p, nil
}

// install gives the session to the kernel, as much of it as it takes.
func (p *plan) install(c *Conn) (*carried, Offload) {
	defer p.wipe()
	sock, offload, rekey := c.handOver(c.inner.(*net.TCPConn), p, c.opts)
	if !offload.TX.Kernel {
		return nil, offload
	}
	k := &carried{
		sock:     sock,
		wire:     c.wire,
		suite:    p.suite,
		client:   c.client,
		rekey:    rekey,
		tolerant: c.opts.tolerateTruncation,
		limit:    keyLimitOf(p.suite.Cipher),
	}
	if p.suite.Version == tls.VersionTLS13 {
		k.follow(p, c, offload)
	}
	if !offload.RX.Kernel {
		k.shadow = &flow{secret: clone(p.tx.secret), keys: trafficKeys{clone(p.tx.keys.key), clone(p.tx.keys.iv)}, seq: p.tx.seq}
		c.wire.translate = k.translate
	}
	return k, offload
}
