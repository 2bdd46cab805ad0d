// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package scenario

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/guest"
	"rpctls/rpc"
)

// A writer is an application on a mount: it writes files, reads them back and
// compares, and must never get an error, whatever happens to the connection.
//
// It is a process of its own. In ours, with a file of the mount open, a mount
// that hangs would hang everything: to start a program is to fork, and exec
// closes the child's copy, which waits for what is to be written.
type writer struct {
	dir string

	mu     sync.Mutex // guards what follows
	doing  string     // "" between two rounds of writing and reading
	since  time.Time
	rounds int
	errs   []error

	gate chan struct{} // holds a token while it may not begin another round
}

// What a writer is told: the directory on the mount, the same on the server's
// disk, and how many bytes a file may have.
const writerEnv = "RPCTLS_WRITER"

// TestMain makes a writer of this program if it is started as one.
func TestMain(m *testing.M) {
	if told, ok := os.LookupEnv(writerEnv); ok {
		f := strings.Split(told, ":")
		most, err := strconv.Atoi(f[2])
		if err != nil {
			panic(err)
		}
		writeForever(f[0], f[1], most)
		return
	}
	os.Exit(m.Run())
}

// What a writer says; anything else is what it begins to do.
const (
	roundOver   = "round over"
	roundFailed = "error: "
)

// writeForever does a round for each line it reads, whose number the round's
// contents follow from.
func writeForever(dir, export string, most int) {
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		seed, err := strconv.ParseUint(orders.Text(), 10, 64)
		if err == nil {
			err = writeRound(dir, export, most, rand.New(rand.NewPCG(seed, 1)))
		}
		if err != nil {
			fmt.Printf("%s%q\n", roundFailed, err)
		}
		fmt.Println(roundOver)
	}
}

// writeRound writes a file, reads it from the server and compares, and looks
// at what the server has on its disk.
func writeRound(dir, export string, most int, rng *rand.Rand) error {
	data := make([]byte, 1+rng.IntN(most))
	for i := range data {
		data[i] = byte(rng.Uint32())
	}
	base := fmt.Sprintf("written-%d", rng.IntN(4))
	name := filepath.Join(dir, base)
	step := func(what string) { fmt.Println(what, name) }
	step("open")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	step("write")
	_, err = f.Write(data)
	step("fsync")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// Past the client's cache: what is compared was on the wire.
	step("read")
	f, err = os.OpenFile(name, os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return err
	}
	got, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	disk, err := os.ReadFile(filepath.Join(export, base))
	if err != nil {
		return err
	}
	for what, b := range map[string][]byte{"the mount": got, "the server's disk": disk} {
		if !bytes.Equal(b, data) {
			return fmt.Errorf("%s: %d bytes were written, %s has %d others", name, len(data), what, len(b))
		}
	}
	step("remove")
	return os.Remove(name)
}

// write starts a writer that ends with the test.
func write(t *testing.T, dir, export string, most int, seed uint64) *writer {
	t.Helper()
	wr := &writer{dir: dir, gate: make(chan struct{}, 1)}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s:%s:%d", writerEnv, dir, export, most))
	cmd.Stderr = os.Stderr
	orders, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		rng := rand.New(rand.NewPCG(seed, 1))
		lines := bufio.NewScanner(said)
		for {
			select {
			case <-stop:
				return
			case wr.gate <- struct{}{}:
			}
			if _, err := fmt.Fprintln(orders, rng.Uint64()); err != nil {
				wr.step(roundFailed + err.Error())
				return
			}
			for {
				if !lines.Scan() {
					wr.step(fmt.Sprintf("%sthe writer has ended: %v", roundFailed, lines.Err()))
					return
				}
				if wr.step(lines.Text()) {
					break
				}
			}
			<-wr.gate
		}
	}()
	t.Cleanup(func() {
		close(stop)
		orders.Close()
		_ = cmd.Process.Kill()
		// One that hangs in the kernel does not end; its mount is gone soon.
		select {
		case <-stopped:
			_ = cmd.Wait()
		case <-time.After(10 * time.Second):
			t.Errorf("the writer of %s is stuck: %s", dir, wr.state())
		}
	})
	return wr
}

// step notes what the writer said, and returns true at the end of a round.
func (wr *writer) step(said string) bool {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	switch text, failed := strings.CutPrefix(said, roundFailed); {
	case failed:
		wr.errs = append(wr.errs, errors.New(text))
	case said == roundOver:
		wr.rounds++
		wr.doing = ""
		return true
	default:
		wr.doing, wr.since = said, time.Now()
	}
	return false
}

func (wr *writer) state() string {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	if wr.doing == "" {
		return fmt.Sprintf("at rest after %d rounds", wr.rounds)
	}
	return fmt.Sprintf("%s for %v, after %d rounds", wr.doing, time.Since(wr.since).Round(time.Millisecond), wr.rounds)
}

// problems returns the errors since the last call.
func (wr *writer) problems() []error {
	wr.mu.Lock()
	defer wr.mu.Unlock()
	errs := wr.errs
	wr.errs = nil
	return errs
}

