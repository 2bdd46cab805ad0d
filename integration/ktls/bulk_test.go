// SPDX-License-Identifier: BSD-3-Clause

//go:build guest

package ktls_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"testing"
	"time"

	"rpctls/ktls"
)

// bulkPeers are the peers that take and give much, each for one role of ours.
var bulkPeers = []struct {
	name string
	role ktls.Role // ours
	run  func(x *trial, n int64)
}{
	{"openssl s_server", ktls.RoleClient, bulkOpensslServer},
	{"openssl s_client", ktls.RoleServer, bulkOpensslClient},
	{"gnutls-serv", ktls.RoleClient, bulkGnutlsServer},
	{"gnutls-cli", ktls.RoleServer, bulkGnutlsClient},
	{"net/http server", ktls.RoleClient, bulkHTTPServer},
	{"net/http client", ktls.RoleServer, bulkHTTPClient},
}

// TestBulk sends much each way, with every peer, cipher and version, and compares
// sums: 64 MiB each with RPCTLS_KTLS_BULK=64.
func TestBulk(t *testing.T) {
	n, _ := bulkMiB()
	each(t, func(t *testing.T, m mode) {
		for _, p := range bulkPeers {
			t.Run(p.name, func(t *testing.T) {
				eachSuite(t, func(t *testing.T, s suite) { bulk(t, m, p.role, s, n<<20, p.run) })
			})
		}
	})
}

// TestWhole is one connection with as much as all of them have in the long run.
func TestWhole(t *testing.T) {
	if n, set := bulkMiB(); set && n >= 64 {
		return // TestBulk did
	}
	m, p := modes[0], bulkPeers[0]
	bulk(t, m, p.role, suites[0], 64<<20, p.run)
}

func bulk(t *testing.T, m mode, role ktls.Role, s suite, n int64, run func(x *trial, n int64)) {
	audit(t, m, func(a *account) {
		x := newTrial(t, m, role, s, a)
		defer x.finish()
		began := time.Now()
		run(x, n)
		t.Logf("%d MiB each way in %.1f s", n>>20, time.Since(began).Seconds())
	})
}

// A sum reads or writes bytes and adds them up.
type sum struct {
	hash.Hash
	n int64
}

func newSum() *sum { return &sum{Hash: sha256.New()} }

func (s *sum) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return s.Hash.Write(p)
}

// source returns n bytes, whose sum is in the sum when they have been read.
func source(n int64) (io.Reader, *sum) {
	s := newSum()
	return io.TeeReader(io.LimitReader(newRandom(), n), s), s
}

// equal compares what was sent with what came.
func equal(what string, sent, got *sum) error {
	switch {
	case sent.n != got.n:
		return fmt.Errorf("%s: %d bytes came of %d", what, got.n, sent.n)
	case !bytes.Equal(sent.Sum(nil), got.Sum(nil)):
		return fmt.Errorf("%s: what came is not what was sent", what)
	}
	return nil
}

const chunk = 64 << 10

// pour copies by plain writes.
func pour(w io.Writer, r io.Reader) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, chunk))
	return err
}

// both sends up to and from a program at once. The program's part is n bytes to
// us, and down bytes from us.
func (x *trial) both(ours *ktls.Conn, p *program, up, down int64) {
	x.Helper()
	fromProgram, sentUp := source(up)
	toProgram, sentDown := source(down)
	gotUp, gotDown := newSum(), newSum()
	waits := []func() error{
		x.doFor(func() error { return pour(p.in, fromProgram) }),
		x.doFor(func() error { return pour(gotUp, io.LimitReader(ours, up)) }),
		x.doFor(func() error { return pour(ours, toProgram) }),
		x.doFor(func() error { return pour(gotDown, io.LimitReader(p.out, down)) }),
	}
	var errs []error
	for _, wait := range waits {
		errs = append(errs, wait())
	}
	x.must(errors.Join(append(errs, equal("up", sentUp, gotUp), equal("down", sentDown, gotDown))...))
	x.must(ours.Close())
}

// doFor is do for what takes its time.
func (x *trial) doFor(f func() error) func() error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	return func() error {
		timer := time.NewTimer(bulkLimit())
		defer timer.Stop()
		select {
		case err := <-done:
			return err
		case <-timer.C:
			return errors.New("it hangs")
		}
	}
}

func bulkOpensslServer(x *trial, n int64) {
	port := x.freePort()
	p := x.start(x.opensslServer(port, "-quiet", "-naccept", "1"))
	x.listening(port)
	x.both(x.dial(port), p, n, n)
}

func bulkOpensslClient(x *trial, n int64) {
	port, accept := x.listen()
	p := x.start(x.opensslClient(port, "-quiet", "-nocommands"))
	x.both(accept(), p, n, n)
}

// gnutls-serv sends back what it gets, line by line.
func bulkGnutlsServer(x *trial, n int64) {
	port := x.freePort()
	x.start(x.gnutlsServer(port, "--echo", "--quiet"), quietly)
	x.listening(port)
	ours := x.dial(port)
	sent, got := newSum(), newSum()
	send := x.doFor(func() error {
		return pour(ours, io.TeeReader(io.LimitReader(&lines{r: newRandom()}, n), sent))
	})
	x.must(pour(got, io.LimitReader(ours, n)))
	x.must(send())
	x.must(equal("there and back", sent, got))
	x.must(ours.Close())
}

// lines makes text of bytes, with an end of line at each 64th.
type lines struct {
	r io.Reader
	n int
}

func (l *lines) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	for i := range p[:n] {
		p[i] = 'A' + p[i]&31
		if l.n++; l.n%64 == 0 {
			p[i] = '\n'
		}
	}
	return n, err
}

// gnutls-cli prints byte by byte, with a system call for each: it gets a part only,
// unless somebody has the time.
func bulkGnutlsClient(x *trial, n int64) {
	port, accept := x.listen()
	p := x.start(x.gnutlsClient(port, "--logfile=/dev/null"))
	down := n
	if _, set := bulkMiB(); !set {
		down = n / 16
	}
	x.both(accept(), p, n, down)
}

// httpBulk is what the handler answers: as much as it was given, and its sum.
func httpBulk(w http.ResponseWriter, r *http.Request) {
	got := newSum()
	if err := pour(got, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Got", fmt.Sprintf("%d %x", got.n, got.Sum(nil)))
	back, sent := source(got.n)
	w.Header().Set("Trailer", "Sent")
	_ = pour(w, back)
	w.Header().Set("Sent", fmt.Sprintf("%d %x", sent.n, sent.Sum(nil)))
}

// post sends n bytes to httpBulk and compares.
func (x *trial) post(c *http.Client, url string, n int64) {
	x.Helper()
	body, sent := source(n)
	r, err := http.NewRequest(http.MethodPost, url, io.NopCloser(body))
	x.must(err)
	r.ContentLength = n
	answer, err := c.Do(r)
	x.must(err)
	defer answer.Body.Close()
	got := newSum()
	x.must(pour(got, answer.Body))
	if want := fmt.Sprintf("%d %x", sent.n, sent.Sum(nil)); answer.Header.Get("Got") != want || sent.n != n {
		x.Errorf("sent %s, and the server got %q (%s)", want, answer.Header.Get("Got"), answer.Status)
	}
	if have := fmt.Sprintf("%d %x", got.n, got.Sum(nil)); answer.Trailer.Get("Sent") != have || got.n != n {
		x.Errorf("got %s, and the server sent %q", have, answer.Trailer.Get("Sent"))
	}
}
