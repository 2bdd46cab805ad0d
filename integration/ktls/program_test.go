// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"rpctls/integration/guest"
	"rpctls/ktls"
)

// A program is a peer that runs beside the test and passes on, between its
// connection and its standard input and output.
type program struct {
	cmd  *exec.Cmd
	in   *os.File // what the peer is to send
	out  *os.File // what it got; nil if it goes to said
	said lockedBuffer
}

// A lockedBuffer is what a program says.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.b.Len() < 1<<20 { // the beginning is what tells
		b.b.Write(p)
	}
	return len(p), nil
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A programOption changes how a program is started.
type programOption func(*program)

// quietly drops what the program prints about itself, which may be all the data.
func quietly(p *program) { p.cmd.Stderr = nil }

// speaking has what the program prints, and not what it got alone, kept for wait.
func speaking(p *program) { p.cmd.Stdout = &p.said }

// start starts a program; it is gone at the end of the trial.
func (x *trial) start(argv []string, opts ...programOption) *program {
	x.Helper()
	p := &program{cmd: exec.Command(argv[0], argv[1:]...)}
	p.cmd.Stderr = &p.said
	for _, o := range opts {
		o(p)
	}
	stdin, in, err := os.Pipe()
	x.must(err)
	defer stdin.Close()
	p.cmd.Stdin, p.in = stdin, in
	if p.cmd.Stdout == nil {
		out, stdout, err := os.Pipe()
		x.must(err)
		defer stdout.Close()
		p.cmd.Stdout, p.out = stdout, out
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	x.must(p.cmd.Start())
	x.later(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
		p.in.Close()
		if p.out != nil {
			p.out.Close()
		}
		if x.Failed() {
			text := p.said.String()
			x.Logf("%s said:\n%s", strings.Join(argv, " "), text[max(0, len(text)-4000):])
		}
	})
	return p
}

// line has the program read one line, by itself: a program that takes commands
// looks for them where a read begins.
func (p *program) line(x *trial, text string) {
	x.Helper()
	_, err := p.in.WriteString(text + "\n")
	x.must(err)
	guest.Poll(x.T, limit, "the program's reading of "+text, func() error {
		n, err := unix.IoctlGetInt(int(p.in.Fd()), unix.TIOCINQ)
		if err == nil && n > 0 {
			err = fmt.Errorf("%d bytes are not read", n)
		}
		return err
	})
}

// says waits until the program has printed something.
func (p *program) says(x *trial, text string) {
	x.Helper()
	guest.Poll(x.T, limit, "the program's words", func() error {
		if !strings.Contains(p.said.String(), text) {
			return fmt.Errorf("%q is not among them", text)
		}
		return nil
	})
}

// freePort returns a port that nobody listens on.
func (x *trial) freePort() string {
	x.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// listening waits until somebody listens on a port, without connecting to it: the
// program may take one connection only.
func (x *trial) listening(port string) {
	x.Helper()
	n, err := strconv.Atoi(port)
	x.must(err)
	want := fmt.Sprintf(":%04X", n)
	guest.Poll(x.T, limit, "a listener on port "+port, func() error {
		for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			text, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if f := strings.Fields(line); len(f) > 3 && strings.HasSuffix(f[1], want) && f[3] == "0A" {
					return nil
				}
			}
		}
		return errors.New("nobody listens")
	})
}

// dial connects our end, a client, to a program.
func (x *trial) dial(port string) *ktls.Conn {
	x.Helper()
	ctx, cancel := within()
	defer cancel()
	d := &ktls.Dialer{Config: x.ours, Options: x.mode.options(x.options...)}
	c, err := d.DialContext(ctx, "tcp4", "127.0.0.1:"+port)
	x.must(err)
	return x.begin(c)
}

// begin makes the handshake of our end.
func (x *trial) begin(c net.Conn) *ktls.Conn {
	x.Helper()
	ours := c.(*ktls.Conn)
	x.later(func() { ours.Close() })
	x.must(ours.SetDeadline(time.Now().Add(bulkLimit())))
	x.must(ours.Handshake())
	x.account.check(x.T, ours)
	return ours
}

// listen makes a listener for our end, a server. What it returns accepts one
// connection.
func (x *trial) listen() (port string, accept func() *ktls.Conn) {
	x.Helper()
	inner, err := net.Listen("tcp4", "127.0.0.1:0")
	x.must(err)
	l := ktls.NewListener(inner, x.ours, x.mode.options(x.options...)...)
	x.later(func() { l.Close() })
	_, port, err = net.SplitHostPort(l.Addr().String())
	x.must(err)
	return port, func() *ktls.Conn {
		x.Helper()
		x.must(inner.(*net.TCPListener).SetDeadline(time.Now().Add(limit)))
		c, err := l.Accept()
		x.must(err)
		return x.begin(c)
	}
}

// opensslFlags choose a suite.
func opensslFlags(s suite) []string {
	if s.version == tls.VersionTLS12 {
		return []string{"-tls1_2", "-cipher", s.openssl}
	}
	return []string{"-tls1_3", "-ciphersuites", s.openssl}
}

func (x *trial) opensslServer(port string, more ...string) []string {
	id := theIdentity(x.T)
	argv := []string{"openssl", "s_server", "-accept", "127.0.0.1:" + port, "-cert", id.file("cert.pem"), "-key", id.file("key.pem")}
	return append(append(argv, opensslFlags(x.suite)...), more...)
}

func (x *trial) opensslClient(port string, more ...string) []string {
	argv := []string{"openssl", "s_client", "-connect", "127.0.0.1:" + port, "-servername", serverName,
		"-CAfile", theIdentity(x.T).file("ca.pem"), "-verify_return_error"}
	return append(append(argv, opensslFlags(x.suite)...), more...)
}

// gnutlsPriority chooses a suite.
func gnutlsPriority(s suite) string {
	version := "1.3"
	if s.version == tls.VersionTLS12 {
		version = "1.2"
	}
	return "--priority=NORMAL:-VERS-ALL:+VERS-TLS" + version + ":-CIPHER-ALL:+" + s.gnutls
}

func (x *trial) gnutlsServer(port string, more ...string) []string {
	id := theIdentity(x.T)
	argv := []string{"gnutls-serv", "--port=" + port, "--x509certfile=" + id.file("cert.pem"), "--x509keyfile=" + id.file("key.pem"),
		"--timeout=" + strconv.Itoa(int(bulkLimit().Seconds())), gnutlsPriority(x.suite)}
	return append(argv, more...)
}

func (x *trial) gnutlsClient(port string, more ...string) []string {
	argv := []string{"gnutls-cli", "--port=" + port, "--x509cafile=" + theIdentity(x.T).file("ca.pem"), "--sni-hostname=" + serverName,
		"--verify-hostname=" + serverName, gnutlsPriority(x.suite)}
	return append(append(argv, more...), "127.0.0.1")
}

// bulkMiB is how much goes each way where it is about much: RPCTLS_KTLS_BULK, or
// what a suite that is paid by the minute can afford.
func bulkMiB() (n int64, set bool) {
	n, err := strconv.ParseInt(os.Getenv("RPCTLS_KTLS_BULK"), 10, 16)
	if err != nil || n <= 0 {
		return 1, false
	}
	return n, true
}

// bulkLimit is how long a case about bulk may take.
func bulkLimit() time.Duration {
	n, _ := bulkMiB()
	return limit + time.Duration(n)*20*time.Second
}
