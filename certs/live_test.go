// SPDX-License-Identifier: BSD-3-Clause

package certs_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rpctls/certs"
	"rpctls/certs/certstest"

	"github.com/google/go-cmp/cmp"
)

// text builds a value from one file, which must not say "bad".
func text(path string) func(*certs.Files) (*string, error) {
	return func(f *certs.Files) (*string, error) {
		data, err := f.Read(path)
		if err != nil {
			return nil, err
		}
		s := string(data)
		if s == "bad" {
			return nil, errors.New("content is bad")
		}
		return &s, nil
	}
}

type state struct {
	Value      string
	Generation uint64
	Failed     bool
}

func stateOf(l *certs.Live[string]) state {
	return state{*l.Get(), l.Generation(), l.Err() != nil}
}

func wantState(t *testing.T, l *certs.Live[string], want state) {
	t.Helper()
	if diff := cmp.Diff(want, stateOf(l)); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
}

func TestLive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	_, err := certs.NewLive(text(path))
	wantErr(t, err, path, "no such file")
	_, err = certs.NewLive(func(*certs.Files) (*string, error) { return nil, nil })
	wantErr(t, err, "neither a value nor an error")

	put(t, path, []byte("one"), 0o644)
	l, err := certs.NewLive(text(path))
	must(t, err)
	wantState(t, l, state{"one", 1, false})

	put(t, path, []byte("bad"), 0o644)
	wantErr(t, l.Reload(), "content is bad")
	wantState(t, l, state{"one", 1, true})

	put(t, path, []byte("two"), 0o644)
	must(t, l.Reload())
	wantState(t, l, state{"two", 2, false})

	missing := filepath.Join(t.TempDir(), "missing")
	wantErr(t, l.Replace(text(missing)), missing)
	wantState(t, l, state{"two", 2, false})
	put(t, path, []byte("three"), 0o644)
	must(t, l.Reload()) // still with the former build
	wantState(t, l, state{"three", 3, false})

	put(t, missing, []byte("new configuration"), 0o644)
	must(t, l.Replace(text(missing)))
	wantState(t, l, state{"new configuration", 4, false})
	must(t, l.Reload())
	wantState(t, l, state{"new configuration", 5, false})
}

// watch runs Watch in a bubble; tick lets one interval pass and returns what
// was reported meanwhile, "ok" for a success.
func watch[T any](t *testing.T, l *certs.Live[T]) (tick func() []string) {
	ctx, cancel := context.WithCancel(t.Context())
	var reports []string
	done := make(chan error, 1)
	const every = 5 * time.Second
	go func() {
		done <- l.Watch(ctx, every, func(err error) {
			if err == nil {
				reports = append(reports, "ok")
				return
			}
			reports = append(reports, err.Error())
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch ended with %v, want nil", err)
		}
	})
	time.Sleep(every / 2) // in the middle between two looks
	return func() []string {
		time.Sleep(every)
		synctest.Wait()
		got := reports
		reports = nil
		return got
	}
}

func TestWatch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	put(t, path, []byte("one"), 0o644)
	synctest.Test(t, func(t *testing.T) {
		l, err := certs.NewLive(text(path))
		must(t, err)
		tick := watch(t, l)
		steps := []struct {
			name   string
			change func()
			report []string
			want   state
		}{
			{"nothing", func() {}, nil, state{"one", 1, false}},
			{"changed", func() { put(t, path, []byte("two"), 0o644) }, []string{"ok"}, state{"two", 2, false}},
			{"nothing again", func() {}, nil, state{"two", 2, false}},
			{"removed", func() { must(t, os.Remove(path)) }, []string{"open " + path + ": no such file or directory"}, state{"two", 2, true}},
			{"still removed", func() {}, nil, state{"two", 2, true}},
			{"bad", func() { put(t, path, []byte("bad"), 0o644) }, []string{"content is bad"}, state{"two", 2, true}},
			{"replaced by one as bad", func() { put(t, path, []byte("bad"), 0o644) }, nil, state{"two", 2, true}},
			{"mended", func() { put(t, path, []byte("three"), 0o644) }, []string{"ok"}, state{"three", 3, false}},
			{"bad as before", func() { put(t, path, []byte("bad"), 0o644) }, []string{"content is bad"}, state{"three", 3, true}},
			{"back to what is in use", func() { put(t, path, []byte("three"), 0o644) }, []string{"ok"}, state{"three", 4, false}},
		}
		for _, step := range steps {
			step.change()
			if diff := cmp.Diff(step.report, tick()); diff != "" {
				t.Errorf("%s: reports (-want +got):\n%s", step.name, diff)
			}
			if diff := cmp.Diff(step.want, stateOf(l)); diff != "" {
				t.Errorf("%s: state (-want +got):\n%s", step.name, diff)
			}
		}
	})
}

