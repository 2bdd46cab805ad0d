// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package upcall_test

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"rpctls/upcall"
	"rpctls/upcall/upcalltest"
)

const bound = 10 * time.Second

func server() upcall.Attributes {
	return upcall.Attributes{Role: upcall.Server, AuthMode: upcall.X509}
}

// reports collects what the listener reports.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

func (r *reports) all() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.errs
}

type running struct {
	*upcall.Listener
	stop func() error
	reports
}

func run(t testing.TB, link *upcall.Link, limit int, handle func(*upcall.Request)) *running {
	t.Helper()
	r := new(running)
	r.Listener = upcall.NewListener(link, upcall.Config{Limit: limit, Report: r.add})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx, handle) }()
	var once sync.Once
	var err error
	r.stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case err = <-done:
			case <-time.After(bound):
				t.Error("Run did not return")
			}
		})
		return err
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

func TestRequestSaysWhatTheKernelSaid(t *testing.T) {
	k, link := upcalltest.New(t)
	sock, _ := upcalltest.SocketPair(t)
	want := upcall.Attributes{
		Role:           upcall.Client,
		AuthMode:       upcall.X509,
		PeerName:       "nfs.example.com",
		Timeout:        3 * time.Second,
		KeyPairs:       []upcall.KeyPair{{Certificate: 11, PrivateKey: -12}, {Certificate: 13}},
		PeerIdentities: []uint32{7, 8},
		Keyring:        99,
	}
	got := make(chan upcall.Attributes, 1)
	var peer, local string
	var left time.Duration
	run(t, link, 4, func(r *upcall.Request) {
		peer, local, left = r.Peer.String(), r.Local.String(), time.Until(r.Deadline)
		got <- r.Attributes
		r.Done(0, 42)
	})
	p := k.Submit(upcalltest.Spec{Attributes: want, Socket: sock})
	if diff := cmp.Diff(upcalltest.Answer{RemoteAuth: []uint32{42}}, k.Wait(p, bound)); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, <-got); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if peer != sock.RemoteAddr().String() || local != sock.LocalAddr().String() {
		t.Errorf("addresses %s and %s", peer, local)
	}
	if left <= time.Second || left > 3*time.Second {
		t.Errorf("%v left of a timeout of 3 s", left)
	}
}

func TestDeadlines(t *testing.T) {
	for _, tt := range []struct {
		name string
		a    upcall.Attributes
		want time.Duration
	}{
		{"server", server(), 4 * time.Second},
		{"client", upcall.Attributes{Role: upcall.Client, AuthMode: upcall.Unauthenticated}, 9 * time.Second},
		{"named by the kernel", upcall.Attributes{Role: upcall.Server, AuthMode: upcall.X509, Timeout: time.Second}, 800 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, link := upcalltest.New(t)
			sock, _ := upcalltest.SocketPair(t)
			got := make(chan time.Duration, 1)
			run(t, link, 1, func(r *upcall.Request) { got <- r.Deadline.Sub(r.Seen); r.Done(0) })
			k.Wait(k.Submit(upcalltest.Spec{Attributes: tt.a, Socket: sock}), bound)
			if d := <-got; d != tt.want {
				t.Errorf("deadline %v after the request was seen, want %v", d, tt.want)
			}
		})
	}
}

// What queued before the listener came is served without a READY, and Ready
// means that.
func TestStartDrainsTheQueue(t *testing.T) {
	k, link := upcalltest.New(t)
	var pending []*upcalltest.Pending
	for range 5 {
		sock, _ := upcalltest.SocketPair(t)
		pending = append(pending, k.Queue(upcalltest.Spec{Attributes: server(), Socket: sock}))
	}
	l := run(t, link, 2, func(r *upcall.Request) { r.Done(unix.EACCES) })
	for _, p := range pending {
		if a := k.Wait(p, bound); a.Status != unix.EACCES {
			t.Errorf("status %v", a.Status)
		}
	}
	select {
	case <-l.Ready():
	case <-time.After(bound):
		t.Fatal("not ready")
	}
	if l.Scheduling() == "" {
		t.Error("scheduling is not named")
	}
}

// One READY may stand for several requests, and several for one.
func TestEveryReadyDrains(t *testing.T) {
	k, link := upcalltest.New(t)
	l := run(t, link, 8, func(r *upcall.Request) { r.Done(0) })
	var pending []*upcalltest.Pending
	for range 3 {
		sock, _ := upcalltest.SocketPair(t)
		pending = append(pending, k.Queue(upcalltest.Spec{Attributes: server(), Socket: sock}))
	}
	k.Announce()
	for _, p := range pending {
		k.Wait(p, bound)
	}
	for range 10 {
		k.Announce()
	}
	sock, _ := upcalltest.SocketPair(t)
	k.Wait(k.Submit(upcalltest.Spec{Attributes: server(), Socket: sock}), bound)
	// Each is counted, whatever it stood for.
	for end := time.Now().Add(bound); l.Stats().Announced != 12; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%+v, want 12 announced", l.Stats())
		}
	}
}