// healing is how long a mount may take to work again when nothing disturbs it
// any more: the kernel's patience, our pacing of failures, and TCP's own
// patience with a path that was down, on a slow machine.
const healing = 90 * time.Second

// pause waits until the writer is between two rounds and keeps it there until
// resume. That it gets there means that its mount works.
func (wr *writer) pause(t *testing.T) {
	t.Helper()
	select {
	case wr.gate <- struct{}{}:
	case <-time.After(healing):
		t.Fatalf("the mount does not work within %v: %s", healing, wr.state())
	}
}

func (wr *writer) resume() { <-wr.gate }

// again waits until the writer has been through a whole round.
func (wr *writer) again(t *testing.T) {
	t.Helper()
	done := func() int {
		wr.mu.Lock()
		defer wr.mu.Unlock()
		return wr.rounds
	}
	before := done()
	guest.Poll(t, healing, "the mount to work", func() error {
		// The first one may have been under way already.
		if done() < before+2 {
			return errors.New(wr.state())
		}
		return nil
	})
}

// A load is connections to the server that are not the kernel's: of good
// clients, and of all sorts of others.
type load struct {
	w    *world
	stop chan struct{}
	once sync.Once // closes stop
	wg   sync.WaitGroup

	mu    sync.Mutex // guards count
	count map[string]int
}

const (
	goodClients = 2
	badClients  = 3
)

// startLoad starts the clients of a round.
func startLoad(t *testing.T, w *world, seed uint64) *load {
	l := &load{w: w, stop: make(chan struct{}), count: make(map[string]int)}
	for i := range goodClients + badClients {
		rng := rand.New(rand.NewPCG(seed, uint64(2+i)))
		l.wg.Go(func() {
			for {
				select {
				case <-l.stop:
					return
				default:
				}
				kind, err := "good", error(nil)
				if i < goodClients {
					err = w.goodClient()
				} else {
					kind, err = l.bad(rng)
				}
				l.note(kind, err)
			}
		})
	}
	t.Cleanup(l.halt)
	return l
}

// halt is the end of the load, which may be said twice.
func (l *load) halt() { l.once.Do(func() { close(l.stop) }) }

func (l *load) note(kind string, err error) {
	if err != nil {
		kind += ", in vain"
	}
	l.mu.Lock()
	l.count[kind]++
	l.mu.Unlock()
	if err == nil {
		return
	}
	// A failure that stays must not fill the processor.
	select {
	case <-l.stop:
	case <-time.After(100 * time.Millisecond):
	}
}

// end ends the load and says what there was.
func (l *load) end(t *testing.T) string {
	t.Helper()
	l.halt()
	guest.Within(t, guest.CommandLimit, "end of the load", func() error { l.wg.Wait(); return nil })
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []string
	for _, k := range slices.Sorted(maps.Keys(l.count)) {
		all = append(all, fmt.Sprintf("%d %s", l.count[k], k))
	}
	return strings.Join(all, ", ")
}

// aHello is about as many bytes as a client sends until it has finished.
const aHello = 2200

// bad is one client that is slow, dead or broken. The error is about the time
// before it is.
func (l *load) bad(rng *rand.Rand) (kind string, err error) {
	var conn net.Conn
	dialer := net.Dialer{Timeout: 5 * time.Second}
	if derr := l.w.rogue.Do(func() { conn, err = dialer.Dial("tcp", l.w.server.IPv4().String()+":2049") }); derr != nil || err != nil {
		return "unconnected", errors.Join(derr, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := rpc.Probe(ctx, conn, rpc.ProgramNFS, rpc.NFSVersion4); err != nil {
		return "unprobed", err
	}
	conn.SetDeadline(time.Now().Add(8 * time.Second))
	cfg := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{rpc.ALPN}}
	through := func(c net.Conn) { tls.Client(c, cfg).Handshake() }
	switch rng.IntN(5) {
	case 0:
		kind = "slow"
		through(&dribble{Conn: conn, piece: 50 + rng.IntN(400), pause: time.Duration(rng.IntN(200)) * time.Millisecond})
	case 1:
		kind = "silent"
		conn.Read(make([]byte, 1)) // until the server has enough
	case 2:
		kind = "cut off"
		through(&cut{Conn: conn, left: rng.IntN(aHello), then: reset})
	case 3:
		kind = "closed"
		through(&cut{Conn: conn, left: rng.IntN(aHello), then: closeConn})
	case 4:
		kind = "nonsense"
		junk := make([]byte, 1+rng.IntN(3000))
		for i := range junk {
			junk[i] = byte(rng.Uint32())
		}
		conn.Write(junk)
		conn.Read(make([]byte, 1))
	}
	return kind, nil
}

// A dribble sends little at a time.
type dribble struct {
	net.Conn
	piece int
	pause time.Duration
}

func (d *dribble) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = d.Conn.Write(p[n:min(n+d.piece, len(p))])
		n += m
		time.Sleep(d.pause)
	}
	return n, err
}
