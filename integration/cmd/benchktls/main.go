// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/bench"
	"rpctls/ktls"
)

type options struct {
	system  bench.System
	source  string
	mib     int
	receive string // the address, in the receiver
}

func main() {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err == nil {
		// Ample for a translated guest on a busy machine.
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if o.receive != "" {
			err = o.receiver(ctx, os.Stdin)
		} else {
			err = o.sender(ctx, os.Stdout)
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "benchktls: %v\n", err)
		os.Exit(1)
	}
}

// Sources of what is sent.
const (
	memory = "memory"
	file   = "file"
)

func parse(args []string, stderr io.Writer) (*options, error) {
	o := new(options)
	flags := flag.NewFlagSet("benchktls", flag.ContinueOnError)
	flags.SetOutput(stderr)
	system := flags.String("system", string(bench.KernelTLS), "`library`: crypto/tls, ktls, or sendfile, which is ktls with sendfile(2)")
	flags.StringVar(&o.source, "source", memory, "`what` is sent: memory or file")
	flags.IntVar(&o.mib, "mib", 16, "how `much` is sent, in MiB")
	flags.StringVar(&o.receive, "receive", "", "be the receiver, which connects to this `address`; its certificate is read from standard input")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.system = bench.System(*system)
	switch {
	case flags.NArg() != 0:
		return nil, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case !slices.Contains(bench.Libraries(), o.system):
		return nil, fmt.Errorf("-system %q is none of %q", o.system, bench.Libraries())
	case o.source != memory && o.source != file:
		return nil, fmt.Errorf("-source %q is neither memory nor file", o.source)
	case o.system == bench.Sendfile && o.source != file:
		return nil, errors.New("-system sendfile takes -source file")
	case o.mib < 1 || o.mib > 4096:
		return nil, errors.New("-mib: want 1 to 4096")
	}
	return o, nil
}

// block is what a program reads and writes at once.
const block = 256 << 10

// warm is sent before the time is taken, and its sum comes back.
const warm = 1 << 20

// receiver receives, and says what it cost.
func (o *options) receiver(ctx context.Context, certificate io.Reader) error {
	der, err := io.ReadAll(io.LimitReader(certificate, 1<<16))
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", o.receive)
	if err != nil {
		return err
	}
	defer raw.Close()
	config := &tls.Config{RootCAs: pool, ServerName: name, MinVersion: tls.VersionTLS13}
	conn, err := o.wrap(ctx, raw, config, false)
	if err != nil {
		return err
	}
	buf := make([]byte, block)
	sum := sha256.New()
	if _, err := io.CopyBuffer(sum, struct{ io.Reader }{io.LimitReader(conn, warm)}, buf); err != nil {
		return err
	}
	if _, err := conn.Write(sum.Sum(nil)); err != nil {
		return err
	}
	before, err := used()
	if err != nil {
		return err
	}
	for left := o.mib << 20; left > 0; {
		n, err := conn.Read(buf[:min(left, len(buf))])
		if left -= n; err != nil && left > 0 {
			return err
		}
	}
	after, err := used()
	if err != nil {
		return err
	}
	if err := binary.Write(conn, binary.BigEndian, int64(after-before)); err != nil {
		return err
	}
	return conn.Close()
}

// sender sends, and measures.
func (o *options) sender(ctx context.Context, stdout io.Writer) error {
	cert, err := certificate()
	if err != nil {
		return err
	}
	// The kernel's TLS is for TCP; Go listens with MPTCP where it can.
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	context.AfterFunc(ctx, func() { l.Close() })
	self, err := os.Executable()
	if err != nil {
		return err
	}
	receiver := exec.CommandContext(ctx, self, "-receive", l.Addr().String(), "-system", string(o.system), "-source", o.source, "-mib", fmt.Sprint(o.mib))
	receiver.Stdin, receiver.Stderr = bytes.NewReader(cert.Certificate[0]), os.Stderr
	if err := receiver.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		err := receiver.Wait()
		l.Close() // nobody comes any more, if nobody came
		ended <- err
	}()
	x, err := o.send(ctx, l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	if err != nil {
		_ = receiver.Process.Kill()
		return errors.Join(err, <-ended)
	}
	if err := <-ended; err != nil {
		return fmt.Errorf("receiver: %w", err)
	}
	return json.NewEncoder(stdout).Encode(x)
}