// Every request ends in exactly one DONE; the fake kernel fails the test on a
// second one.
func TestEveryRequestEndsOnce(t *testing.T) {
	tests := []struct {
		name   string
		handle func(*upcall.Request)
		want   unix.Errno
	}{
		{"handler forgets", func(*upcall.Request) {}, unix.EIO},
		{"handler ends it twice", func(r *upcall.Request) {
			r.Done(unix.EACCES)
			if err := r.Done(0); !errors.Is(err, upcall.ErrEnded) {
				t.Errorf("second Done: %v", err)
			}
		}, unix.EACCES},
		{"status beyond the kernel's range", func(r *upcall.Request) { r.Done(unix.Errno(5000)) }, unix.EIO},
		{"hand-over fails", func(r *upcall.Request) {
			boom := errors.New("boom")
			if err := r.HandOver(func(int, upcall.Attributes, time.Duration) error { return boom }); err != boom {
				t.Errorf("HandOver: %v", err)
			}
			r.Done(unix.EOPNOTSUPP)
		}, unix.EOPNOTSUPP},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, link := upcalltest.New(t)
			l := run(t, link, 1, tt.handle)
			sock, _ := upcalltest.SocketPair(t)
			p := k.Submit(upcalltest.Spec{Attributes: server(), Socket: sock})
			if a := k.Wait(p, bound); a.Status != tt.want {
				t.Errorf("status %v, want %v", a.Status, tt.want)
			}
			if err := l.stop(); err != nil {
				t.Fatal(err)
			}
			s := l.Stats()
			if s.Accepted != 1 || s.Ended != 1 || s.InProgress != 0 {
				t.Errorf("stats %+v", s)
			}
		})
	}
}

// A panic in a handler still answers the kernel. That it then reaches the
// handler's own recover is the handler's business.
func TestPanicEndsTheRequest(t *testing.T) {
	k, link := upcalltest.New(t)
	recovered := make(chan any, 1)
	run(t, link, 1, func(r *upcall.Request) {
		defer func() { recovered <- recover() }()
		panic("boom")
	})
	sock, _ := upcalltest.SocketPair(t)
	p := k.Submit(upcalltest.Spec{Attributes: server(), Socket: sock})
	if v := <-recovered; v != "boom" {
		t.Errorf("recovered %v", v)
	}
	if a := k.Wait(p, bound); a.Status != unix.EIO {
		t.Errorf("status %v", a.Status)
	}
}

// A client's request that we fail ourselves is one to try again: any other
// status becomes EACCES for applications.
func TestForgottenClientRequestIsTriedAgain(t *testing.T) {
	k, link := upcalltest.New(t)
	run(t, link, 1, func(*upcall.Request) {})
	sock, _ := upcalltest.SocketPair(t)
	a := upcall.Attributes{Role: upcall.Client, AuthMode: upcall.X509}
	if a := k.Wait(k.Submit(upcalltest.Spec{Attributes: a, Socket: sock}), bound); a.Status != unix.ETIMEDOUT {
		t.Errorf("status %v", a.Status)
	}
}

// Only what is wrong with the listener itself ends it.
func TestRunEndsWhenItsRightsAreGone(t *testing.T) {
	k, link := upcalltest.New(t)
	k.FailAccepts(unix.EPERM)
	sock, _ := upcalltest.SocketPair(t)
	k.Queue(upcalltest.Spec{Attributes: server(), Socket: sock})
	l := upcall.NewListener(link, upcall.Config{Limit: 1})
	if err := l.Run(t.Context(), func(*upcall.Request) {}); !errors.Is(err, unix.EPERM) {
		t.Errorf("Run: %v", err)
	}
}

