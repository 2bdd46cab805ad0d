// SPDX-License-Identifier: BSD-3-Clause

package certs

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// A Live holds a value that is built from files, and replaces it when they
// change. Readers see either the old value or the new one, never a mixture and
// never the product of a failed build. All methods may be called at the same
// time.
type Live[T any] struct {
	current atomic.Pointer[generation[T]]

	mu      sync.Mutex // one build at a time; readers do not take it
	build   func(*Files) (*T, error)
	watched *Files // of the latest build, successful or not
	failure error  // of the latest build
}

// A generation keeps value and number in one pointer, so that they are swapped
// in one step.
type generation[T any] struct {
	value *T
	n     uint64
}

// NewLive builds the first value. The error is that of build.
//
// The function build is called again at every reload. It opens every file
// through the [Files] that it is given, so that it is known which to watch, and
// it must not call methods of this Live other than Get and Generation.
func NewLive[T any](build func(*Files) (*T, error)) (*Live[T], error) {
	l := &Live[T]{build: build}
	if err := l.Reload(); err != nil {
		return nil, err
	}
	return l, nil
}

// Get returns the value in use. It is one atomic load. The caller uses one
// result throughout one handshake, and does not change it.
func (l *Live[T]) Get() *T { return l.current.Load().value }

// Generation returns the number of values so far: 1 for the first, and one more
// with each that replaced another.
func (l *Live[T]) Generation() uint64 { return l.current.Load().n }

// Err returns the failure of the latest reload, or nil if the value in use is
// what the files say. It knows nothing of a refused Replace.
func (l *Live[T]) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failure
}

// Reload builds a value from the files as they are now and puts it in use. If
// that fails, the value in use stays.
func (l *Live[T]) Reload() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.reload()
}

// Replace adopts build, that of a new configuration, together with the value
// that it returns. If it fails, nothing changes: the former build function and
// its value stay in use, and its files stay watched.
func (l *Live[T]) Replace(build func(*Files) (*T, error)) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	files := new(Files)
	value, err := construct(build, files)
	if err != nil {
		return err
	}
	l.build = build
	l.adopt(value, files)
	return nil
}

// Watch looks every interval whether files of the latest build have changed and
// reloads if so, until ctx ends, which is no error. The interval must be
// positive. After a build that failed, the files which that build consulted are
// the ones to look at: the one that was at fault is among them.
//
// Report is called, by this goroutine, with nil after each reload that put a new
// value in use, and with the error of one that failed, unless the one before
// failed with the same words.
func (l *Live[T]) Watch(ctx context.Context, every time.Duration, report func(error)) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if news, err := l.look(); news {
			report(err)
		}
	}
}

// look reports whether it has something to report.
func (l *Live[T]) look() (news bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.watched.Changed() {
		return false, nil
	}
	before := l.failure
	if err := l.reload(); err != nil {
		return before == nil || before.Error() != err.Error(), err
	}
	return true, nil
}

// reload is called with mu held.
func (l *Live[T]) reload() error {
	files := new(Files)
	value, err := construct(l.build, files)
	if err != nil {
		l.watched, l.failure = files, err
		return err
	}
	l.adopt(value, files)
	return nil
}

// adopt is called with mu held, hence no other goroutine stores.
func (l *Live[T]) adopt(value *T, files *Files) {
	next := &generation[T]{value: value, n: 1}
	if old := l.current.Load(); old != nil {
		next.n = old.n + 1
	}
	l.watched, l.failure = files, nil
	l.current.Store(next)
}

func construct[T any](build func(*Files) (*T, error), files *Files) (*T, error) {
	value, err := build(files)
	if err == nil && value == nil {
		err = errors.New("internal error: build returned neither a value nor an error")
	}
	return value, err
}
