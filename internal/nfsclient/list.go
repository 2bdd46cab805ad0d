// SPDX-License-Identifier: BSD-3-Clause

package nfsclient

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"rpctls/rpc"
)

// procCompound is the only procedure of NFSv4 beside NULL.
const procCompound = 1

// A Caller is what [rpc.Client] does, for program NFS, version 4.
type Caller interface {
	Call(ctx context.Context, procedure uint32, args []byte) ([]byte, error)
}

// A Listing is the beginning of a directory.
type Listing struct {
	Minor   uint32   // version of NFSv4 that the server spoke
	Entries []string // names, as many as one answer held
	More    bool     // there are others
}

// maxDepth bounds the components of a path.
const maxDepth = 64

// maxReply is how many bytes of a directory are asked for.
const maxReply = 8 << 10

// List lists the directory at an absolute path, as the server sees it: "/" is the
// root of what it exports. A refusal is a [*StatusError]; other errors are those
// of Caller, or match [rpc.ErrProtocol].
func List(ctx context.Context, c Caller, dir string) (*Listing, error) {
	parts, err := split(dir)
	if err != nil {
		return nil, err
	}
	var l Listing
	ops := walk(parts, &l)
	// Without state first: there is nothing to be left behind.
	err = compound(ctx, c, 0, ops)
	if se, ok := errors.AsType[*StatusError](err); ok && se.Status == ErrMinorVersion {
		l = Listing{Minor: 1}
		err = inSession(ctx, c, func(call func([]op) error) error { return call(ops) })
	}
	if err != nil {
		return nil, err
	}
	return &l, nil
}

