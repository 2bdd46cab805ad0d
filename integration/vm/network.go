// SPDX-License-Identifier: BSD-3-Clause

package vm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A Network joins nodes, as a switch does. Nothing else is on it: no host, no
// router, no name server.
type Network struct {
	mu     sync.Mutex
	ports  map[*port]bool
	where  map[hardwareAddr]*port
	record io.Writer
	broken error // of record
}

type hardwareAddr [6]byte

// A port is where a node is plugged in, for one boot.
type port struct {
	conn net.Conn
	out  chan []byte
}

// NewNetwork returns one without nodes.
func NewNetwork() *Network {
	return &Network{ports: make(map[*port]bool), where: make(map[hardwareAddr]*port)}
}

const (
	// maxFrame is an Ethernet frame with segmentation offload.
	maxFrame = 128 << 10
	// portQueue frames wait for a guest that does not take them; those
	// that come then are lost, as on any network.
	portQueue = 1024
)

// plug returns QEMU's end of a cable. QEMU puts the length before each frame
// that it sends to a stream socket.
func (n *Network) plug() (*os.File, error) {
	theirs, conn, err := socketPair()
	if err != nil {
		return nil, err
	}
	p := &port{conn: conn, out: make(chan []byte, portQueue)}
	n.mu.Lock()
	n.ports[p] = true
	n.mu.Unlock()
	go n.receive(p)
	go p.send()
	return theirs, nil
}

// receive forwards what a guest sends until its QEMU ends.
func (n *Network) receive(p *port) {
	r := bufio.NewReaderSize(p.conn, maxFrame)
	for {
		var head [4]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			break
		}
		size := binary.BigEndian.Uint32(head[:])
		if size > maxFrame {
			break // not QEMU
		}
		frame := make([]byte, len(head)+int(size))
		copy(frame, head[:])
		if _, err := io.ReadFull(r, frame[len(head):]); err != nil {
			break
		}
		n.forward(p, frame)
	}
	p.conn.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ports, p)
	for addr, at := range n.where {
		if at == p {
			delete(n.where, addr)
		}
	}
	close(p.out)
}

// forward passes a frame, with its length before it, to where its address was
// seen, or to everybody.
func (n *Network) forward(from *port, frame []byte) {
	if len(frame) < 4+14 {
		return
	}
	var to, source hardwareAddr
	copy(to[:], frame[4:])
	copy(source[:], frame[10:])
	n.mu.Lock()
	defer n.mu.Unlock()
	n.save(frame[4:])
	n.where[source] = from
	if at := n.where[to]; at != nil {
		at.enqueue(frame)
		return
	}
	for p := range n.ports {
		if p != from {
			p.enqueue(frame)
		}
	}
}

func (p *port) enqueue(frame []byte) {
	select {
	case p.out <- frame:
	default:
	}
}

func (p *port) send() {
	for frame := range p.out {
		if _, err := p.conn.Write(frame); err != nil {
			p.conn.Close() // receive sees it
			for range p.out {
			}
			return
		}
	}
}

// Record has every frame written to w, in pcap format, until it is given
// another writer or nil. Everything that a node sends before Record is called
// again is seen. The error is that of the writer before.
func (n *Network) Record(w io.Writer) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	err := n.broken
	n.record, n.broken = w, nil
	if w != nil {
		var b []byte
		b = binary.LittleEndian.AppendUint32(b, 0xa1b23c4d) // times in nanoseconds
		b = binary.LittleEndian.AppendUint16(b, 2)
		b = binary.LittleEndian.AppendUint16(b, 4)
		b = append(b, make([]byte, 8)...)
		b = binary.LittleEndian.AppendUint32(b, maxFrame)
		b = binary.LittleEndian.AppendUint32(b, 1) // Ethernet
		_, n.broken = w.Write(b)
	}
	return err
}

func (n *Network) save(frame []byte) {
	if n.record == nil || n.broken != nil {
		return
	}
	now := time.Now()
	var b []byte
	b = binary.LittleEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.LittleEndian.AppendUint32(b, uint32(now.Nanosecond()))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(frame)))
	_, err := n.record.Write(append(b, frame...))
	n.broken = errors.Join(n.broken, err)
}
