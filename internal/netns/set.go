// SPDX-License-Identifier: BSD-3-Clause

//go:build linux

package netns

import (
	"cmp"
	"slices"
	"sync"
)

// A Set is the namespaces that a daemon serves, by their cookies: its own, and
// those that were added. A nil Set takes every namespace for its own, as a daemon
// that has only one does.
type Set struct {
	own uint64
	mu  sync.RWMutex
	all map[uint64]*Namespace // guarded by mu
}

// NewSet returns a Set with the calling thread's own namespace.
func NewSet() (*Set, error) {
	own, err := Own()
	if err != nil {
		return nil, err
	}
	return &Set{own: own, all: make(map[uint64]*Namespace)}, nil
}

// Add adds one, which must stay open until it is removed.
func (s *Set) Add(n *Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[n.cookie] = n
}

// Remove removes one.
func (s *Set) Remove(n *Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, n.cookie)
}

// Others returns all but the own, by name.
func (s *Set) Others() (list []*Namespace) {
	if s == nil {
		return nil
	}
	s.mu.RLock()
	for _, n := range s.all {
		list = append(list, n)
	}
	s.mu.RUnlock()
	slices.SortFunc(list, func(a, b *Namespace) int { return cmp.Compare(a.String(), b.String()) })
	return list
}

// Find returns the namespace with a cookie: nil for the own, to which 0 belongs,
// and [ErrGone] for one that is not served.
func (s *Set) Find(cookie uint64) (*Namespace, error) {
	if s == nil || cookie == 0 || cookie == s.own {
		return nil, nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if n := s.all[cookie]; n != nil {
		return n, nil
	}
	return nil, ErrGone
}

// Key returns the cookie by which others than the own are known; the own is 0.
func (s *Set) Key(cookie uint64) uint64 {
	if s == nil || cookie == s.own {
		return 0
	}
	return cookie
}

// Paths returns the names of the namespace with a cookie; none for the own, and
// [ErrGone] for one that is not served.
func (s *Set) Paths(cookie uint64) ([]string, error) {
	n, err := s.Find(cookie)
	if n == nil || err != nil {
		return nil, err
	}
	return n.Paths(), nil
}

// Name is the first of them; empty for the own, and for one that is not served.
func (s *Set) Name(cookie uint64) string {
	if n, err := s.Find(cookie); n != nil && err == nil {
		return n.String()
	}
	return ""
}

// Do calls f in the namespace with a cookie, the own without further ado.
func (s *Set) Do(cookie uint64, f func() error) error {
	n, err := s.Find(cookie)
	switch {
	case err != nil:
		return err
	case n == nil:
		return f()
	}
	return n.Do(f)
}