func split(dir string) ([]string, error) {
	if !strings.HasPrefix(dir, "/") {
		return nil, fmt.Errorf("%q is not an absolute path", dir)
	}
	var parts []string
	for part := range strings.SplitSeq(path.Clean(dir), "/") {
		switch {
		case part == "":
			continue
		case len(part) > maxName || len(parts) == maxDepth:
			return nil, fmt.Errorf("path %.40q... is too long", dir)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// walk goes to a directory and reads it.
func walk(parts []string, l *Listing) []op {
	ops := []op{{number: opPutRootFH, path: "/"}}
	at := "/"
	for _, part := range parts {
		at = path.Join(at, part)
		ops = append(ops, op{number: opLookup, path: at, encode: func(e *rpc.Encoder) { e.String(part, maxName) }})
	}
	return append(ops, op{
		number: opReadDir, path: at,
		encode: func(e *rpc.Encoder) {
			e.Uint64(0)
			e.FixedOpaque(make([]byte, 8))
			e.Uint32(maxReply)
			e.Uint32(maxReply)
			e.Uint32(0) // no attributes
		},
		decode: l.decode,
	})
}

// decode reads READDIR4resok.
func (l *Listing) decode(d *rpc.Decoder) error {
	d.FixedOpaque(8)
	for {
		more, err := boolean(d)
		if err != nil || d.Err() != nil {
			return err
		}
		if !more {
			break
		}
		if len(l.Entries) == maxEntries {
			return fmt.Errorf("%w: more than %d entries", rpc.ErrProtocol, maxEntries)
		}
		d.Uint64()
		name := d.String(maxName)
		if err := skipBitmap(d); err != nil {
			return err
		}
		d.Opaque(maxAttrs)
		if err := d.Err(); err != nil {
			return err
		}
		l.Entries = append(l.Entries, name)
	}
	eof, err := boolean(d)
	l.More = !eof
	return err
}

// again is how long a server is given that says NFS4ERR_DELAY: nfsd does while it
// asks mountd about a client that is new to it.
const again = 100 * time.Millisecond

// compound calls until the server does not put it off any more.
func compound(ctx context.Context, c Caller, minor uint32, ops []op) error {
	return patiently(ctx, func() error { return once(ctx, c, minor, ops) })
}

func patiently(ctx context.Context, f func() error) error {
	for {
		err := f()
		if se, ok := errors.AsType[*StatusError](err); !ok || se.Status != ErrDelay {
			return err
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return err
		}
	}
}

func once(ctx context.Context, c Caller, minor uint32, ops []op) error {
	args, err := encode(minor, ops)
	if err != nil {
		return err
	}
	results, err := c.Call(ctx, procCompound, args)
	if err != nil {
		return err
	}
	return decode(results, ops)
}

// inSession calls f with a session of NFSv4.1 (RFC 8881 section 2.10), and
// destroys it afterwards. No RECLAIM_COMPLETE is sent, so the server has nothing
// to remember on stable storage.
func inSession(ctx context.Context, c Caller, f func(call func([]op) error) error) error {
	var client uint64
	var seq uint32
	owner := rand.Text()
	err := compound(ctx, c, 1, []op{{number: opExchangeID, path: "/", encode: func(e *rpc.Encoder) {
		verifier := make([]byte, 8)
		rand.Read(verifier)
		e.FixedOpaque(verifier)
		e.String("rpctls probe "+owner, maxOwner)
		e.Uint32(0) // flags
		e.Uint32(0) // SP4_NONE
		e.Uint32(0) // no implementation id
	}, decode: func(d *rpc.Decoder) (err error) {
		client, seq, err = decodeExchangeID(d)
		return err
	}}})
	if err != nil {
		return err
	}
	// Whatever comes, and even if ctx has ended: what was made is taken down.
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = once(last, c, 1, []op{{number: opDestroyClientID, encode: func(e *rpc.Encoder) { e.Uint64(client) }}})
	}()
	var id []byte
	err = compound(ctx, c, 1, []op{{number: opCreateSession, path: "/", encode: func(e *rpc.Encoder) {
		e.Uint64(client)
		e.Uint32(seq)
		e.Uint32(0)
		for range 2 { // fore and back channel
			for _, v := range []uint32{0, 64 << 10, 64 << 10, 4 << 10, maxDepth + 8, 1, 0} {
				e.Uint32(v)
			}
		}
		e.Uint32(0x40000000) // callback program, never called
		e.Uint32(1)
		e.Uint32(uint32(rpc.AuthNone))
	}, decode: func(d *rpc.Decoder) (err error) {
		id, err = decodeCreateSession(d)
		return err
	}}})
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = once(last, c, 1, []op{{number: opDestroySession, encode: func(e *rpc.Encoder) { e.FixedOpaque(id) }}})
	}()
	slot := uint32(0)
	return f(func(ops []op) error {
		return patiently(ctx, func() error {
			slot++
			return once(ctx, c, 1, append([]op{sequence(id, slot)}, ops...))
		})
	})
}

// sequence is SEQUENCE on the session's first slot.
func sequence(id []byte, seq uint32) op {
	return op{number: opSequence, path: "/", encode: func(e *rpc.Encoder) {
		e.FixedOpaque(id)
		e.Uint32(seq)
		e.Uint32(0)
		e.Uint32(0)
		e.Uint32(0)
	}, decode: func(d *rpc.Decoder) error {
		d.FixedOpaque(sessionID)
		for range 5 {
			d.Uint32()
		}
		return nil
	}}
}

// decodeExchangeID reads EXCHANGE_ID4resok.
func decodeExchangeID(d *rpc.Decoder) (client uint64, seq uint32, err error) {
	client, seq = d.Uint64(), d.Uint32()
	d.Uint32() // flags
	if how := d.Uint32(); how != 0 {
		return 0, 0, fmt.Errorf("%w: state protection %d was not asked for", rpc.ErrProtocol, how)
	}
	d.Uint64()
	d.Opaque(maxOwner)
	d.Opaque(maxOwner)
	n := d.Uint32()
	if n > 1 {
		return 0, 0, fmt.Errorf("%w: %d implementations", rpc.ErrProtocol, n)
	}
	if n == 1 {
		d.Opaque(maxImpl)
		d.Opaque(maxImpl)
		d.Uint64()
		d.Uint32()
	}
	return client, seq, nil
}

// decodeCreateSession reads CREATE_SESSION4resok.
func decodeCreateSession(d *rpc.Decoder) ([]byte, error) {
	id := d.FixedOpaque(sessionID)
	d.Uint32()
	d.Uint32()
	for range 2 {
		for range 6 {
			d.Uint32()
		}
		if n := d.Uint32(); n > 1 {
			return nil, fmt.Errorf("%w: %d RDMA depths", rpc.ErrProtocol, n)
		} else if n == 1 {
			d.Uint32()
		}
	}
	return id, nil
}