func TestUnservableRequestsEndAtOnce(t *testing.T) {
	udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tcp, _ := upcalltest.SocketPair(t)
	raw := func(attrs ...netlink.Attribute) []byte {
		b, err := netlink.MarshalAttributes(attrs)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name string
		spec upcalltest.Spec
	}{
		{"pre-shared key", upcalltest.Spec{Attributes: upcall.Attributes{Role: upcall.Server, AuthMode: upcall.PreSharedKey}, Socket: tcp}},
		{"unknown role", upcalltest.Spec{Attributes: upcall.Attributes{Role: 7, AuthMode: upcall.X509}, Socket: tcp}},
		{"no role", upcalltest.Spec{Attributes: upcall.Attributes{AuthMode: upcall.X509}, Socket: tcp}},
		{"unknown authentication", upcalltest.Spec{Attributes: upcall.Attributes{Role: upcall.Server, AuthMode: 9}, Socket: tcp}},
		{"client without a mode", upcalltest.Spec{Attributes: upcall.Attributes{Role: upcall.Client}, Socket: tcp}},
		{"datagram socket", upcalltest.Spec{Attributes: server(), Socket: udp}},
		{"attribute of the wrong size", upcalltest.Spec{Socket: tcp, Raw: raw(netlink.Attribute{Type: 3, Data: []byte{1, 2}})}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, link := upcalltest.New(t)
			l := run(t, link, 2, func(r *upcall.Request) { t.Error("handler was called") })
			if a := k.Wait(k.Submit(tt.spec), bound); a.Status != unix.EOPNOTSUPP {
				t.Errorf("status %v", a.Status)
			}
			l.stop()
			errs := l.all()
			if len(errs) != 1 {
				t.Fatalf("reports: %v", errs)
			}
			if _, ok := errors.AsType[*upcall.RefusedError](errs[0]); !ok {
				t.Errorf("report: %v", errs[0])
			}
		})
	}
}

// At the limit requests wait in the kernel, and none is lost.
func TestLimitLeavesRequestsInTheKernel(t *testing.T) {
	k, link := upcalltest.New(t)
	gate := make(chan struct{})
	entered := make(chan struct{}, 10)
	run(t, link, 2, func(r *upcall.Request) { entered <- struct{}{}; <-gate; r.Done(0) })
	var pending []*upcalltest.Pending
	for range 5 {
		sock, _ := upcalltest.SocketPair(t)
		pending = append(pending, k.Submit(upcalltest.Spec{Attributes: server(), Socket: sock}))
	}
	<-entered
	<-entered
	if n := k.Accepts(); n != 2 {
		t.Errorf("%d requests accepted with a limit of 2", n)
	}
	close(gate)
	for _, p := range pending {
		if a := k.Wait(p, bound); a.Status != 0 {
			t.Errorf("status %v", a.Status)
		}
	}
}

// The kernel's queue goes on behind a request that it could not hand over.
func TestLostRequestsAreReported(t *testing.T) {
	k, link := upcalltest.New(t)
	// The last one is a keyring that an NVMe consumer named: its failure must
	// not end the service for NFS.
	k.FailAccepts(unix.EMFILE, unix.ENFILE, unix.ENOKEY)
	var pending []*upcalltest.Pending
	for range 4 {
		sock, _ := upcalltest.SocketPair(t)
		pending = append(pending, k.Queue(upcalltest.Spec{Attributes: server(), Socket: sock}))
	}
	l := run(t, link, 2, func(r *upcall.Request) { r.Done(0) })
	if a := k.Wait(pending[3], bound); a.Status != 0 {
		t.Errorf("status %v", a.Status)
	}
	l.stop()
	var lost []unix.Errno
	for _, err := range l.all() {
		if _, ok := errors.AsType[*upcall.LostError](err); ok {
			e, _ := errors.AsType[unix.Errno](err)
			lost = append(lost, e)
		}
	}
	if diff := cmp.Diff([]unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOKEY}, lost); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s := l.Stats(); s.Lost != 3 || s.InProgress != 0 {
		t.Errorf("stats %+v", s)
	}
}

// The end of Run finishes what was accepted, and what was queued.
func TestStopFinishesWhatIsInFlight(t *testing.T) {
	k, link := upcalltest.New(t)
	gate, entered := make(chan struct{}), make(chan struct{})
	l := run(t, link, 4, func(r *upcall.Request) { entered <- struct{}{}; <-gate; r.Done(0) })
	sock, _ := upcalltest.SocketPair(t)
	p := k.Submit(upcalltest.Spec{Attributes: server(), Socket: sock})
	<-entered
	stopped := make(chan struct{})
	go func() { l.stop(); close(stopped) }()
	select {
	case <-stopped:
		t.Error("Run returned before its handler")
	case <-time.After(50 * time.Millisecond):
	}
	close(gate)
	<-stopped
	if p.Unanswered() {
		t.Error("request was not answered")
	}
}