func (o *options) send(ctx context.Context, l net.Listener, config *tls.Config) (*bench.Transfer, error) {
	raw, err := l.Accept()
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	conn, err := o.wrap(ctx, raw, config, true)
	if err != nil {
		return nil, err
	}
	transmit, err := o.prepare()
	if err != nil {
		return nil, err
	}
	first := make([]byte, warm)
	if _, err := rand.Read(first); err != nil {
		return nil, err
	}
	if _, err := conn.Write(first); err != nil {
		return nil, err
	}
	var confirmed [sha256.Size]byte
	if _, err := io.ReadFull(conn, confirmed[:]); err != nil {
		return nil, err
	}
	if confirmed != sha256.Sum256(first) {
		return nil, errors.New("what arrives is not what was sent")
	}
	mine, err := used()
	if err != nil {
		return nil, err
	}
	busy, err := watch()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := transmit(conn); err != nil {
		return nil, err
	}
	var theirs int64
	if err := binary.Read(conn, binary.BigEndian, &theirs); err != nil {
		return nil, err
	}
	x := &bench.Transfer{MiB: o.mib, Elapsed: time.Since(began).Seconds()}
	x.Cipher = tls.CipherSuiteName(conn.ConnectionState().CipherSuite)
	if x.GuestCPU, err = busy(); err != nil {
		return nil, err
	}
	crypto, err := os.ReadFile("/proc/crypto")
	if err != nil {
		return nil, err
	}
	x.Driver = bench.GCMDriver(string(crypto))
	now, err := used()
	if err != nil {
		return nil, err
	}
	x.ProcessCPU = (now - mine + time.Duration(theirs)).Seconds()
	return x, nil
}

// A conn is what both libraries have.
type conn interface {
	net.Conn
	HandshakeContext(context.Context) error
	ConnectionState() tls.ConnectionState
}

// wrap makes the handshake with the library that is measured.
func (o *options) wrap(ctx context.Context, raw net.Conn, config *tls.Config, server bool) (c conn, err error) {
	switch {
	case o.system == bench.UserTLS && server:
		c = tls.Server(raw, config)
	case o.system == bench.UserTLS:
		c = tls.Client(raw, config)
	case server:
		c = ktls.Server(raw, config, ktls.RequireOffload())
	default:
		c = ktls.Client(raw, config, ktls.RequireOffload())
	}
	return c, c.HandshakeContext(ctx)
}

// prepare makes what is to be sent, and returns what sends it.
func (o *options) prepare() (func(conn) error, error) {
	buf := make([]byte, block)
	if _, err := rand.Read(buf); err != nil {
		return nil, err
	}
	if o.source == memory {
		return func(c conn) error {
			for left := o.mib << 20; left > 0; {
				n, err := c.Write(buf[:min(left, len(buf))])
				if err != nil {
					return err
				}
				left -= n
			}
			return nil
		}, nil
	}
	fd, err := unix.MemfdCreate("benchktls", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "memfd") // lives as long as this process
	for left := o.mib << 20; left > 0; left -= block {
		if _, err := f.Write(buf[:min(left, len(buf))]); err != nil {
			return nil, err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return func(c conn) error {
		var n int64
		var err error
		if o.system == bench.Sendfile {
			n, err = c.(io.ReaderFrom).ReadFrom(f)
		} else {
			// Without the ways around the buffer that either side has.
			n, err = io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{f}, buf)
		}
		if err == nil && n != int64(o.mib)<<20 {
			err = fmt.Errorf("sent %d bytes of %d MiB", n, o.mib)
		}
		return err
	}, nil
}

// used returns how much processor time has been charged to this process.
func used() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, os.NewSyscallError("getrusage", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// watch returns what returns how many seconds this machine's processors were
// busy in between: what there was of them, less what they were idle.
func watch() (func() (float64, error), error) {
	began := time.Now()
	before, _, err := idle()
	return func() (float64, error) {
		after, processors, err := idle()
		return max(0, time.Since(began).Seconds()*float64(processors)-(after-before)), err
	}, err
}

func idle() (float64, int, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	return bench.Idle(string(text))
}

// name is the server's.
const name = "benchktls.test"

// certificate makes one that vouches for itself.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	now := time.Now()
	template := &x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), DNSNames: []string{name}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
