// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netns_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"rpctls/internal/netns"
	"rpctls/internal/netns/netnstest"
)

func patterns(t testing.TB, texts ...string) (list []netns.Pattern) {
	t.Helper()
	for _, s := range texts {
		p, err := netns.ParsePattern(s)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

func names(list []netns.Found) (all [][]string) {
	for _, f := range list {
		all = append(all, f.Paths)
	}
	return all
}

// What is in a directory of names, and what else may be there.
func TestList(t *testing.T) {
	dir := t.TempDir()
	blue, red, twin, own := filepath.Join(dir, "blue"), filepath.Join(dir, "red"), filepath.Join(dir, "azure"), filepath.Join(dir, "own")
	netnstest.Make(t, blue)
	netnstest.Make(t, red)
	for path, of := range map[string]string{twin: blue, own: "/proc/thread-self/ns/net", filepath.Join(dir, "uts"): "/proc/thread-self/ns/uts"} {
		if err := netnstest.Name(path, of); err != nil {
			t.Fatal(err)
		}
		defer netnstest.Remove(t, path)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/nowhere", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		patterns []string
		want     [][]string
	}{
		{[]string{"host", dir + "/*"}, [][]string{{twin, blue}, {red}}},
		{[]string{dir + "/blue", dir + "/*"}, [][]string{{blue, twin}, {red}}},
		{[]string{dir + "/r*"}, [][]string{{red}}},
		{[]string{"host"}, nil},
		{[]string{dir + "/none", dir + "/none/*", dir + "/own", dir + "/file", dir + "/fifo", dir + "/uts"}, nil},
	} {
		got, err := netns.List(patterns(t, tt.patterns...))
		if err != nil || !slices.EqualFunc(names(got), tt.want, slices.Equal) {
			t.Errorf("%v: %v, %v, want %v", tt.patterns, names(got), err, tt.want)
		}
	}
	if list, err := netns.List(patterns(t, dir+"/file/*", dir+"/red")); err == nil || len(list) != 1 {
		t.Errorf("a file for a directory: %v, %v", names(list), err)
	}
}

func only(t *testing.T, path string) netns.Found {
	t.Helper()
	list, err := netns.List(patterns(t, path))
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: %v, %v", path, list, err)
	}
	return list[0]
}

// Sockets that are made inside stay inside, and what ran there leaves no thread.
func TestDo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blue")
	netnstest.Make(t, path)
	n, err := netns.Open(only(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	ours, err := netns.Own()
	if err != nil {
		t.Fatal(err)
	}
	if n.Cookie() == ours || n.Cookie() == 0 || n.String() != path {
		t.Errorf("%v has cookie %d, this one %d", n, n.Cookie(), ours)
	}
	var l net.Listener
	if err := n.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := net.Dial("tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("the socket is in this namespace")
	}
	if err := n.Do(func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	wrong := errors.New("wrong")
	if err := n.Do(func() error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("got %v", err)
	}
	if err := n.Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("it ended, and there was no error")
	}
	// Whatever thread it is, it is where it was, and the first one above all.
	for range 50 {
		if cookie, err := netns.Own(); err != nil || cookie != ours {
			t.Fatalf("a thread stayed inside: %d, %v", cookie, err)
		}
		if err := n.Do(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("on the first thread")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	n.Close()
	if err := n.Do(func() error { return nil }); !errors.Is(err, netns.ErrGone) {
		t.Errorf("after Close: %v", err)
	}
}

// A name that is another's by now is not opened for the one that was found.
func TestOpenAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blue")
	netnstest.Make(t, path)
	f := only(t, path)
	held, err := netns.Open(f) // so that the number is not used again
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	netnstest.Remove(t, path)
	if n, err := netns.Open(f); err == nil {
		n.Close()
		t.Error("what has no name was opened")
	}
	netnstest.Make(t, path)
	if n, err := netns.Open(f); !errors.Is(err, netns.ErrGone) {
		t.Errorf("opened %v, %v", n, err)
	}
}

// A namespace ends when its name is gone and nobody holds it: what Open and Do
// leave behind would keep it.
func TestNothingHolds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blue")
	before := descriptors(t)
	netnstest.Make(t, path)
	n, err := netns.Open(only(t, path))
	if err != nil {
		t.Fatal(err)
	}
	var watch int
	if err := n.Do(func() (err error) {
		watch, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	netnstest.Remove(t, path)
	n.Close()
	unix.Close(watch)
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestSet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blue")
	netnstest.Make(t, path)
	n, err := netns.Open(only(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	s, err := netns.NewSet()
	if err != nil {
		t.Fatal(err)
	}
	ours, err := netns.Own()
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []uint64{0, ours} {
		if got, err := s.Find(own); got != nil || err != nil || s.Name(own) != "" || s.Key(own) != 0 {
			t.Errorf("own %d: %v, %v", own, got, err)
		}
	}
	if got, err := s.Find(n.Cookie()); got != nil || !errors.Is(err, netns.ErrGone) {
		t.Errorf("not there yet: %v, %v", got, err)
	}
	if err := s.Do(n.Cookie(), func() error { return nil }); !errors.Is(err, netns.ErrGone) {
		t.Errorf("not there yet: %v", err)
	}
	s.Add(n)
	if got, err := s.Find(n.Cookie()); got != n || err != nil || s.Name(n.Cookie()) != path || s.Key(n.Cookie()) != n.Cookie() {
		t.Errorf("got %v, %v", got, err)
	}
	for cookie, want := range map[uint64]uint64{0: ours, ours: ours, n.Cookie(): n.Cookie()} {
		var in uint64
		if err := s.Do(cookie, func() (err error) { in, err = netns.Own(); return err }); err != nil || in != want {
			t.Errorf("in %d for %d: %v", in, cookie, err)
		}
	}
	if list := s.Others(); len(list) != 1 || list[0] != n {
		t.Errorf("others: %v", list)
	}
	s.Remove(n)
	if len(s.Others()) != 0 {
		t.Error("it is still there")
	}
	var none *netns.Set
	if got, err := none.Find(n.Cookie()); got != nil || err != nil || none.Key(n.Cookie()) != 0 {
		t.Error("a nil Set tells namespaces apart")
	}
}

// Without the right, which goes for every thread, a thread still takes it to
// enter. This is the last test: nobody gives it back.
func TestZRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "blue")
	netnstest.Make(t, path)
	if err := netns.CanEnter(); err != nil {
		t.Fatal(err)
	}
	// Some threads that are there already.
	hold, held := make(chan struct{}), make(chan struct{})
	for range 4 {
		go func() { runtime.LockOSThread(); held <- struct{}{}; <-hold }()
	}
	for range 4 {
		<-held
	}
	before := rights(t)
	if err := netns.Rest(); errors.Is(err, unix.ENOTSUP) {
		t.Skip("a test binary with cgo cannot: CGO_ENABLED=0 go test ./internal/netns")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restore(before); err != nil {
			t.Fatal(err)
		}
	})
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) < 5 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	for _, task := range tasks {
		c, err := of(filepath.Base(task))
		if err == nil && c[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0 {
			t.Errorf("thread %s still has it", task)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWUTS); !errors.Is(err, unix.EPERM) {
		t.Errorf("unshare without the right: %v", err)
	}
	if err := netns.CanEnter(); err != nil {
		t.Error(err)
	}
	n, err := netns.Open(only(t, path))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Do(func() error {
		c, err := of("0")
		if err == nil && c[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0 {
			err = errors.New("inside it still has the right")
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	close(hold)
}