// The file at fault may be one that no good build ever consulted.
func TestWatchFollowsAFailedBuild(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	put(t, first, []byte("plain"), 0o644)
	synctest.Test(t, func(t *testing.T) {
		builds := 0
		l, err := certs.NewLive(func(f *certs.Files) (*string, error) {
			builds++
			s, err := text(first)(f)
			if err == nil && *s == "see second" {
				return text(second)(f)
			}
			return s, err
		})
		must(t, err)
		tick := watch(t, l)
		put(t, first, []byte("see second"), 0o644)
		if diff := cmp.Diff([]string{"open " + second + ": no such file or directory"}, tick()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		tick()
		if builds != 2 {
			t.Errorf("%d builds, want none as long as nothing changes", builds)
		}
		put(t, second, []byte("here"), 0o644)
		if diff := cmp.Diff([]string{"ok"}, tick()); diff != "" {
			t.Errorf("reports (-want +got):\n%s", diff)
		}
		wantState(t, l, state{"here", 2, false})
	})
}

// Certificate and key are two files, and every tool replaces one after the
// other. Whichever is first, what is served is the old pair, then the new one.
func TestWatchRotation(t *testing.T) {
	ca := certstest.MustCA(t, certstest.CAOptions{})
	for _, order := range [][]string{{"cert.pem", "key.pem"}, {"key.pem", "cert.pem"}} {
		t.Run(order[0]+" first", func(t *testing.T) {
			dir := t.TempDir()
			cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
			before := ca.MustIssue(t, certstest.Options{CommonName: "before"})
			before.MustWriteFiles(t, dir)
			synctest.Test(t, func(t *testing.T) {
				l, err := certs.NewLive(func(f *certs.Files) (*certs.Identity, error) { return certs.LoadIdentity(f, cert, key) })
				must(t, err)
				tick := watch(t, l)
				after := ca.MustIssue(t, certstest.Options{CommonName: "after"})
				data := map[string][]byte{"cert.pem": after.CertPEM(), "key.pem": after.MustKeyPEM(t, certstest.PKCS8)}
				put(t, filepath.Join(dir, order[0]), data[order[0]], 0o600)
				if got := tick(); len(got) != 1 {
					t.Errorf("reports %q, want one of the mismatch", got)
				}
				if !errors.Is(l.Err(), certs.ErrKeyMismatch) {
					t.Errorf("failure %v, want a mismatch", l.Err())
				}
				if got := l.Get().Subject(); got != "CN=before" {
					t.Errorf("half-way %s is served, want the old pair", got)
				}
				put(t, filepath.Join(dir, order[1]), data[order[1]], 0o600)
				if diff := cmp.Diff([]string{"ok"}, tick()); diff != "" {
					t.Errorf("reports (-want +got):\n%s", diff)
				}
				if got := l.Get().Subject(); got != "CN=after" || l.Err() != nil {
					t.Errorf("in the end %s is served with failure %v, want the new pair", got, l.Err())
				}
			})
		})
	}
}

// A change that falls between the reads of one build is noticed afterwards.
func TestWatchNoticesChangesDuringTheBuild(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	put(t, path, []byte("one"), 0o644)
	synctest.Test(t, func(t *testing.T) {
		first := true
		l, err := certs.NewLive(func(f *certs.Files) (*string, error) {
			s, err := text(path)(f)
			if first {
				put(t, path, []byte("two"), 0o644)
			}
			first = false
			return s, err
		})
		must(t, err)
		tick := watch(t, l)
		wantState(t, l, state{"one", 1, false})
		tick()
		wantState(t, l, state{"two", 2, false})
	})
}

// For the race detector; a reader never sees a generation go back.
func TestLiveIsReadWhileItReloads(t *testing.T) {
	path := put(t, filepath.Join(t.TempDir(), "file"), []byte("x"), 0o644)
	l, err := certs.NewLive(text(path))
	must(t, err)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var last uint64
			for range 200 {
				now := l.Generation()
				if *l.Get() != "x" || now < last {
					t.Error("value or generation went wrong")
				}
				last = now
			}
		})
		wg.Go(func() {
			for range 50 {
				if err := errors.Join(l.Reload(), l.Replace(text(path)), l.Err()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := l.Generation(); got != 401 {
		t.Errorf("generation %d, want 401", got)
	}
}