// No descriptor stays open, whatever the handler does.
func TestDescriptorsAreClosed(t *testing.T) {
	k, link := upcalltest.New(t)
	sock, _ := upcalltest.SocketPair(t)
	l := run(t, link, 4, func(r *upcall.Request) {
		if err := r.HandOver(func(int, upcall.Attributes, time.Duration) error { return nil }); err != nil {
			t.Error(err)
		}
	})
	<-l.Ready()
	before := descriptors(t)
	for range 20 {
		p := k.Submit(upcalltest.Spec{Attributes: server(), Socket: sock})
		for l.Stats().HandedOver == 0 || l.Stats().InProgress > 0 {
			time.Sleep(time.Millisecond)
		}
		if !p.Unanswered() {
			t.Fatal("a request handed over was answered")
		}
	}
	l.stop()
	if after := descriptors(t); after > before {
		t.Errorf("descriptors grew from %d to %d", before, after)
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	e, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(e)
}

// adopt gives a duplicate of sock to l, as a sibling would.
func adopt(t *testing.T, l *running, sock *net.TCPConn, promise func() error) error {
	t.Helper()
	raw, err := sock.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var dup int
	raw.Control(func(fd uintptr) { dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		t.Fatal(err)
	}
	return l.Adopt(dup, server(), 3*time.Second, promise)
}

func TestAdopt(t *testing.T) {
	k, link := upcalltest.New(t)
	sock, _ := upcalltest.SocketPair(t)
	gate := make(chan struct{})
	l := run(t, link, 1, func(r *upcall.Request) {
		<-gate
		if left := time.Until(r.Deadline); left > 3*time.Second || left < time.Second {
			t.Errorf("%v left", left)
		}
		r.Done(unix.EACCES)
	})
	<-l.Ready()
	k.Queue(upcalltest.Spec{Attributes: server(), Socket: sock})
	p := k.Take()
	boom := errors.New("boom")
	if err := adopt(t, l, sock, func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("broken promise: %v", err)
	}
	if err := adopt(t, l, sock, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := adopt(t, l, sock, func() error { return nil }); !errors.Is(err, upcall.ErrBusy) {
		t.Errorf("at the limit: %v", err)
	}
	close(gate)
	if a := k.Wait(p, bound); a.Status != unix.EACCES {
		t.Errorf("status %v", a.Status)
	}
	l.stop()
	if err := adopt(t, l, sock, func() error { return nil }); !errors.Is(err, upcall.ErrBusy) {
		t.Errorf("after the end: %v", err)
	}
	if s := l.Stats(); s.Adopted != 1 || s.Ended != 1 || s.InProgress != 0 {
		t.Errorf("stats %+v", s)
	}
}

// TestPing: the accepting thread answers when it waits for the kernel and when
// it waits at the limit, and there is no answer without it.
func TestPing(t *testing.T) {
	k, link := upcalltest.New(t)
	hold, held := make(chan struct{}), make(chan struct{}, 2)
	l := run(t, link, 1, func(r *upcall.Request) {
		held <- struct{}{}
		<-hold
		r.Done(0)
	})
	ping := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		defer cancel()
		return l.Ping(ctx)
	}
	<-l.Ready()
	for range 3 {
		if err := ping(); err != nil {
			t.Fatalf("waiting for the kernel: %v", err)
		}
	}
	var waiting []*upcalltest.Pending
	for range 2 {
		_, srv := upcalltest.SocketPair(t)
		waiting = append(waiting, k.Submit(upcalltest.Spec{Attributes: server(), Socket: srv}))
	}
	<-held
	for range 3 {
		if err := ping(); err != nil {
			t.Fatalf("waiting at the limit: %v", err)
		}
	}
	close(hold)
	for _, p := range waiting {
		k.Wait(p, bound)
	}
	if err := l.stop(); err != nil {
		t.Fatal(err)
	}
	if err := ping(); err == nil {
		t.Error("a listener that has ended is alive")
	}
}

// TestNoDescriptors: while none is free nothing is accepted, and nothing lost.
func TestNoDescriptors(t *testing.T) {
	k, link := upcalltest.New(t)
	l := run(t, link, 4, func(r *upcall.Request) { r.Done(0) })
	<-l.Ready()
	_, srv := upcalltest.SocketPair(t)
	var limit, none unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none = limit
	none.Cur = 0 // what is open stays open
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	p := k.Submit(upcalltest.Spec{Attributes: server(), Socket: srv})
	deadline := time.Now().Add(bound)
	for reported := false; !reported && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, err := range l.all() {
			reported = reported || errors.Is(err, upcall.ErrNoDescriptors)
		}
	}
	accepted := k.Accepts()
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if accepted != 0 {
		t.Errorf("%d requests were accepted without a descriptor for them", accepted)
	}
	if a := k.Wait(p, bound); a.Status != 0 {
		t.Errorf("status %v", a.Status)
	}
	if n := len(l.all()); n != 1 {
		t.Errorf("%d reports, want one: %v", n, l.all())
	}
}
